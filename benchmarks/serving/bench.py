"""Headway beside other servers: the same ONNX file, one thread, one core; writes benchmarks/RESULTS.md.

    python -m benchmarks.serving.bench [--only headway,bare] [--rounds 7] [--seconds 2] [--print]

Each server has an environment of its own, made on first use. All are started and checked against ONNX Runtime's own
answers; then every round measures every level of load on every server in turn (A B C, A B C), with the others stopped,
so that what slows the machine for a while slows all of them. What is compared is the ratio within a round.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from benchmarks.results import write
from benchmarks.serving import bare_session, load
from benchmarks.serving.load import Load
from benchmarks.serving.models import Model, digits, large_cnn, small_cnn
from benchmarks.serving.report import DIGITS_RATE, Found, Level, report
from benchmarks.serving.servers import SERVERS, BrokenPeerError, Running, serving

CLOSED = tuple(Level(callers=n) for n in (1, 8, 32, 128))
OPEN = tuple(Level(rate=rate) for rate in (1000, 2500))
SUSTAINED = CLOSED[2]  # what a server manages here must exceed an open level's rate by a tenth, or it is not tried
WARM_S = 1.0


class Site(NamedTuple):
    """A server that is up, paused, with its requests laid out."""

    server: Running
    bodies: Path

    def measure(self, level: Level, seconds: float, seed: int) -> Load:
        """Wake it, warm it, measure it, pause it."""
        self.server.resume()
        try:
            load.closed(self.server, self.bodies, level.callers or 32, WARM_S)
            if level.rate:
                return load.poisson(self.server, self.bodies, level.rate, seconds, seed)
            return load.closed(self.server, self.bodies, level.callers, seconds)
        finally:
            self.server.pause()


class Bench:
    """One run."""

    def __init__(self, folder: Path, rounds: int, seconds: float) -> None:
        self._folder, self._rounds, self._seconds = folder, rounds, seconds
        self.found = Found(rounds, seconds)

    def peers(self, names: list[str]) -> None:
        """All servers, with the small CNN."""
        model = small_cnn()
        with ExitStack() as stack:
            sites: dict[str, Site] = {}
            for name in names:
                try:
                    sites[name] = self._start(stack, name, model)
                except BrokenPeerError as error:
                    self._leave_out(name, str(error))
            for number in range(self._rounds):
                for level in (*CLOSED, *OPEN):
                    for name in list(sites):
                        try:
                            self._visit(name, sites[name], level, number)
                        except (subprocess.SubprocessError, OSError, ValueError, ZeroDivisionError) as error:
                            self._leave_out(name, f"gave up in round {number + 1}, {level}: {error}")
                            del sites[name]

    def batching(self) -> None:
        """The large CNN: over the wire, and in one process with nothing around it."""
        model = large_cnn()
        with ExitStack() as stack:
            site = self._start(stack, "headway", model)
            for number in range(self._rounds):
                self.found.bare_session.append(bare_session.measure(model.file, self._seconds))
                for level in (Level(callers=32), Level(callers=128)):
                    self._keep("large", level, site.measure(level, self._seconds, number), number)

    def digits(self) -> None:
        """The digits bundle under a rate that it has to bear."""
        with ExitStack() as stack:
            site = self._start(stack, "headway", digits())
            for number in range(self._rounds):
                level = Level(rate=DIGITS_RATE)
                self._keep("digits", level, site.measure(level, self._seconds, number), number)

    def _start(self, stack: ExitStack, name: str, model: Model) -> Site:
        self._say(f"starting {name} with {model.name}")
        server = stack.enter_context(serving(name, model, self._folder))
        site = Site(server, self._folder / f"bodies-{name}-{model.name}")
        load.write_bodies(server, site.bodies)
        server.pause()
        return site

    def _visit(self, name: str, site: Site, level: Level, number: int) -> None:
        manages = self.found.of(name, SUSTAINED)
        if level.rate and (len(manages) <= number or manages[number].rate < 1.1 * level.rate):
            return
        self._keep(name, level, site.measure(level, self._seconds, number), number)

    def _keep(self, name: str, level: Level, taken: Load, number: int) -> None:
        self.found.loads.setdefault((name, level), []).append(taken)
        p99 = "none" if taken.p99_ms is None else f"{taken.p99_ms:.1f} ms"
        self._say(f"round {number + 1}, {level}, {name}: {taken.rate:.0f}/s, p99 {p99}, {taken.errors} errors")

    def _leave_out(self, name: str, why: str) -> None:
        self._say(f"{name} is left out: {why}")
        if name == "headway":
            raise SystemExit(f"headway: {why}")
        self.found.left_out[name] = why

    def _say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SERVERS), help="servers, comma-separated; implies --print")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement, at least 1")
    parser.add_argument("--print", action="store_true", help="do not write benchmarks/RESULTS.md")
    asked = parser.parse_args()
    names = asked.only.split(",")
    if unknown := set(names) - set(SERVERS):
        parser.error(f"no such server: {', '.join(sorted(unknown))}; there are {', '.join(SERVERS)}")
    names.sort(key=list(SERVERS).index)
    with tempfile.TemporaryDirectory(prefix="headway-bench-") as place:
        bench = Bench(Path(place), asked.rounds, asked.seconds)
        bench.peers(names)
        if "headway" in names:
            bench.batching()
            bench.digits()
    text = report(bench.found)
    print(text)
    if set(names) == set(SERVERS) and not asked.print:
        write("serving", text)


if __name__ == "__main__":
    main()
