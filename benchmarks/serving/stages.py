"""Where the time goes on the request path: writes the tables of docs/serving-profile.md.

    python -m benchmarks.serving.stages [--seconds 10] [--print]

Headway serves the small CNN on one core, `wrk` asks over binary REST from the other. The stages that are functions of
ours are measured inside the server (`clock.py`); what the kernel says of each thread's CPU time gives the rest.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from benchmarks.results import ROOT, machine, taken
from benchmarks.serving import clock, load
from benchmarks.serving.models import small_cnn
from benchmarks.serving.servers import Running, serving
from numpy.typing import NDArray

PAGE = ROOT / "docs" / "serving-profile.md"
CALLERS = (1, 8, 32, 128)
BEGIN, END = "<!-- begin measured -->\n", "<!-- end measured -->"
LOOP_REST = "uvloop, tasks, granian's calls into Python"
GRANIAN = "granian in Rust: sockets, HTTP"


def measure(server: Running, bodies: Path, callers: int, seconds: float) -> dict[str, float]:
    """CPU microseconds a request by stage, at one level of load."""

    def seen() -> tuple[NDArray[np.float64], float, float]:
        return clock.read(server.clock), server.cpu_seconds(str(server.process.pid)), server.cpu_seconds()

    load.closed(server, bodies, callers, 1)
    stages, loop, whole = seen()
    requests = load.closed(server, bodies, callers, seconds).requests
    stages_after, loop_after, whole_after = seen()
    spent = stages_after - stages
    in_loop, elsewhere = spent.sum(axis=1)
    found = {stage.name: float(s) for stage, s in zip(clock.STAGES, spent.sum(axis=0), strict=True)}
    found[LOOP_REST] = loop_after - loop - in_loop
    found[GRANIAN] = whole_after - whole - (loop_after - loop) - elsewhere
    return {name: s / requests * 1e6 for name, s in found.items()}


def table(found: dict[int, dict[str, float]]) -> str:
    """One line a stage, one column a number of callers."""
    lines = [
        "| thread | stage | " + " | ".join(f"{n} caller{'s' * (n > 1)}" for n in found) + " |",
        "|---|---|" + "---:|" * len(found),
    ]
    order = [(stage.thread, stage.name) for stage in clock.STAGES if stage is not clock.RUN]
    order = [("granian", GRANIAN), ("loop", LOOP_REST), *order]
    for thread, name in order:
        lines.append(f"| {thread} | {name} | " + " | ".join(f"{one[name]:.1f}" for one in found.values()) + " |")
    own = [sum(one.values()) - one[clock.RUN.name] for one in found.values()]
    lines.append("| | **our own, together** | " + " | ".join(f"**{v:.0f}**" for v in own) + " |")
    run = [one[clock.RUN.name] for one in found.values()]
    lines.append(f"| run | {clock.RUN.name} | " + " | ".join(f"{v:.0f}" for v in run) + " |")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="of load at each number of callers")
    parser.add_argument("--print", action="store_true", help="do not write docs/serving-profile.md")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        bodies = folder / "bodies"
        with serving("headway", small_cnn(), folder, every_stage=True) as server:
            load.write_bodies(server, bodies)
            found = {n: measure(server, bodies, n, asked.seconds) for n in CALLERS}
    text = f"{taken()} with `make profile-serve`. {machine()}.\nCPU microseconds a request:\n\n{table(found)}\n"
    print(text)
    if not asked.print:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(before + BEGIN + text + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
