"""Checkpoints of several processes: read by any number of them, and never a bad one."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.train.tiny import failing_save, stopped_blocks, told_blocks, trained_blocks

from headway.train import checkpoint
from headway.train.dcp import MARKER

Together = Callable[..., list[Any]]
_SGD: dict[str, object] = {"optimizer": "sgd", "epochs": 4}  # 16 steps
_SHARDS = {**_SGD, "parallel": {"shard": 2}}


def _run(together: Together, processes: int, work: Callable[..., Any], *arguments: Any) -> Any:
    return together(processes, work, *arguments)[0] if processes > 1 else work(*arguments)


@pytest.mark.parametrize(
    ("before", "first", "after", "then"),
    [
        (2, _SGD, 1, _SGD),
        (1, _SGD, 2, _SGD),
        (2, _SHARDS, 1, _SGD),
        (1, _SGD, 2, _SHARDS),
        (2, _SHARDS, 2, _SGD),
        (2, {**_SHARDS, "optimizer": "adamw"}, 1, {**_SGD, "optimizer": "adamw"}),
    ],
)
def test_a_stopped_run_goes_on_with_other_processes(
    together: Together, tmp_path: Path, before: int, first: dict[str, object], after: int, then: dict[str, object]
) -> None:
    expected, whole = trained_blocks(then if after == 1 else {**then, "parallel": {}})
    assert _run(together, before, stopped_blocks, first, tmp_path, 6) == 130
    state, result = _run(together, after, trained_blocks, then, tmp_path)
    assert result.resumed in (6, 7)  # a signal that comes while processes agree is seen after the next step
    for name, value in expected.items():
        np.testing.assert_allclose(state[name], value, atol=3e-5 if first["optimizer"] == "adamw" else 2e-6)
    assert [e.loss for e in result.history] == pytest.approx([e.loss for e in whole.history], rel=1e-4)
    kinds = {path.name.partition("-")[0] for path in tmp_path.iterdir()}
    assert kinds == ({checkpoint.NAME} if after == 1 else {"step"})  # the newer form takes the older one's place


@pytest.mark.parametrize("settings", [_SGD, _SHARDS])
def test_random_numbers_go_on_in_every_process(together: Together, tmp_path: Path, settings: dict[str, object]) -> None:
    (expected, _), _ = together(2, trained_blocks, settings, None, 61, 0.3)
    assert together(2, stopped_blocks, settings, tmp_path, 6, 0.3) == [130, 130]
    (state, result), _ = together(2, trained_blocks, settings, tmp_path, 61, 0.3)
    assert result.resumed
    assert all(np.array_equal(state[name], value) for name, value in expected.items())


@pytest.mark.parametrize("damage", ["truncated", "one bit", "half-written", "a file is gone", "no JSON", "another run"])
def test_a_bad_checkpoint_is_passed_over(together: Together, tmp_path: Path, damage: str) -> None:
    expected, _, _ = together(2, told_blocks, _SGD, tmp_path)[0]
    newest, marker = tmp_path / "step-16", tmp_path / "step-16" / MARKER
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-12", "step-16"]
    file = next(newest.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    match damage:
        case "truncated":
            file.write_bytes(content[:-50])
        case "one bit":
            file.write_bytes(content)
        case "half-written":
            marker.unlink()
        case "a file is gone":
            file.unlink()
        case "no JSON":
            marker.write_text("{")
        case "another run":
            marker.write_text(json.dumps({**json.loads(marker.read_text()), "run": "x"}))
    state, result, said = together(2, told_blocks, _SGD, tmp_path)[0]
    assert result.resumed == 12
    assert "passed over" in said[0]
    assert str(newest) in said[0]
    assert all(np.array_equal(state[name], value) for name, value in expected.items())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount")
def test_a_full_disk_leaves_the_checkpoints_before(together: Together, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("cannot mount here")
    try:
        said = together(2, failing_save, {**_SGD, "keep_checkpoints": 9}, disk)
        assert all("No space left" in text and "intact" in text for text in said)
        left = sorted(path.name for path in disk.iterdir())
        assert left
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        _, result, _ = together(2, told_blocks, _SGD, disk)[0]
        assert result.resumed == int(left[-1].removeprefix("step-"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
