"""Checkpoints of several processes, through torch's DCP: each writes its own shards, and any number of them reads.

A checkpoint is a fresh folder `step-N` of safetensors files, and `checkpoint.json`, which is written last: a folder
without it was never finished. Tensors are called as in the single file of one process (`checkpoint.py`), which DCP
reads as well; so a run may go on with more processes or fewer. Nothing is unpickled.
"""

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from headway.core.errors import FormatError, StorageError, storage_errors
from headway.core.files import digest_file, make_folder, write_atomic
from headway.train import checkpoint
from headway.train.world import World

MARKER = "checkpoint.json"


@dataclass(frozen=True)
class Found:
    """A sound checkpoint.

    Attributes:
        path: the folder with its tensors.
        run: digest of the run that wrote it.
        state: the loop's own.
    """

    path: Path
    run: str
    state: dict[str, Any]

    def restore(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Fill the tensors, each process its own shards."""
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
        from torch.distributed.checkpoint.state_dict_loader import load

        reader = HuggingFaceStorageReader(str(self.path))
        state = checkpoint.empty_optimizer_state(optimizer, _shapes(reader))
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        tensors |= {f"optimizer.{i}.{name}": value for i, values in state.items() for name, value in values.items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process reads alone
            load(tensors, storage_reader=reader, no_dist=not dist.is_initialized())
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def find(folder: Path, run: str, world: World, say: Callable[[str], None]) -> Found | None:
    """The newest sound checkpoint of `run`; the first process looks, and clears away what nobody can use."""
    told: list[Found | None] = [_look(folder, run, say) if world.rank == 0 else None]
    if world.size > 1:
        dist.broadcast_object_list(told)
    return told[0]


class Writer:
    """Writes checkpoints beside the steps, one at a time.

    Args:
        keep: how many stay; older ones go once a newer one is whole.
    """

    def __init__(self, folder: Path, run: str, world: World, keep: int) -> None:
        self._folder, self._run, self._world, self._keep = folder, run, world, keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ThreadPoolExecutor-checkpoint")
        self._under_way: Future[None] | None = None

    def start(
        self,
        step: int,
        state: Mapping[str, Any],
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Copy everything and write it in the background, once the last one is written.

        Raises:
            StorageError: the last one could not be written; those before it are intact.
        """
        self.wait()
        about = {"run": self._run, "state": state}
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        tensors |= checkpoint.optimizer_state(optimizer)
        copies = {name: _copy(value) for name, value in tensors.items()}
        self._under_way = self._thread.submit(self._write, self._folder / f"step-{step}", about, copies)

    def wait(self) -> None:
        """Until what was begun is on the disk.

        Raises:
            StorageError: it could not be written; the checkpoints before it are intact.
        """
        pending, self._under_way = self._under_way, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """End the thread, without waiting for what it does: another process may be gone."""
        self._thread.shutdown(wait=False)

    def _write(self, path: Path, about: Mapping[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        from torch.distributed.checkpoint.api import CheckpointException
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
        from torch.distributed.checkpoint.state_dict_saver import save

        try:
            with storage_errors(creating=True):
                writer = HuggingFaceStorageWriter(str(path), save_distributed=True)
                save(tensors, storage_writer=writer, process_group=self._world.files)
        except CheckpointException as error:
            first = next(iter(error.failures.values()))[0]
            if self._world.rank == 0:
                shutil.rmtree(path, ignore_errors=True)
            raise StorageError(
                f"the checkpoint could not be written: {first}",
                where=str(path),
                remedy="Free space or choose another folder; the checkpoints before it are intact.",
            ) from error
        if self._world.rank == 0:
            digests = {file.name: digest_file(file) for file in path.glob("*.safetensors")}
            write_atomic(path / MARKER, json.dumps({**about, "sha256": digests}))
            (self._folder / checkpoint.NAME).unlink(missing_ok=True)  # of one process, and older
            for old in _folders(self._folder)[self._keep :]:
                shutil.rmtree(old, ignore_errors=True)


def present(folder: Path) -> bool:
    """Whether several processes have left a checkpoint there."""
    return bool(_folders(folder))


def clear(folder: Path) -> None:
    """Remove every `step-N`: a newer checkpoint of one process has taken their place."""
    for path in _folders(folder):
        shutil.rmtree(path, ignore_errors=True)


def _look(folder: Path, run: str, say: Callable[[str], None]) -> Found | None:
    make_folder(folder)
    for path in _folders(folder):
        try:
            found = _read(path)
        except FormatError as error:
            say(f"{error}; passed over")
        else:
            if found.run == run:
                return found
            say(f"{path}: of another run; passed over")
        shutil.rmtree(path, ignore_errors=True)  # so that a folder of this name is fresh
    return _single(folder, run, say)


def _read(path: Path) -> Found:
    try:
        about = json.loads((path / MARKER).read_text(encoding="utf-8"))
        digests = {file.name: digest_file(file) for file in path.glob("*.safetensors")}
    except FileNotFoundError as error:
        raise FormatError("half-written checkpoint", where=str(path)) from error
    except (OSError, ValueError) as error:
        raise FormatError(f"damaged checkpoint: {error}", where=str(path)) from error
    if digests != about.get("sha256"):
        raise FormatError("damaged checkpoint: its files do not match their SHA-256", where=str(path))
    return Found(path, about["run"], about["state"])


def _single(folder: Path, run: str, say: Callable[[str], None]) -> Found | None:
    """The checkpoint that one process alone has left."""
    try:
        found = checkpoint.read(folder)
    except FormatError as error:
        say(f"{error}; passed over")
        return None
    if found is None or found.run != run:
        return None
    return Found(folder, found.run, found.state)


def _folders(folder: Path) -> list[Path]:
    """Newest first."""
    found = [path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def _copy(value: torch.Tensor) -> torch.Tensor:
    """On the CPU, alone in its memory: training goes on while it is written."""
    return value.detach().to("cpu", copy=True).contiguous()


def _shapes(reader: Any) -> dict[str, tuple[torch.Size, torch.dtype]]:
    found = reader.read_metadata().state_dict_metadata
    return {name: (about.size, about.properties.dtype) for name, about in found.items()}
