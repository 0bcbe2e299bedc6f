"""Weights in safetensors files: tensors and nothing else, so that opening a file runs no code."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from headway.core.errors import FormatError, WeightsError
from headway.core.files import write_atomic

_SHOWN = 3  # keys that a message names


def save_weights(module: torch.nn.Module, path: Path) -> None:
    """Write the module's parameters and buffers to `path`, whole or not at all.

    A tensor that stands under several names (tied weights) is written once.

    Raises:
        WeightsError: a tensor holds NaN or infinity.
        StorageError: no space, or not writable.
    """
    save_state(module.state_dict(), path)


def save_state(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors by name; see `save_weights`."""
    _refuse_not_finite(state, str(path))
    first = _first_names(state)
    # Copies, each contiguous and alone in its memory: safetensors stores nothing else.
    tensors = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in state.items()
        if first[name] == name
    }
    write_atomic(path, save(tensors, {"format": "pt"}))


def load_weights(module: torch.nn.Module, path: Path) -> None:
    """Fill the module's parameters and buffers from `path`; on an error the module is as it was.

    A name that the file lacks is no error where the module ties it to one that the file has.

    Raises:
        WeightsError: there is no such file; names or shapes differ, the first of each being named; NaN or infinity.
        FormatError: the file is damaged, or no safetensors file.
    """
    state = read_state(path)
    own = module.state_dict()
    first = _first_names(own)
    given = {first[name] for name in state if name in first}
    missing = [name for name in own if name not in state and first[name] not in given]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} is {list(state[name].shape)} in the file and {list(own[name].shape)} in the model"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    found = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
    if differences := [f"{what}: {_some(names)}" for what, names in found if names]:
        raise WeightsError(
            f"the weights do not fit the model; {'; '.join(differences)}",
            where=str(path),
            remedy="Check that the task's model is the one these weights were trained in.",
        )
    _refuse_not_finite(state, str(path))
    module.load_state_dict(state, strict=False)


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, by name, on the CPU.

    Raises:
        WeightsError: there is no such file.
        FormatError: the file is damaged, or no safetensors file; a pickled checkpoint is told how to convert.
    """
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (SafetensorError, KeyError) as error:  # KeyError: a datatype that torch lacks
        if is_pickle(path):
            raise FormatError(
                "a pickled checkpoint, which can run code when it is opened; Headway reads only safetensors",
                where=str(path),
                remedy=f"Convert it with: headway convert {path}",
            ) from error
        raise FormatError(
            f"not a safetensors file, or a damaged one: {error}",
            where=str(path),
            remedy="If it was copied, copy it again.",
        ) from error


def is_pickle(path: Path) -> bool:
    """Whether a file is what `torch.save` writes: a zip archive (since torch 1.6), or a bare pickle."""
    with path.open("rb") as file:
        begin = file.read(2)
    return (begin[:1] == b"\x80" and begin[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")) or zipfile.is_zipfile(path)


def _first_names(state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """For each name, the first name of the same tensor: itself, unless the tensor is tied."""
    seen: dict[tuple[object, ...], str] = {}
    return {
        name: seen.setdefault((value.data_ptr(), value.dtype, value.shape, value.stride()), name)
        if value.numel()
        else name
        for name, value in state.items()
    }


def _refuse_not_finite(state: Mapping[str, torch.Tensor], where: str) -> None:
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise WeightsError(f"tensor {name!r} holds NaN or infinity", where=where)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
