"""`headway convert`: pickled tensors become safetensors, and code in a pickle never runs."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from headway.cli.convert import convert
from headway.core.errors import FormatError, HeadwayError, UsageError, WeightsError
from headway.train.weights import load_weights

_APP = typer.Typer()
_APP.command()(convert)


def _run(*arguments: object) -> str:
    result = CliRunner().invoke(_APP, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", [None, "state_dict", "model", "model_state_dict"])
def test_weights_are_found_and_converted(tmp_path: Path, place: str | None, legacy: bool) -> None:
    model, file = _model(), tmp_path / "w.pt"
    content: Any = model.state_dict() if place is None else {"epoch": 3, place: model.state_dict()}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    _run(file)
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    load_weights(other, tmp_path / "w.safetensors")
    assert all(torch.equal(other.state_dict()[name], value) for name, value in model.state_dict().items())


def test_json_counts_tensors_and_megabytes(tmp_path: Path) -> None:
    torch.save(_model().state_dict(), tmp_path / "w.pt")
    told = json.loads(_run(tmp_path / "w.pt", "--out", tmp_path / "sub" / "new.safetensors", "--json"))
    size = (tmp_path / "sub" / "new.safetensors").stat().st_size
    assert told == {
        "file": str(tmp_path / "sub" / "new.safetensors"),
        "tensors": 7,
        "size_mb": size / 1e6,
        "removed_prefix": "",
    }


def test_a_key_names_the_place(tmp_path: Path) -> None:
    torch.save({"ema": _model().state_dict(), "lr": 0.1}, tmp_path / "w.pt")
    with pytest.raises(FormatError, match="no mapping of names to tensors; it holds 'ema', 'lr'"):
        _run(tmp_path / "w.pt")
    with pytest.raises(FormatError, match="no key 'em'; it holds 'ema', 'lr'"):
        _run(tmp_path / "w.pt", "--key", "em")
    with pytest.raises(FormatError, match="'lr' is not a mapping of names to tensors"):
        _run(tmp_path / "w.pt", "--key", "lr")
    _run(tmp_path / "w.pt", "--key", "ema")
    assert len(load_file(tmp_path / "w.safetensors")) == 7


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_the_prefix_of_a_wrapper_is_left_out(tmp_path: Path, prefix: str) -> None:
    torch.save({f"{prefix}{name}": value for name, value in _model().state_dict().items()}, tmp_path / "w.pt")
    assert json.loads(_run(tmp_path / "w.pt", "--json"))["removed_prefix"] == prefix
    assert "0.weight" in load_file(tmp_path / "w.safetensors")


class _Evil:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_refused_and_never_runs(tmp_path: Path, legacy: bool) -> None:
    file, trace = tmp_path / "w.pt", tmp_path / "ran"
    torch.save({"state_dict": _Evil(f"touch {trace}")}, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(FormatError, match="could run their code") as caught:
        _run(file)
    assert caught.value.remedy is not None
    assert "torch.save(model.state_dict(), FILE)" in caught.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]


def test_a_whole_model_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(FormatError, match="a whole model, or other Python objects"):
        _run(tmp_path / "w.pt")


@pytest.mark.parametrize("kept", [0, 1, 30, -30])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    torch.save(_model().state_dict(), tmp_path / "w.pt")
    (tmp_path / "w.pt").write_bytes((tmp_path / "w.pt").read_bytes()[:kept])
    with pytest.raises(FormatError) as caught:
        _run(tmp_path / "w.pt")
    assert "not a file that torch.save wrote" in caught.value.message
    assert not (tmp_path / "w.safetensors").exists()


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.tensor([1.0, float("nan")])}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="'x' holds NaN"):
        _run(tmp_path / "w.pt")


def test_nothing_is_written_over_unless_asked(tmp_path: Path) -> None:
    torch.save(_model().state_dict(), tmp_path / "w.pt")
    (tmp_path / "w.safetensors").write_bytes(b"mine")
    with pytest.raises(UsageError, match="is already there"):
        _run(tmp_path / "w.pt")
    assert (tmp_path / "w.safetensors").read_bytes() == b"mine"
    with pytest.raises(UsageError, match="its own source"):
        _run(tmp_path / "w.pt", "--out", tmp_path / "w.pt", "--force")
    _run(tmp_path / "w.pt", "--force")
    assert len(load_file(tmp_path / "w.safetensors")) == 7


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(HeadwayError, match="no such file") as caught:
        _run(tmp_path / "none.pt")
    assert caught.value.exit_code == 2


def test_nan_is_reported_of_the_file_that_was_read(tmp_path: Path) -> None:
    torch.save({"w": torch.tensor([float("nan")])}, tmp_path / "nan.pt")
    with pytest.raises(WeightsError, match="NaN") as caught:
        _run(tmp_path / "nan.pt")
    assert caught.value.where == str(tmp_path / "nan.pt")
