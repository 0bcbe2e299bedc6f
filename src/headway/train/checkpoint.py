"""Checkpoints: one safetensors file that holds all a run needs to go on as if nothing had happened.

Tensors are the weights and the optimizer's state; the rest is JSON in the file's metadata, with a SHA-256 over all
of it. Random numbers are not kept: each step draws its own, from its number. Nothing is unpickled.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from headway.core.errors import FormatError
from headway.core.files import write_atomic

NAME = "checkpoint.safetensors"
_FORMAT = "headway-checkpoint-1"


@dataclass(frozen=True)
class Checkpoint:
    """What was read.

    Attributes:
        run: digest of the run that wrote it.
        state: the loop's own state, as JSON has it.
        tensors: by name: `model.*`, `optimizer.N.*`.
    """

    run: str
    state: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    def restore(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put tensors back where `write` found them; `state` is the caller's."""
        model.load_state_dict(_under("model.", self.tensors))
        _restore_optimizer(optimizer, self.tensors)


def write(
    folder: Path,
    run: str,
    state: Mapping[str, Any],
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    """Write a checkpoint in place of the last one; a reader sees the old or the new.

    Raises:
        StorageError: no space, or not writable; the last checkpoint is intact.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= optimizer_state(optimizer)
    # Copies: safetensors refuses tensors that share memory or are not contiguous (tied weights, channels_last).
    tensors = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    text = json.dumps({**state, "scaler": scaler.state_dict()})
    about = {"format": _FORMAT, "run": run, "state": text, "sha256": _digest(run, text, tensors)}
    write_atomic(folder / NAME, save(tensors, about))


def read(folder: Path) -> Checkpoint | None:
    """The checkpoint in `folder`, or None where there is none.

    Raises:
        FormatError: it is damaged, or written by something else.
    """
    for half_written in folder.glob(f".{NAME}.*"):  # by a process that was killed
        half_written.unlink(missing_ok=True)
    path = folder / NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
    except (SafetensorError, OSError) as error:
        raise FormatError(f"damaged checkpoint: {error}", where=str(path)) from error
    if about.get("format") != _FORMAT:
        raise FormatError("not a checkpoint of this version", where=str(path))
    if about["sha256"] != _digest(about["run"], about["state"], tensors):
        raise FormatError("damaged checkpoint: its content does not match its SHA-256", where=str(path))
    return Checkpoint(about["run"], json.loads(about["state"]), tensors)


def state_digest(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        total.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        total.update(value.flatten().view(torch.uint8).numpy().data if value.numel() else b"")
    return total.hexdigest()


def _digest(run: str, text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    return hashlib.sha256(f"{run}\0{text}\0{state_digest(tensors)}".encode()).hexdigest()


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Its tensors: `optimizer.N.*`, N being the parameter's place."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{name}": value
        for index, values in state.items()
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in _under("optimizer.", tensors).items():
        index, _, key = name.partition(".")
        parameter = parameters[int(index)]
        if value.shape == parameter.shape and value.dim() > 0:
            # As the parameter lies in memory: another layout takes another kernel, and rounds differently.
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def empty_optimizer_state(
    optimizer: torch.optim.Optimizer, shapes: Mapping[str, tuple[torch.Size, torch.dtype]]
) -> dict[int, dict[str, torch.Tensor]]:
    """Tensors to fill, for each `optimizer.N.*` among `shapes`; those of a parameter's shape lie as it does."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, (shape, dtype) in shapes.items():
        kind, _, place = name.partition(".")
        if kind == "optimizer":
            index, _, key = place.partition(".")
            parameter = parameters[int(index)].detach()
            alike = shape == parameter.shape and len(shape) > 0
            state.setdefault(int(index), {})[key] = (
                torch.empty_like(parameter, dtype=dtype) if alike else torch.empty(shape, dtype=dtype)
            )
    return state
