"""From `task.use` to a task, and every way in which that goes wrong."""

import multiprocessing
import pickle
import sys
from pathlib import Path

import pytest

from headway.core.errors import DataError, MissingDependencyError, TaskError
from headway.tasks import Task
from headway.tasks.factory import build_model
from headway.tasks.loading import load_task, source_digest

_TASK = """
import numpy as np
from headway.tasks import Task, split

def net():
    import torch
    return torch.nn.Linear(3, 2)

def blobs(rows=40, seed=0):
    values = np.random.default_rng(seed).normal(size=(rows, 3)).astype(np.float32)
    return Task(parts=split(values, (values[:, 0] > 0).astype(np.int64)), model=net)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "task.py").write_text(_TASK)
    return tmp_path


def test_a_file_beside_the_recipe(folder: Path) -> None:
    task = load_task("task.py:blobs", {"rows": 100}, folder)
    assert isinstance(task, Task)
    assert len(task.parts.train) == 60
    assert not (folder / "__pycache__").exists()


def test_a_module_beside_the_recipe_and_one_of_ours(folder: Path) -> None:
    (folder / "user_package").mkdir()
    (folder / "user_package" / "__init__.py").touch()
    (folder / "user_package" / "tasks.py").write_text(_TASK)
    assert len(load_task("user_package.tasks:blobs", {}, folder).parts.train) == 24
    assert len(load_task("headway.tasks.images:digits", {"width": 2}, folder).labels) == 10


def test_two_files_of_the_same_name_do_not_collide(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    (other / "task.py").write_text(_TASK.replace("rows=40", "rows=80"))
    assert len(load_task("task.py:blobs", {}, folder).parts.train) == 24
    assert len(load_task("other/task.py:blobs", {}, folder).parts.train) == 48
    assert len(load_task("task.py:blobs", {}, folder).parts.train) == 24


def test_an_edited_file_is_read_again_and_an_unchanged_one_is_not(folder: Path) -> None:
    first = load_task("task.py:blobs", {}, folder)
    assert load_task("task.py:blobs", {}, folder).model is first.model
    (folder / "task.py").write_text(_TASK.replace("rows=40", "rows=80"))
    assert len(load_task("task.py:blobs", {}, folder).parts.train) == 48


def test_a_file_may_import_its_neighbours(folder: Path) -> None:
    (folder / "user_sizes.py").write_text("ROWS = 20")
    (folder / "task.py").write_text(f"from user_sizes import ROWS\n{_TASK}".replace("rows=40", "rows=ROWS"))
    assert len(load_task("task.py:blobs", {}, folder).parts.train) == 12


def _parameters(model: object) -> int:
    return sum(parameter.numel() for parameter in model().parameters())  # type: ignore[operator]


def test_a_spawned_process_finds_the_file_again(folder: Path) -> None:
    task = load_task("task.py:blobs", {}, folder)
    assert pickle.loads(pickle.dumps(task.model)) is task.model  # noqa: S301  (our own bytes)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_send_parameters, args=(task.model, theirs))
    child.start()
    try:
        assert ours.poll(60)
        assert ours.recv() == 8
    finally:
        child.join(60)
        child.close()
        ours.close()
        theirs.close()


def _send_parameters(model: object, pipe: object) -> None:
    pipe.send(_parameters(model))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("task.py", "does not name a function"),
        (":blobs", "does not name a function"),
        ("task.py:", "does not name a function"),
        ("no module:blobs", "neither a module nor a .py file"),
        ("taks.py:blobs", r"no such file: .*taks\.py; did you mean 'task\.py'\?"),
        ("nowhere/task.py:blobs", r"no such file: .*nowhere.task\.py"),
        ("task.py:blob", "no function 'blob' in task.py; did you mean 'blobs'?"),
        ("headway.tasks.image:digits", r"no module 'headway\.tasks\.image'; did you mean 'images'\?"),
        ("headway.task.images:digits", r"no module 'headway\.task'; did you mean 'tasks'\?"),
        ("headwy.tasks.images:digits", r"no module 'headwy'; did you mean 'headway'\?"),
        ("headway.tasks.images.more:digits", r"no module 'headway\.tasks\.images'|images\.more"),
        ("headway.tasks.images:digit", r"no function 'digit' in headway\.tasks\.images; did you mean 'digits'\?"),
    ],
)
def test_what_is_not_there_is_named_with_the_nearest(folder: Path, use: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        load_task(use, {}, folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"row": 3}, "unknown argument 'row'; did you mean 'rows'?"),
        ({"zzz": 3}, "unknown argument 'zzz'; known arguments: rows, seed"),
    ],
)
def test_wrong_arguments_are_named(folder: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(TaskError) as caught:
        load_task("task.py:blobs", arguments, folder)
    assert caught.value.message == message
    assert caught.value.remedy == "It takes (rows=40, seed=0)."


def test_an_argument_without_a_value_is_named(folder: Path) -> None:
    (folder / "task.py").write_text("def make(path): ...")
    with pytest.raises(TaskError, match="missing a required argument: 'path'"):
        load_task("task.py:make", {}, folder)


@pytest.mark.parametrize(
    ("source", "line", "message"),
    [
        ("def make():\n    x = 1\n    return x / 0\n", 3, "raised ZeroDivisionError: division by zero"),
        ("import json\ndef make():\n    return json.loads('{')\n", 3, "raised JSONDecodeError: Expecting"),
        ("x = 1\nraise ValueError('top')\n", 2, "importing task.py raised ValueError: top"),
        ("import sys\nsys.exit('bye')\n", 2, "raised SystemExit: bye"),
        ("def make(:\n", 1, "not valid Python"),
    ],
)
def test_what_the_users_code_raises_is_placed(folder: Path, source: str, line: int, message: str) -> None:
    (folder / "task.py").write_text(source)
    with pytest.raises(TaskError, match=message) as caught:
        load_task("task.py:make", {}, folder)
    assert caught.value.where == f"{folder / 'task.py'}:{line}"
    assert caught.value.__cause__ is not None


def test_errors_of_ours_pass_through(folder: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        load_task("headway.tasks.images:fashion_mnist", {"folder": str(folder / "none")}, folder)


def test_what_is_not_a_task_is_refused(folder: Path) -> None:
    (folder / "task.py").write_text("def make():\n    return {}\n")
    with pytest.raises(TaskError, match="returned dict, not a Task"):
        load_task("task.py:make", {}, folder)


@pytest.mark.parametrize("source", ["import user_missing\n", "def make():\n    import user_missing\n"])
def test_a_package_that_is_not_there_is_the_environments_fault(folder: Path, source: str) -> None:
    (folder / "task.py").write_text(source)
    with pytest.raises(MissingDependencyError, match="imports 'user_missing'") as caught:
        load_task("task.py:make", {}, folder)
    assert caught.value.where is not None
    assert caught.value.where.startswith(str(folder / "task.py"))


def test_the_digest_follows_the_files_own_imports(folder: Path) -> None:
    (folder / "task.py").write_text("import user_a\ndef make():\n    from user_pkg.b import x\n")
    (folder / "user_a.py").write_text("1")
    (folder / "user_pkg").mkdir()
    (folder / "user_pkg" / "__init__.py").touch()
    (folder / "user_pkg" / "b.py").write_text("from . import c\nx = 1")
    (folder / "user_pkg" / "c.py").write_text("1")
    (folder / "unrelated.py").write_text("1")
    seen = [source_digest("task.py:make", folder)]
    for name in ("task.py", "user_a.py", "user_pkg/__init__.py", "user_pkg/b.py", "user_pkg/c.py"):
        (folder / name).write_text((folder / name).read_text() + "\n# edited")
        seen.append(source_digest("task.py:make", folder))
    assert len(set(seen)) == 6
    (folder / "unrelated.py").write_text("2")
    assert source_digest("task.py:make", folder) == seen[-1]
    assert "user_a" not in sys.modules


def test_the_digest_does_not_depend_on_where_the_folder_lies(folder: Path) -> None:
    (folder / "copy").mkdir()
    (folder / "copy" / "task.py").write_text(_TASK)
    assert source_digest("task.py:blobs", folder) == source_digest("copy/task.py:blobs", folder)


def test_the_digest_of_a_module_covers_its_package(folder: Path) -> None:
    package = folder / "user_project"
    (package / "tasks").mkdir(parents=True)
    for name in ("__init__.py", "tasks/__init__.py"):
        (package / name).touch()
    (package / "models.py").write_text("1")
    (package / "tasks" / "fraud.py").write_text("from ..models import net\nimport numpy\n")
    before = source_digest("user_project.tasks.fraud:make", folder)
    (package / "models.py").write_text("2")
    assert source_digest("user_project.tasks.fraud:make", folder) != before
    with pytest.raises(TaskError, match="did you mean 'fraud'"):
        source_digest("user_project.tasks.frud:make", folder)


def test_a_model_built_twice_from_a_seed_is_the_same(folder: Path) -> None:
    import torch

    task = load_task("task.py:blobs", {}, folder)
    torch.manual_seed(9)
    state = torch.get_rng_state()
    assert torch.equal(build_model(task, 1).weight, build_model(task, 1).weight)
    assert not torch.equal(build_model(task, 1).weight, build_model(task, 2).weight)
    assert torch.equal(torch.get_rng_state(), state)
