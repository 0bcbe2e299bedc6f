"""A long run under callers that crash, time out, cancel and send nonsense, beside callers that behave.

    python -m benchmarks.serving.soak [--minutes 30] [--print]

One server, two models. Only callers that behave ask `calm`: their counts must be the server's. Everybody asks `rough`,
which meanwhile is swapped again and again for its other version. Every request of a caller that behaves must be
answered, rightly. The server must end with the descriptors and threads it began with, and its memory must not grow.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import psutil
from benchmarks.results import ROOT, machine, taken, write
from benchmarks.serving import soak_clients
from benchmarks.serving.soak_server import END_S, MODELS, bundles, serving
from prometheus_client.parser import text_string_to_metric_families

from headway.measure.growth import Growth, growth

CALM = ("calm_rest", "calm_grpc")
BESIDE = ("beside_rest", "beside_grpc")  # behave as well, but ask the model that everybody asks
ROUGH = ("rough", "crash", "cancel")
GROWTH_MB = 16.0  # all that memory may grow by while it is watched, at the upper limit of what the samples allow
MORE_FDS, MORE_THREADS = 16, 8  # a pool that fills up once; a leak of one a connection would be thousands
SAMPLE_S = 0.25
SWAP_S = 5.0
KILL_S = (0.5, 3.0)


class Soaked(NamedTuple):
    """What a run found.

    Attributes:
        seconds: that it took.
        calm, beside, rough: what callers counted: of `calm`; of `rough`, those that behave and those that do not.
        counted: the server's counts of requests, by model and outcome.
        kills: client processes that were killed.
        swaps: that succeeded; None where the server offers none.
        memory: of the server, in MB and minutes.
        fds: at the beginning, at most, and at the end.
        threads: likewise.
        mistakes: everything that must not be, in words; the run has passed if there is none.
    """

    seconds: float
    calm: dict[str, int]
    beside: dict[str, int]
    rough: dict[str, int]
    counted: dict[str, Counter[str]]
    kills: int
    swaps: int | None
    memory: Growth
    fds: tuple[int, int, int]
    threads: tuple[int, int, int]
    mistakes: list[str]


class Sample(NamedTuple):
    """The server's resources at one time."""

    rss_mb: float
    fds: int
    threads: int


class Callers:
    """The processes of callers: started, killed and replaced, and told to stop."""

    def __init__(self, rest: str, grpc: str, folder: Path) -> None:
        self._arguments = (rest, grpc, str(folder))
        self._log = (folder / "callers.log").open("ab")
        self.alive = {kind: self._start(kind) for kind in (*CALM, *BESIDE, *ROUGH)}
        self.kills = 0

    def kill_one(self) -> None:
        """SIGKILL the process that is there to be killed, whatever it is doing, and start another."""
        self.alive["crash"].kill()
        self.alive["crash"].wait()
        self.alive["crash"] = self._start("crash")
        self.kills += 1

    def stop(self) -> list[str]:
        """Let each finish what it has begun, but for the one that is there to be killed. Returns what went wrong."""
        crash = self.alive.pop("crash")
        crash.kill()
        crash.wait()
        self.kills += 1
        for process in self.alive.values():
            process.terminate()
        late = []
        for kind, process in self.alive.items():
            try:
                if code := process.wait(END_S):
                    late.append(f"the {kind} callers ended with exit code {code}: see callers.log")
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                late.append(f"the {kind} callers still waited for answers {END_S:.0f} s after the end")
        self._log.close()
        return late

    def _start(self, kind: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "benchmarks.serving.soak_clients", kind, *self._arguments]
        return subprocess.Popen(command, cwd=ROOT, stdout=self._log, stderr=self._log)


