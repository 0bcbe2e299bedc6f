"""Sealing: a bundle appears whole or not at all, and replaces nothing that is not a bundle."""

import errno
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from headway.bundles.bundle import Bundle
from headway.bundles.golden import Sample
from headway.bundles.manifest import Variant
from headway.bundles.seal import Draft, seal
from headway.core.errors import BundleError, FormatError, StorageError, TamperedError
from headway.core.tensors import TensorSpec

Seal = Callable[..., Bundle]


def draft(**changes: object) -> Draft:
    spec = {"datatype": "FP32", "shape": (-1, 1)}
    variant = Variant(id="a", file="", format="onnx", runtime="onnxruntime", precision="fp32", tolerance={"y": 0.0})
    fields: dict[str, object] = {
        "name": "tiny", "version": "1", "inputs": (TensorSpec(name="x", **spec),),
        "outputs": (TensorSpec(name="y", **spec),), "variants": (variant,), "chosen": "a",
    }  # fmt: skip
    return Draft(**(fields | changes))  # type: ignore[arg-type]


SAMPLE = Sample({"x": np.ones((1, 1), np.float32)}, {"y": np.ones((1, 1), np.float32)})


def test_sealing_again_replaces_the_bundle(seal_linear: Seal, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = seal_linear(out=out)
    second = seal_linear(out=out, seed=1)
    assert first.digest != second.digest == Bundle.open(out).digest
    second.verify()
    assert {path.name for path in out.parent.iterdir() if path.name.startswith(".out")} == set()


def test_a_folder_that_is_no_bundle_is_left_alone(seal_linear: Seal, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").write_text("years")
    with pytest.raises(BundleError, match="something else than a bundle"):
        seal_linear(out=tmp_path / "work")
    assert (tmp_path / "work" / "thesis.tex").read_text() == "years"
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="not a folder"):
        seal_linear(out=tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "work")
    with pytest.raises(BundleError, match="not a folder"):
        seal_linear(out=tmp_path / "link")
    (tmp_path / "empty").mkdir()
    seal_linear(out=tmp_path / "empty").verify()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a/b"}, "name"),
        ({"version": "0"}, "version"),
        ({"chosen": "b"}, "chosen variant 'b'"),
        ({"variants": ()}, "do not match the variants"),
        ({"outputs": ()}, "golden sample 0"),
    ],
)
def test_drafts_that_do_not_fit_leave_nothing(
    tmp_path: Path, home: Path, changes: dict[str, object], message: str
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"x")
    with pytest.raises(BundleError, match=message):
        seal(tmp_path / "out", draft(**changes), models={"a": model}, golden=[SAMPLE], report="")
    assert {path.name for path in tmp_path.iterdir()} <= {"model.onnx", "home"}


def test_nan_in_golden_outputs(tmp_path: Path, home: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"x")
    bad = Sample(SAMPLE.inputs, {"y": np.full((1, 1), np.nan, np.float32)})
    with pytest.raises(FormatError, match="NaN"):
        seal(tmp_path / "out", draft(), models={"a": model}, golden=[bad], report="")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_keeps_the_old_bundle(seal_linear: Seal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = seal_linear(out=tmp_path / "out")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("shutil.copyfile", full)
        with pytest.raises(StorageError, match="no space left"):
            seal_linear(out=tmp_path / "out", seed=1)
    again = Bundle.open(tmp_path / "out")
    again.verify()
    assert again.digest == old.digest
    assert not list(tmp_path.glob(".out*"))


def seal_for_ever(folder: str, ready: Connection) -> None:
    """Seal over and over, and tell after each."""
    model = Path(folder) / "model.onnx"
    while True:
        seal(Path(folder) / "out", draft(), models={"a": model}, golden=[SAMPLE], report="x" * 200_000)
        ready.send(True)


def test_a_killed_process_leaves_a_whole_bundle(tmp_path: Path, home: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(os.urandom(2_000_000))
    spawn = multiprocessing.get_context("spawn")
    for rounds in range(1, 4):
        ready, told = spawn.Pipe(duplex=False)
        process = spawn.Process(target=seal_for_ever, args=(str(tmp_path), told))
        process.start()
        told.close()
        for _ in range(rounds):
            ready.recv()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        process.close()
        ready.close()
        if (tmp_path / "out").exists():  # between two renames the name may be free for an instant
            Bundle.open(tmp_path / "out").verify()
    seal(tmp_path / "out", draft(), models={"a": tmp_path / "model.onnx"}, golden=[SAMPLE], report="").verify()


def test_a_model_of_several_files_is_sealed_whole(tmp_path: Path, home: Path) -> None:
    files = [tmp_path / "model.xml", tmp_path / "model.bin"]
    for file in files:
        file.write_bytes(file.name.encode())
    bundle = seal(tmp_path / "out", draft(), models={"a": files}, golden=[SAMPLE], report="")
    bundle.verify()
    found = bundle.model_file(bundle.manifest.variant())
    assert (found.name, found.with_suffix(".bin").read_bytes()) == ("model.xml", b"model.bin")
    found.with_suffix(".bin").write_bytes(b"model.bim")
    with pytest.raises(TamperedError, match=r"model\.bin is not what was sealed"):
        bundle.verify()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.xml").write_bytes(b"")
    with pytest.raises(BundleError, match="have one name"):
        seal(
            tmp_path / "b",
            draft(),
            models={"a": [files[0], tmp_path / "other" / "model.xml"]},
            golden=[SAMPLE],
            report="",
        )
