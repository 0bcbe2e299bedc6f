"""Every code block of the README, and of other pages that show how, is executed in order, as a newcomer would.

A block whose first line is `# name.ext` is a file to save. The folder is a clone of this repository. A line that serves
runs in the background until the last block has been executed.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = {"sh", "python", "yaml"}
PAGES = ("README.md", "docs/serving.md", "docs/processing.md", "docs/observability.md", "docs/advise.md")


def blocks(page: str) -> list[tuple[str, str]]:
    found = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    assert found
    assert {language for language, _ in found} <= LANGUAGES | {"text", "json"}
    return [(language, text) for language, text in found if language in LANGUAGES]


class Newcomer:
    """A person with an empty folder, following along."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "HEADWAY_HOME": str(folder / ".home")}
        self.servers: list[subprocess.Popen[str]] = []

    def follow(self, language: str, text: str) -> None:
        first = text.splitlines()[0]
        if language != "sh" and (named := re.fullmatch(r"# ([\w./]+\.\w+)", first)):
            (self.folder / named[1]).write_text(text)
        elif language == "python":
            self.run([sys.executable, "-c", text])
        elif language == "sh":
            for line in text.splitlines():
                if line.startswith("headway serve"):
                    self.serve(line)
                elif line.strip() and not line.startswith("#"):
                    self.run(["bash", "-c", line])

    def run(self, command: list[str]) -> None:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False, timeout=280
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    def serve(self, line: str) -> None:
        server = subprocess.Popen(
            ["bash", "-c", f"exec {line}"], cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, text=True
        )
        self.servers.append(server)
        assert server.stdout is not None
        assert "http" in server.stdout.readline()

    def leave(self) -> None:
        for server in self.servers:
            server.terminate()
            assert server.wait(timeout=60) == 0
            assert server.stdout is not None
            server.stdout.close()


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    clone = tmp_path / "headway"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    # The environment that runs this test stands in for the one that `make setup` makes, and so must look newer.
    (clone / ".venv").symlink_to(Path(sys.executable).parents[1])
    (clone / ".venv" / ".ready").touch()
    for made_from in ("requirements.lock", "pyproject.toml"):
        os.utime(clone / made_from, (0, 0))
    person = Newcomer(clone)
    yield person
    person.leave()


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs(page: str, newcomer: Newcomer) -> None:
    for language, text in blocks(page):
        newcomer.follow(language, text)


def test_documents_hold_only_blocks_that_are_run_or_shown() -> None:
    for page in set((ROOT / "docs").rglob("*.md")) - {ROOT / page for page in PAGES}:
        languages = {language for language, _ in BLOCK.findall(page.read_text(encoding="utf-8"))}
        assert languages <= {"text", "json", "yaml"}, f"{page}: a block that claims to run must be run by this test"
