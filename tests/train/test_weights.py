"""Weights go into a file and come back; what does not fit is named."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from headway.core.errors import FormatError, StorageError, WeightsError
from headway.tasks.resnet import ResNet
from headway.train.weights import load_weights, read_state, save_state, save_weights


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def _same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(other.state_dict()[name], value) for name, value in one.state_dict().items())


def test_weights_and_buffers_come_back(tmp_path: Path) -> None:
    model, other = ResNet((1, 1), 4), ResNet((1, 1), 4)
    model.train()(torch.rand(2, 1, 8, 8))  # moves batch norm's buffers
    save_weights(model.to(memory_format=torch.channels_last), tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert _same(model, other)
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


def test_tied_weights_are_written_once_and_stay_tied(tmp_path: Path) -> None:
    model, other = _Tied(), _Tied()
    save_weights(model, tmp_path / "w.safetensors")
    assert list(read_state(tmp_path / "w.safetensors")) == ["embed.weight"]
    load_weights(other, tmp_path / "w.safetensors")
    assert _same(model, other)
    assert other.head.weight is other.embed.weight


def test_keys_and_shapes_that_differ_are_named(tmp_path: Path) -> None:
    save_state({"0.weight": torch.zeros(3, 2), "extra": torch.zeros(1)}, tmp_path / "w.safetensors")
    model = nn.Sequential(nn.Linear(4, 3))
    before = model[0].weight.clone()
    with pytest.raises(WeightsError) as caught:
        load_weights(model, tmp_path / "w.safetensors")
    assert "missing: 0.bias" in caught.value.message
    assert "unexpected: extra" in caught.value.message
    assert "0.weight is [3, 2] in the file and [3, 4] in the model" in caught.value.message
    assert caught.value.where == str(tmp_path / "w.safetensors")
    assert torch.equal(model[0].weight, before)


def test_only_the_first_of_many_keys_are_named(tmp_path: Path) -> None:
    save_state({"x": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"missing: stem.0.weight, stem.1.weight, stem.1.bias and \d+ more"):
        load_weights(ResNet((1,), 4), tmp_path / "w.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_both_ways(tmp_path: Path, value: float) -> None:
    from safetensors.torch import save_file

    model = nn.Linear(2, 2)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["bias"][1] = value
    save_file(state, tmp_path / "bad.safetensors")
    with pytest.raises(WeightsError, match="'bias' holds NaN or infinity"):
        load_weights(model, tmp_path / "bad.safetensors")
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    with pytest.raises(WeightsError, match="'bias'"):
        save_state(state, tmp_path / "new.safetensors")
    assert not (tmp_path / "new.safetensors").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickled_checkpoint_is_refused_with_the_way_out(tmp_path: Path, legacy: bool) -> None:
    file = tmp_path / "w.pt"
    torch.save(nn.Linear(2, 2).state_dict(), file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(FormatError, match="pickled") as caught:
        load_weights(nn.Linear(2, 2), file)
    assert caught.value.remedy == f"Convert it with: headway convert {file}"


@pytest.mark.parametrize("kept", [0, 4, 60, -3])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "w.safetensors"
    save_weights(nn.Linear(2, 2), file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(FormatError, match="not a safetensors file, or a damaged one"):
        load_weights(nn.Linear(2, 2), file)


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "w.safetensors"
    for length in range(0, 800, 8):  # the header is padded to a multiple of 8 bytes
        save_file({"weight": torch.ones(1)}, file, {"about": "x" * length})
        if file.read_bytes()[:2] == b"\x80\x02":
            break
    assert file.read_bytes()[:2] == b"\x80\x02"
    assert torch.equal(read_state(file)["weight"], torch.ones(1))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="No such file"):
        load_weights(nn.Linear(2, 2), tmp_path / "none.safetensors")


@pytest.mark.skipif(not Path("/dev/full").exists() or os.geteuid() != 0, reason="needs to mount")
def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("cannot mount here")
    try:
        save_weights(nn.Linear(2, 2), disk / "w.safetensors")
        before = (disk / "w.safetensors").read_bytes()
        with pytest.raises(StorageError, match="no space left"):
            save_weights(nn.Linear(300, 300), disk / "w.safetensors")
        assert (disk / "w.safetensors").read_bytes() == before
        assert [file.name for file in disk.iterdir()] == ["w.safetensors"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
