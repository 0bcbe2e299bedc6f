"""Ships the example recipes afresh and writes their figures into benchmarks/RESULTS.md.

    python -m benchmarks.ship [digits] [fashion_mnist]

Each recipe has a section of its own between markers; sections of other benchmarks are left as they are.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, ROOT, machine, taken, write

from headway.core.machine import Machine

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
    reference = found["reference"]
    milliseconds = f"{reference['latency_ms']['p50']:.3f} / {reference['latency_ms']['p99']:.3f}"
    lines = [
        f"## `headway ship examples/{name}.yaml`: {found['verdict']}, {found['chosen'] or 'nothing'}",
        "",
        f"{taken()} with",
        f"`python -m benchmarks.ship {name}`, in {seconds:.0f} s from nothing to the sealed bundle.",
        f"{machine(Machine.model_validate(found['machine']))}; one thread a run.",
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


if __name__ == "__main__":
    for chosen in sys.argv[1:] or RECIPES:
        if chosen not in RECIPES:
            sys.exit(f"unknown recipe {chosen!r}; known: {', '.join(RECIPES)}")
        write(chosen, measure(chosen))
        print(f"{chosen}: written to {RESULTS}")