class Swaps(threading.Thread):
    """Swaps `rough` for its other version again and again, while requests come in.

    Attributes:
        offered: whether the server does that.
        done: how often it did.
        mistakes: what went wrong.
    """

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__(name="swaps")
        self._load_url = f"{url}/v2/repository/models/rough/load"
        self._folder = folder
        self._stopping = threading.Event()
        self.done = 0
        self.mistakes: list[str] = []
        self.offered = self._load() == 200  # of what is there already

    def run(self) -> None:
        """Until `stop`, or until one fails."""
        served, other, between = (self._folder / name for name in ("rough", "rough-other", "between"))
        while not self._stopping.wait(SWAP_S):
            served.rename(between)
            other.rename(served)
            between.rename(other)
            if (status := self._load()) != 200:
                self.mistakes.append(f"swap {self.done + 1} was answered with {status}")
                return
            self.done += 1

    def stop(self) -> None:
        """And wait for the one that is under way."""
        self._stopping.set()
        self.join()

    def _load(self) -> int:
        asked = urllib.request.Request(self._load_url, b"", method="POST")  # noqa: S310
        try:
            with urllib.request.urlopen(asked, timeout=END_S) as answer:  # noqa: S310
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code


def soak(folder: Path, seconds: float, *, growth_mb: float = GROWTH_MB, seed: int = 0) -> Soaked:
    """Run it. `HEADWAY_HOME` must be set; `folder` keeps the server's log and what callers noted.

    Args:
        folder: an empty one.
        seconds: of load.
        growth_mb: what memory may grow by. A short run sees little of a slope: give it room, and it finds gross leaks.
        seed: of when processes are killed.
    """
    chance = random.Random(seed)
    bundles(folder)
    mistakes: list[str] = []
    counts = folder / "counts"
    counts.mkdir()
    samples: list[tuple[float, Sample]] = []
    with serving(folder) as (server, url, grpc):
        began = sample(server)
        swaps = Swaps(url, folder)
        callers = Callers(url.removeprefix("http://"), grpc, counts)
        if swaps.offered:
            swaps.start()
        start = time.monotonic()
        next_kill = start + KILL_S[1]
        try:
            while (now := time.monotonic()) < start + seconds and server.is_running():
                samples.append((now - start, sample(server)))
                if now > next_kill:
                    callers.kill_one()
                    next_kill = now + chance.uniform(*KILL_S)
                time.sleep(SAMPLE_S)
        finally:
            if swaps.offered:
                swaps.stop()
            mistakes += [*swaps.mistakes, *callers.stop()]
        ended = _at_rest(server, began)
        calm = _counted(url)
    fds, threads = (
        (getattr(began, what), max(getattr(one, what) for _, one in samples), getattr(ended, what))
        for what in ("fds", "threads")
    )
    found = Soaked(
        seconds=seconds,
        calm=soak_clients.read(counts, CALM),
        beside=soak_clients.read(counts, BESIDE),
        rough=soak_clients.read(counts, ROUGH),
        counted={"calm": calm, "rough": _total(folder) - calm},
        kills=callers.kills,
        swaps=swaps.done if swaps.offered else None,
        memory=growth([time_s / 60 for time_s, _ in samples], [one.rss_mb for _, one in samples]),
        fds=fds,
        threads=threads,
        mistakes=mistakes,
    )
    notes = [line for file in counts.glob("*.notes") for line in file.read_text(encoding="utf-8").splitlines()]
    mistakes += [*notes[:20], *_judge(found, growth_mb), *_logged(folder)]
    return found


def sample(server: psutil.Process) -> Sample:
    """The server's resources now."""
    return Sample(server.memory_info().rss / 1e6, server.num_fds(), server.num_threads())


def _judge(found: Soaked, growth_mb: float) -> list[str]:
    """Everything about the counts and resources that must not be."""
    calm, beside, rough, server = found.calm, found.beside, found.rough, found.counted
    in_flight = found.kills * soak_clients.THREADS  # what a process that is killed may have sent without an answer
    right = beside["right"] + rough["right"]
    held = {
        "callers that behave got as many right answers as they sent requests": (
            calm["right"] == calm["sent"] > 0 and beside["right"] == beside["sent"] > 0
        ),
        "the server counts as many good answers for calm, and nothing else": (
            server["calm"]["ok"] == sum(server["calm"].values()) == calm["right"]
        ),
        "every other caller that waited was answered once": (
            0 <= rough["sent"] - rough["right"] - rough["refused"] - rough["left"] <= in_flight
        ),
        "the server counts as many good answers for rough as callers got, and some to callers that had left": (
            right <= server["rough"]["ok"] <= right + rough["left"] + in_flight
        ),
        "the server failed at nothing": not sum(server[name]["failed"] for name in MODELS),
        "no answer was wrong": not calm["wrong"] + beside["wrong"] + rough["wrong"],
        "some callers were refused, some told, some left": min(rough["refused"], rough["told"], rough["left"]) > 0,
        f"memory grew by less than {growth_mb:.0f} MB": found.memory.at_most < growth_mb,
        f"at the end {found.fds[2]} descriptors are open, not {found.fds[0]}": found.fds[2] <= found.fds[0] + MORE_FDS,
        f"at the end {found.threads[2]} threads run, not {found.threads[0]}": (
            found.threads[2] <= found.threads[0] + MORE_THREADS
        ),
    }
    return [f"does not hold: {what}" for what, holds in held.items() if not holds]


