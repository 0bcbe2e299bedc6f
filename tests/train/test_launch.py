"""Real processes, started by torchrun's agent, really killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from headway.core.progress import SILENT
from headway.runs.read import find
from headway.shipping.train import work

Together = Callable[..., list[Any]]

# Two processes; the second one kills itself in its tenth batch, once.
_TASK = """
import os, signal
from pathlib import Path
import numpy as np
import torch
from headway.tasks import Task, split

HERE = Path(__file__).parent
seen = 0

def net():
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 2))

def task(kill=0, fail=0):
    values = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)

    def augment(inputs):
        global seen
        seen += 1
        if seen == kill and os.environ.get("RANK") == "1" and not (HERE / "killed").exists():
            (HERE / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if seen == fail and os.environ.get("RANK") == "1":
            raise ValueError("the file of row 7 is damaged")
        return {"x": inputs["x"] + 0.1 * torch.randn(inputs["x"].shape)}

    return Task(parts=split({"x": values}, (values.sum(1) > 0).astype(np.int64)), model=net, augment=augment)
"""
_RECIPE = """
name: tiny
task: {use: "tiny_task.py:task"}
train: {epochs: 4, batch_size: 20, threads: 1, device: cpu, precision: fp32, checkpoint_seconds: 1.0e-9}
"""


@pytest.fixture
def project(tmp_path: Path, home: Path) -> Path:
    (tmp_path / "tiny_task.py").write_text(_TASK)
    (tmp_path / "tiny.yaml").write_text(_RECIPE)
    return tmp_path


def _command(project: Path, *arguments: str, start: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *start, "headway", "train", "tiny.yaml", *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def _undisturbed(project: Path) -> None:
    """What two processes come to that nobody kills."""
    os.chdir(project)
    work(Path("tiny.yaml"), out=project / "whole.safetensors", checkpoints=None, overrides=(), progress=SILENT)


@pytest.mark.slow
def test_a_killed_process_is_started_again_and_the_run_ends_as_if_it_had_not_been(
    together: Together, project: Path
) -> None:
    together(2, _undisturbed, project)
    ran = _command(project, "--nproc", "2", "--set", "task.args.kill=10", "--json")
    assert ran.returncode == 0, ran.stderr
    assert (project / "killed").exists()
    assert "process 1 was ended by SIGKILL; started again" in ran.stderr
    resumed = int(ran.stderr.partition("going on from step ")[2].split()[0])
    assert 7 <= resumed <= 9  # what was being written when the process died is lost
    record = find("last")
    assert record.record.status == "finished"
    assert record.record.continues is None
    assert record.curves()["loss"][0] == list(range(1, 25))  # steps that were taken twice stand there once
    assert len(record.curves()["epoch_loss"][0]) == 4
    whole, killed = load_file(project / "whole.safetensors"), load_file(project / "tiny.safetensors")
    assert all(np.array_equal(killed[name], value) for name, value in whole.items())


@pytest.mark.slow
def test_plain_torchrun_does_the_same(together: Together, project: Path) -> None:
    together(2, _undisturbed, project)
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1", "-m")
    ran = _command(project, "--set", "task.args.kill=10", start=torchrun)
    assert ran.returncode == 0, ran.stderr
    assert (project / "killed").exists()
    assert "going on from step" in ran.stderr
    whole, killed = load_file(project / "whole.safetensors"), load_file(project / "tiny.safetensors")
    assert all(np.array_equal(killed[name], value) for name, value in whole.items())


@pytest.mark.slow
def test_what_one_process_finds_wrong_is_said_once_and_not_tried_again(project: Path) -> None:
    ran = _command(project, "--nproc", "2", "--set", "task.args.fail=3")
    assert ran.returncode == 2
    assert ran.stderr.count("augment raised ValueError: the file of row 7 is damaged") == 1
    assert "tiny_task.py:" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "started again" not in ran.stderr
    assert not (project / "tiny.safetensors").exists()


@pytest.mark.slow
def test_sigterm_saves_and_stops_and_the_same_command_goes_on(project: Path) -> None:
    command = [sys.executable, "-m", "headway", "train", "tiny.yaml", "--nproc", "2", "--set", "train.epochs=100000"]
    with subprocess.Popen(command, cwd=project, stderr=subprocess.PIPE, text=True) as run:
        folder = project / "home" / "cache" / "ship" / "train"
        while run.poll() is None and not list(folder.glob("*.work/step-*/checkpoint.json")):
            pass_time()
        run.send_signal(signal.SIGTERM)
        assert run.stderr is not None
        said = run.stderr.read()
    assert run.returncode == 130, said
    assert "interrupted; what was saved is intact" in said
    assert list(folder.glob("*.work/step-*/checkpoint.json"))


def pass_time() -> None:
    """Files cannot be awaited; what is waited for is the file, and this only spares the processor."""
    import threading

    threading.Event().wait(0.05)
