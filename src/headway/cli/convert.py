"""`headway convert`: a pickled checkpoint becomes a safetensors file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headway.cli.render import Json, emit, err, out
from headway.core.errors import FormatError, UsageError, WeightsError

if TYPE_CHECKING:
    import torch

_USUAL_KEYS = ("state_dict", "model", "model_state_dict")  # where training scripts put the weights
_WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before every name
_SAVE_STATE = "Where the model can be built, write its weights alone: torch.save(model.state_dict(), FILE)"


def convert(
    file: Annotated[Path, typer.Argument(help="What torch.save wrote: .pt, .pth or .bin.", show_default=False)],
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="The file to write.", show_default="FILE with the suffix .safetensors"),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="Where in the file the weights stand.", show_default="the file itself, state_dict or model"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is already there.")] = False,
    json: Json = False,
) -> None:
    """Convert a PyTorch checkpoint to safetensors, without running any code that it may hold."""
    target = out_file or file.with_suffix(".safetensors")
    if not file.is_file():
        raise UsageError("no such file", where=str(file), remedy="Check the path.")
    if target.exists() and not force:
        raise UsageError("is already there", where=str(target), remedy="Choose another --out, or add --force.")
    if target.exists() and target.samefile(file):
        raise UsageError("would be written over its own source", where=str(target), remedy="Choose another --out.")
    try:
        from headway.train.weights import save_state
    except ModuleNotFoundError as error:
        from headway.core.plugins import missing

        raise missing(error.name or "torch", needed_by="headway convert") from error
    state, prefix = _unwrap(_find(_load(file), key, file))
    try:
        save_state(state, target)
    except WeightsError as error:  # it names what was to be written, but the mistake lies in what was read
        raise WeightsError(error.message, where=str(file), remedy=error.remedy) from error
    size_mb = target.stat().st_size / 1e6
    if prefix:
        err().print(f"left out {prefix!r}, which stood before every name", markup=False)
    if json:
        emit({"file": str(target), "tensors": len(state), "size_mb": size_mb, "removed_prefix": prefix})
    else:
        out().print(f"{target}: {len(state)} tensors, {size_mb:.2f} MB", markup=False)


def _load(file: Path) -> Any:
    """What the file holds: torch's restricted unpickler builds tensors and plain containers, and refuses the rest."""
    import pickle  # for the name of its error alone

    import torch

    from headway.train.weights import is_pickle

    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not is_pickle(file):
            raise FormatError("not a file that torch.save wrote", where=str(file)) from error
        raise FormatError(
            "holds more than tensors (a whole model, or other Python objects), and opening it could run their code",
            where=str(file),
            remedy=f"{_SAVE_STATE}, and convert that.",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        first_line = str(error).partition("\n")[0]
        raise FormatError(f"damaged, or not a file that torch.save wrote: {first_line}", where=str(file)) from error


def _find(content: Any, key: str | None, file: Path) -> "dict[str, torch.Tensor]":
    """The mapping of names to tensors in a checkpoint."""
    if key is not None:
        if not isinstance(content, dict) or key not in content:
            raise FormatError(f"no key {key!r}{_keys(content)}", where=str(file))
        content = content[key]
        if not _is_state(content):
            raise FormatError(f"{key!r} is not a mapping of names to tensors{_keys(content)}", where=str(file))
        return dict(content)
    if _is_state(content):
        return dict(content)
    found = [name for name in _USUAL_KEYS if isinstance(content, dict) and _is_state(content.get(name))]
    if not found:
        raise FormatError(
            f"no mapping of names to tensors{_keys(content)}",
            where=str(file),
            remedy=f"Name the place with --key. {_SAVE_STATE}.",
        )
    return dict(content[found[0]])


def _is_state(value: object) -> bool:
    import torch

    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items())
    )


def _unwrap(state: "dict[str, torch.Tensor]") -> "tuple[dict[str, torch.Tensor], str]":
    """The tensors under the names that the bare model has, and the prefix that was taken off."""
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) and name != prefix for name in state):
            return {name.removeprefix(prefix): value for name, value in state.items()}, prefix
    return state, ""


def _keys(content: Any) -> str:
    if not isinstance(content, dict) or not content:
        return f"; the file holds {type(content).__name__}"
    names = [repr(name) for name in list(content)[:8]]
    return f"; it holds {', '.join(names)}{' and more' if len(content) > len(names) else ''}"
