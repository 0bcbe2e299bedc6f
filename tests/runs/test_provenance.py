"""Hashes as DVC has them. The expected ones were written by DVC 3.67.1 (`dvc add`)."""

import subprocess
from pathlib import Path

import pytest

from headway.runs.provenance import data_files, git_commit, named, packages

FOLDER_MD5 = "5ad989754b11998813a38b046188a7f0.dir"
FILE_MD5 = "b202f333fba4fd38d4b8e5e693077aab"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_bytes(b"a,b\r\n1,2\r\n")
    for name, content in (("b.txt", "two"), ("a/z.txt", "one"), ("a-b.txt", "three"), ("\u00e4.txt", "four")):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path


def test_files_and_folders_have_the_hash_that_dvc_gives_them(data: Path) -> None:
    folder, file = data_files([data / "rows.csv", data / "pictures", data / "absent"])
    assert (file["md5"], file["size"], file["dvc"]) == (FILE_MD5, 10, None)
    assert (folder["md5"], folder["size"], folder["dvc"]) == (FOLDER_MD5, 15, None)


def test_the_dvc_file_is_held_against_the_data(data: Path) -> None:
    (data / "rows.csv.dvc").write_text(f"outs:\n- md5: {FILE_MD5}\n  size: 10\n  hash: md5\n  path: rows.csv\n")
    assert data_files([data / "rows.csv"])[0]["dvc"] == "same"
    (data / "rows.csv").write_bytes(b"a,b\r\n1,3\r\n")
    assert data_files([data / "rows.csv"])[0]["dvc"] == "differs"
    (data / "rows.csv.dvc").write_text("outs: [")
    assert data_files([data / "rows.csv"])[0]["dvc"] is None


def test_only_what_arguments_name_is_data(data: Path) -> None:
    arguments = {"path": "rows.csv", "rows": 3, "width": "", "up": "..", "odd": "\0", "mode": "fast"}
    assert [file["path"] for file in data_files(named(arguments, data))] == [str(data / "rows.csv")]


def test_the_commit_says_whether_files_differ_from_it(tmp_path: Path) -> None:
    assert git_commit(tmp_path) == ""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    clean = git_commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "new").write_text("")
    assert git_commit(tmp_path) == clean + "+changes"


def test_packages_are_named_with_versions() -> None:
    assert packages()["numpy"].count(".") >= 1
