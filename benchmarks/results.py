"""Where benchmarks write: sections of benchmarks/RESULTS.md between markers, each the work of one command."""

import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from headway.core.machine import Machine, here

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "RESULTS.md"


def write(name: str, text: str) -> None:
    """Put `text` between its markers, or at the end; what others wrote stays as it is."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    block = f"{begin}\n{text}\n{end}"
    old = RESULTS.read_text(encoding="utf-8")
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    new = pattern.sub(lambda _: block, old) if pattern.search(old) else f"{old.rstrip()}\n\n{block}\n"
    RESULTS.write_text(new, encoding="utf-8")


def taken() -> str:
    """The day and the commit, as a sentence begins with them."""
    asked = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True)
    return f"Taken {datetime.now(UTC):%Y-%m-%d} at commit {commit.stdout.strip()}"


def machine(found: Machine | None = None) -> str:
    """The processor, its cores and what matters of its instruction sets."""
    found = found or here()
    sets = " ".join(name for name in found.instruction_sets if name.startswith(("avx", "amx", "asimd")))
    return f"Machine: {found.cpu}, {found.cores} cores, {sets}"
