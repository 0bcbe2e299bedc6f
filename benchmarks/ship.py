"""Ships the example recipes afresh and writes their figures into benchmarks/RESULTS.md.

    python benchmarks/ship.py [digits] [fashion_mnist]

Each recipe has a section of its own between markers; sections of other benchmarks are left as they are.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
RECIPES = ("digits", "fashion_mnist")


def measure(name: str) -> str:
    """Ship one recipe into an empty home, and describe what came of it."""
    recipe = Path("examples") / f"{name}.yaml"
    with tempfile.TemporaryDirectory() as folder:
        command = [Path(sys.executable).with_name("headway"), "ship", recipe, "--out", f"{folder}/out", "--json"]
        start = time.monotonic()
        asked = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "HEADWAY_HOME": folder}, stdout=subprocess.PIPE, check=False
        )
        seconds = time.monotonic() - start
    if asked.returncode not in (0, 3):
        sys.exit(asked.returncode)
    return section(name, json.loads(asked.stdout), seconds)


def section(name: str, found: dict[str, Any], seconds: float) -> str:
    """The figures as Markdown."""
    machine, reference = found["machine"], found["reference"]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    sets = " ".join(name for name in machine["instruction_sets"] if name.startswith(("avx", "amx", "asimd")))
    milliseconds = f"{reference['latency_ms']['p50']:.3f} / {reference['latency_ms']['p99']:.3f}"
    lines = [
        f"## `headway ship examples/{name}.yaml`: {found['verdict']}, {found['chosen'] or 'nothing'}",
        "",
        f"Taken {datetime.now(UTC):%Y-%m-%d} at commit {commit.stdout.strip()} with",
        f"`python benchmarks/ship.py {name}`, in {seconds:.0f} s from nothing to the sealed bundle.",
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {sets}; one thread a run.",
        "",
        "| variant | gate | accuracy | kept at least | speedup | p50 / p99 ms | rows/s at 32 | MB | peak MB |",
        "|---|---|---|---|---|---|---|---|---|",
        f"| original, {reference['name']} | | {reference['accuracy']:.4f} | | 1 | {milliseconds} "
        f"| {reference['throughput']:,.0f} | {reference['size_mb']:.3f} | |",
    ]
    for v in found["variants"]:
        low, middle, high = v["speedup"]
        mark = "**" if v["id"] == found["chosen"] else ""
        lines.append(
            f"| {mark}{v['id']}{mark} ({v['precision']}, {v['runtime']}) | {v['gate']} | {v['accuracy']:.4f} "
            f"| {v['kept_ci'][0]:.2%} | {middle:.2f} ({low:.2f}-{high:.2f}) "
            f"| {v['latency_ms']['p50']:.3f} / {v['latency_ms']['p99']:.3f} | {v['throughput']:,.0f} "
            f"| {v['size_mb']:.3f} | {v['peak_memory_mb']:.1f} |"
        )
    lines += ["", *(f"- {v['id']}: {v['why']}" for v in found["variants"])]
    return "\n".join(lines)


def write(name: str, text: str) -> None:
    """Put `text` between its markers, or at the end."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    block = f"{begin}\n{text}\n{end}"
    old = RESULTS.read_text(encoding="utf-8")
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    new = pattern.sub(lambda _: block, old) if pattern.search(old) else f"{old.rstrip()}\n\n{block}\n"
    RESULTS.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or RECIPES:
        if chosen not in RECIPES:
            sys.exit(f"unknown recipe {chosen!r}; known: {', '.join(RECIPES)}")
        write(chosen, measure(chosen))
        print(f"{chosen}: written to {RESULTS}")
