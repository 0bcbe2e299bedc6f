"""From the text of a recipe's `task.use` to a `Task`: finds the user's function, calls it and says what went wrong."""

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from headway.core.config import unknown_key
from headway.core.errors import HeadwayError, MissingDependencyError, TaskError
from headway.core.plugins import missing
from headway.tasks import files
from headway.tasks.factory import user_error, user_frame
from headway.tasks.source import digest_source
from headway.tasks.task import Arguments, Task

_FORM = "Write package.module:function or path/to/file.py:function."
_OURS = {"torch", "onnx", "sklearn", "safetensors", "torch_pruning", "matplotlib"}  # what headway[ship] installs


def load_task(use: str, arguments: Arguments, base: Path) -> Task:
    """Import the user's code, call the function that `use` names, and return its task.

    The folder of the file, or `base` for a module, joins `sys.path`, at the end: the user's code may import its
    neighbours, now and later.

    Args:
        use: `package.module:function`, or `path/to/file.py:function` with the path relative to `base`.
        arguments: passed by name.
        base: the recipe's folder.

    Raises:
        TaskError: there is no such module, file or function; the arguments do not fit; the user's code raises; or it
            returns something else than a `Task`.
        MissingDependencyError: the user's code imports what is not installed.
    """
    call = load_function(use, base)
    _fit_arguments(call, arguments, use)
    try:
        task = call(**arguments)
    except HeadwayError:
        raise
    except ModuleNotFoundError as error:
        raise _not_installed(error, use) from error
    except (Exception, SystemExit) as error:
        raise user_error(f"the task {use}", error) from error
    if not isinstance(task, Task):
        raise TaskError(
            f"returned {type(task).__name__}, not a Task", where=use, remedy="Return headway.tasks.Task(...)."
        )
    return task


def load_function(use: str, base: Path) -> Callable[..., Any]:
    """Import the user's code and return the function that `use` names; see `load_task`, which raises the same."""
    target, function = _parse(use)
    module = _import_file(_file(target, base, use)) if target.endswith(".py") else _import_module(target, base, use)
    call: Callable[..., Any] | None = getattr(module, function, None)
    if not callable(call):
        found = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise TaskError(f"no function {function!r} in {target}{_near(function, found)}", where=use)
    return call


def source_digest(use: str, base: Path) -> str:
    """SHA-256 of the source that defines the task; see `digest_source`. The task's own code is not run.

    Raises:
        TaskError: there is no such module or file.
    """
    target, _ = _parse(use)
    if target.endswith(".py"):
        return digest_source(_file(target, base, use), None)
    origin = _spec(target, base, use).origin
    if origin is None or not origin.endswith(".py"):
        raise TaskError(f"module {target} has no Python source", where=use)
    return digest_source(Path(origin), target)


def _parse(use: str) -> tuple[str, str]:
    target, colon, function = use.rpartition(":")
    if not colon or not target or not function.isidentifier():
        raise TaskError("does not name a function", where=use or "task.use", remedy=_FORM)
    if not target.endswith(".py") and not all(part.isidentifier() for part in target.split(".")):
        raise TaskError(f"{target!r} is neither a module nor a .py file", where=use, remedy=_FORM)
    return target, function


def _file(target: str, base: Path, use: str) -> Path:
    path = (base / Path(target).expanduser()).resolve()
    if not path.is_file():
        beside = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise TaskError(f"no such file: {path}{_near(path.name, beside)}", where=use)
    return path


def _import_file(path: Path) -> ModuleType:
    name = files.module_name(path)
    _join_path(path.parent)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        loaded = sys.modules.get(name)
        if loaded is not None and getattr(loaded, "__headway_source__", "") != digest:
            del sys.modules[name]  # the file was edited since
        module = importlib.import_module(name)
    except HeadwayError:
        raise
    except ModuleNotFoundError as error:
        raise _not_installed(error, str(path)) from error
    except SyntaxError as error:
        raise TaskError(f"not valid Python: {error.msg}", where=f"{error.filename}:{error.lineno}") from error
    except (Exception, SystemExit) as error:
        raise user_error(f"importing {path.name}", error) from error
    module.__dict__["__headway_source__"] = digest
    return module


def _import_module(target: str, base: Path, use: str) -> ModuleType:
    _spec(target, base, use)
    try:
        return importlib.import_module(target)
    except HeadwayError:
        raise
    except ModuleNotFoundError as error:
        raise _not_installed(error, use) from error
    except SyntaxError as error:
        raise TaskError(f"not valid Python: {error.msg}", where=f"{error.filename}:{error.lineno}") from error
    except (Exception, SystemExit) as error:
        raise user_error(f"importing {target}", error) from error


def _spec(target: str, base: Path, use: str) -> ModuleSpec:
    """Where a module lies; its parent packages are imported on the way."""
    _join_path(base.resolve())
    importlib.invalidate_caches()
    place: Iterable[str] | None = None  # None: sys.path
    names = target.split(".")
    spec: ModuleSpec | None = None
    for depth in range(1, len(names) + 1):
        name = ".".join(names[:depth])
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError as error:
            raise _not_installed(error, use) from error
        except (Exception, SystemExit) as error:
            raise user_error(f"importing {'.'.join(names[: depth - 1])}", error) from error
        if spec is None or (depth < len(names) and spec.submodule_search_locations is None):
            beside = [found.name for found in pkgutil.iter_modules(place)]
            raise TaskError(f"no module {name!r}{_near(names[depth - 1], beside)}", where=use)
        place = spec.submodule_search_locations
    assert spec is not None  # noqa: S101  (a module's name has at least one part)
    return spec


def _join_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _fit_arguments(call: Callable[..., Any], arguments: Arguments, use: str) -> None:
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):
        return  # a builtin tells nothing of itself; calling it will
    try:
        signature.bind(**arguments)
    except TypeError as error:
        named = {n for n, p in signature.parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        wrong = [name for name in arguments if name not in named]
        text = unknown_key(wrong[0], named).replace("key", "argument") if wrong else str(error)
        raise TaskError(text, where=use, remedy=f"It takes {signature}.") from error


def _not_installed(error: ModuleNotFoundError, use: str) -> MissingDependencyError:
    name = (error.name or "").partition(".")[0]
    where = user_frame(error) or use
    if name in _OURS:
        return missing(name, needed_by=where)
    return MissingDependencyError(
        f"imports {error.name!r}, which is not there", where=where, remedy="Install it, or correct the import."
    )


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
