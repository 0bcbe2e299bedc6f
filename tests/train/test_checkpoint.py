"""The checkpoint file itself; that a run resumes from it is held by test_resume.py."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from headway.core.errors import FormatError
from headway.train import checkpoint


def _parts() -> tuple[torch.nn.Module, torch.optim.Optimizer, torch.amp.GradScaler]:
    torch.manual_seed(0)
    model = torch.nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(1, 2, 5, 5)).sum().backward()
    optimizer.step()
    return model, optimizer, torch.amp.GradScaler("cpu", enabled=False)


def test_everything_comes_back_in_the_layout_it_had(tmp_path: Path) -> None:
    model, optimizer, scaler = _parts()
    checkpoint.write(tmp_path, "run", {"progress": 5}, model, optimizer, scaler)
    fresh = torch.nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    new = torch.optim.AdamW(fresh.parameters())
    found = checkpoint.read(tmp_path)
    assert found is not None
    assert (found.run, found.state["progress"]) == ("run", 5)
    found.restore(fresh, new)
    assert torch.equal(fresh.weight, model.weight)
    kept, restored = optimizer.state_dict()["state"], new.state_dict()["state"]
    assert torch.equal(kept[0]["exp_avg"], restored[0]["exp_avg"])
    assert kept[0]["exp_avg"].stride() == restored[0]["exp_avg"].stride()
    assert kept[0]["step"] == restored[0]["step"]


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    checkpoint.write(tmp_path, "run", {"progress": 5}, *_parts())
    with safe_open(tmp_path / checkpoint.NAME, framework="pt") as file:
        assert "model.weight" in file.keys()  # noqa: SIM118  (it is no mapping)
        assert json.loads(file.metadata()["state"])["progress"] == 5


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.read(tmp_path) is None
    assert checkpoint.read(tmp_path / "nowhere") is None


def test_other_safetensors_files_are_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / checkpoint.NAME)
    with pytest.raises(FormatError, match="not a checkpoint of this version"):
        checkpoint.read(tmp_path)


def test_digests_tell_names_shapes_and_bytes_apart() -> None:
    states = [
        {"a": torch.zeros(2)},
        {"b": torch.zeros(2)},
        {"a": torch.zeros(1, 2)},
        {"a": torch.zeros(2, dtype=torch.float64)},
        {"a": torch.ones(2)},
        {"a": torch.zeros(2), "b": torch.zeros(0)},
        {"a": torch.tensor(3)},
        {"a": torch.zeros(2, dtype=torch.bfloat16)},
    ]
    assert len({checkpoint.state_digest(state) for state in states}) == len(states)