def report(found: Soaked) -> str:
    """The section of RESULTS.md."""
    memory = found.memory
    lines = [
        f"## `make soak`: {'**failed**' if found.mistakes else 'passed'}",
        "",
        f"{taken()}. {machine()}. {found.seconds / 60:.1f} minutes.",
        "",
        "| | valid | answered right | refused: late | left by the caller | half sent | invalid, told why | wrong |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {title} | " + " | ".join(f"{counts[name]:,}" for name in soak_clients.COUNTS) + " |"
            for title, counts in (
                ("`calm`: callers that behave (REST, gRPC)", found.calm),
                ("`rough`: callers that behave", found.beside),
                ("`rough`: all others", found.rough),
            )
        ),
        "",
        f"- Client processes killed: {found.kills}. Swaps under load: "
        f"{'not offered' if found.swaps is None else found.swaps}.",
        *(f"- The server's own count for `{name}`: {_outcomes(found.counted[name])}." for name in MODELS),
        f"- Resident memory: {memory.first:.0f} MB after warming up, {memory.last:.0f} MB at the end; slope "
        f"{memory.slope:+.3f} MB a minute (95% limits {memory.low:+.3f} to {memory.high:+.3f}): at most "
        f"{memory.at_most:.1f} MB in the {memory.span:.1f} minutes it was watched, limit {GROWTH_MB:.0f} MB.",
        f"- Descriptors {found.fds[0]} before, at most {found.fds[1]}, {found.fds[2]} after; "
        f"threads {found.threads[0]}, {found.threads[1]}, {found.threads[2]}.",
        *(f"- **{mistake}**" for mistake in found.mistakes),
    ]
    return "\n".join(lines)


def _outcomes(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {outcome}" for outcome, count in counts.most_common() if count)


# The server's own word


def _at_rest(server: psutil.Process, began: Sample) -> Sample:
    """The server's resources once it has noticed that everybody left."""
    end = time.monotonic() + 15
    while (now := sample(server)).fds > began.fds + MORE_FDS and time.monotonic() < end:
        time.sleep(0.2)
    return now


def _counted(url: str) -> Counter[str]:
    """The server's own count of requests for `calm` by outcome."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=END_S) as answer:  # noqa: S310
        text = answer.read().decode()
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            if one.name == "headway_requests_total" and one.labels["model"] == "calm":
                found[one.labels["outcome"]] += int(one.value)
    return found


def _total(folder: Path) -> Counter[str]:
    """The same over all models and versions, also those that are gone: what the server logs when it has stopped."""
    lines = (folder / "server.log").read_text(encoding="utf-8").splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    return Counter(next((line["requests"] for line in reversed(told) if line["message"] == "stopped"), {}))


def _logged(folder: Path) -> list[str]:
    """What the server itself calls errors."""
    lines = (folder / "server.log").read_text(encoding="utf-8").splitlines()
    wrong = [line for line in lines if not line.startswith("{") or json.loads(line)["level"] == "error"]
    return [f"the server's log: {line[:500]}" for line in wrong[:10]]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--print", action="store_true", help="do not write benchmarks/RESULTS.md")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headway-soak-") as place:
        folder = Path(place)
        os.environ["HEADWAY_HOME"] = str(folder / "home")
        found = soak(folder, asked.minutes * 60)
    text = report(found)
    print(text)
    if not asked.print:
        write("soak", text)
    sys.exit(bool(found.mistakes))


if __name__ == "__main__":
    main()
