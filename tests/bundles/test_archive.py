"""The `.hw` archive, and the attacks that archives are known for."""

import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from headway.bundles.archive import archive
from headway.bundles.bundle import Bundle
from headway.core.errors import BundleError, TamperedError

Seal = Callable[..., Bundle]


@pytest.fixture
def packed(seal_linear: Seal, tmp_path: Path) -> Path:
    return archive(seal_linear(), tmp_path / "linear.hw")


def test_round_trip(seal_linear: Seal, tmp_path: Path, home: Path) -> None:
    bundle = seal_linear()
    first = archive(bundle, tmp_path / "a.hw")
    assert first.read_bytes() == archive(bundle, tmp_path / "b.hw").read_bytes()
    opened = Bundle.open(first)
    opened.verify()
    assert opened.digest == bundle.digest
    assert opened.path.is_relative_to(home)
    assert opened.private_copy().path == opened.path
    assert Bundle.open(tmp_path / "b.hw").path == opened.path


def test_any_zip_tool_reads_it(packed: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(packed, tmp_path / "out", format="zip")
    Bundle.open(tmp_path / "out").verify()
    with zipfile.ZipFile(packed) as file:
        assert {entry.compress_type for entry in file.infolist()} == {zipfile.ZIP_STORED}


def test_a_zip_of_the_folder_that_another_tool_made(seal_linear: Seal, tmp_path: Path) -> None:
    bundle = seal_linear()
    with zipfile.ZipFile(tmp_path / "made.hw", "w") as file:
        for path in sorted(bundle.path.rglob("*")):
            file.write(path, path.relative_to(bundle.path))  # with entries for folders
    Bundle.open(tmp_path / "made.hw").verify()


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil", "C:\\evil", "a\nb", "./x"])
def test_slips_are_refused_and_write_nothing(packed: Path, home: Path, name: str) -> None:
    with zipfile.ZipFile(packed, "a") as file:
        file.writestr(zipfile.ZipInfo(name), "evil")
    with pytest.raises(BundleError, match="does not stay inside"):
        Bundle.open(packed)
    assert not list(packed.parent.rglob("evil*"))
    assert not list((home / "cache" / "bundles").glob("hw-*"))


def test_a_symbolic_link_is_refused(packed: Path) -> None:
    entry = zipfile.ZipInfo("link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(packed, "a") as file:
        file.writestr(entry, "/etc")
        file.writestr("link/passwd", "x")
    with pytest.raises(BundleError, match="symbolic link"):
        Bundle.open(packed)


def test_a_compressed_entry_is_refused(packed: Path) -> None:
    with zipfile.ZipFile(packed, "a") as file:
        file.writestr("bomb", b"\0" * 10_000_000, zipfile.ZIP_DEFLATED)
    with pytest.raises(BundleError, match="bomb is compressed"):
        Bundle.open(packed)


def test_an_entry_that_stands_twice_is_refused(packed: Path) -> None:
    with zipfile.ZipFile(packed, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("report.html", "other")
    with pytest.raises(BundleError, match="stands twice"):
        Bundle.open(packed)


def test_a_file_that_is_a_folder_as_well_is_refused(packed: Path) -> None:
    with zipfile.ZipFile(packed, "a") as file:
        file.writestr("report.html/more", "x")
    with pytest.raises(BundleError, match="both a file and a folder"):
        Bundle.open(packed)


def test_too_many_entries_are_refused(packed: Path) -> None:
    with zipfile.ZipFile(packed, "a") as file:
        for number in range(10_001):
            file.writestr(f"x/{number}", "")
    with pytest.raises(BundleError, match="more than 10000 entries"):
        Bundle.open(packed)


def test_overlapping_entries_are_refused(tmp_path: Path, home: Path) -> None:
    """A bomb without compression: a hundred entries that share the same bytes."""
    path = tmp_path / "overlap.hw"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("manifest.json", b"{}" * 5000)
        first = file.filelist[0]
        for number in range(100):
            twin = zipfile.ZipInfo(f"x{number}")
            for attribute in ("CRC", "compress_size", "file_size", "header_offset"):
                setattr(twin, attribute, getattr(first, attribute))
            file.filelist.append(twin)
            file.NameToInfo[twin.filename] = twin
    with pytest.raises(BundleError, match="overlap"):
        Bundle.open(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated(packed: Path, share: float) -> None:
    data = packed.read_bytes()
    packed.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BundleError, match="complete"):
        Bundle.open(packed)


def test_changed_bytes(packed: Path) -> None:
    data = packed.read_bytes()
    at = data.index(b"<p>test</p>")
    packed.write_bytes(data[:at] + b"<p>evil</p>" + data[at + 11 :])
    with pytest.raises(BundleError, match="CRC"):
        Bundle.open(packed)


def test_a_zip_without_a_manifest(tmp_path: Path, home: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.hw", "w") as file:
        file.writestr("hello.txt", "x")
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        Bundle.open(tmp_path / "x.hw")


def test_a_cached_folder_that_was_damaged_is_unpacked_again(packed: Path) -> None:
    opened = Bundle.open(packed)
    (opened.path / "report.html").unlink()
    Bundle.open(packed).verify()


def test_a_tampered_bundle_stays_tampered_in_an_archive(seal_linear: Seal, tmp_path: Path) -> None:
    bundle = seal_linear()
    (bundle.path / "report.html").write_text("<p>evil</p>")
    with pytest.raises(TamperedError, match=r"report\.html"):
        Bundle.open(archive(bundle, tmp_path / "x.hw")).verify()
