"""What it gains to batch texts by their lengths, on a real encoder; writes a section of benchmarks/RESULTS.md.

    python -m benchmarks.encoder [--texts 192] [--rounds 5]

The MiniLM encoder (`minilm.py`) is packed with its tokenizer and served on one core, one thread a run, to callers on
another who each send a text and ask again once they have its vector. Servers differ in what shares a run. They take
turns at the same texts, the others stopped, and are compared within a round. One of them is also held against the
session alone, with texts of one length; and the session alone runs batches of mixed lengths in several ways.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter, thread_time
from typing import NamedTuple

import numpy as np
import psutil
from benchmarks.encoder import minilm, mixed, report
from benchmarks.encoder.callers import WIRE, request, turn
from benchmarks.results import RESULTS, write
from benchmarks.serving.models import ROOT, headway_home
from benchmarks.serving.servers import LOAD_CORE, SERVER_CORE, Running, ask

from headway.runtimes.onnx_runtime import OnnxRuntime, OnnxSession

CALLERS = (16, 32)
EVEN = 32  # tokens of each text, where all are alike
MIXED_S = 25.0
SIZES = (1, 2, 4, 8, 16, 32)
PROCESSING = """\
inputs:
  text:
    - tokenize: {file: tokenizer.json, max_length: 256}
    - feed: {input_ids: input_ids, attention_mask: attention_mask}
outputs:
  vector: [{take: vector}]
samples: {text: samples.txt}
"""


class Policy(NamedTuple):
    """What shares a run: of the bundle that is served, `pick` and the settings of `server.py`."""

    bundle: str
    pick: str = "ours"
    settings: tuple[str, ...] = ()


POLICIES = {
    "every text alone": Policy("plain", settings=("max_batch_rows=1",)),
    "equal lengths": Policy("plain"),
    "in order of arrival": Policy("padded", "arrival"),
    report.OURS: Policy("padded"),
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=192, help="of a turn")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    os.environ.update(headway_home())
    with tempfile.TemporaryDirectory(prefix="headway-bench-") as folder, ExitStack() as stack, on_core(LOAD_CORE):
        found = measure(Path(folder), stack, asked.texts, asked.rounds)
    text = report.section(found, asked.texts, asked.rounds)
    write("encoder", text)
    print(f"{text}\n\nwritten to {RESULTS}")


def measure(folder: Path, stack: ExitStack, count: int, rounds: int) -> report.Found:
    """Start all servers, let them take turns, and the session alone among them."""
    session = OnnxRuntime().load(minilm.onnx_file())
    texts = minilm.texts()
    tokens = minilm.tokens(texts)
    even = [text for text, row in zip(texts, tokens, strict=True) if len(row) == EVEN][:count]
    bundles = {name: packed(folder, name, texts[-8:]) for name in ("plain", "padded")}
    servers = {title: stack.enter_context(serving(folder, policy, bundles)) for title, policy in POLICIES.items()}
    for title, server in servers.items():
        check(title, server, texts[-64:], session)
        server.pause()
    found = report.Found([len(row) for row in tokens], EVEN)
    for number in range(rounds):
        some = texts[number * count : (number + 1) * count]
        for callers in CALLERS:
            for title, server in servers.items():
                found.turns.setdefault((title, callers), []).append(turn(server, some, callers))
            found.turns.setdefault((report.EVEN, callers), []).append(turn(servers[report.OURS], even, callers))
        with on_core(SERVER_CORE):
            found.bare.append(bare(session))
    with on_core(SERVER_CORE):
        found.mixed = mixed.measure(session, tokens, MIXED_S)
    return found


def packed(folder: Path, name: str, samples: list[str]) -> Path:
    """The encoder with its tokenizer as a bundle; `padded` says that rows may be padded."""
    (folder / "processing.yaml").write_text(PROCESSING)
    (folder / "samples.txt").write_text("\n".join(" ".join(text.split()) for text in samples))
    (folder / "tokenizer.json").write_bytes((minilm.FOLDER / "tokenizer.json").read_bytes())
    command = [Path(sys.executable).with_name("headway"), "pack", minilm.onnx_file(), "--name", "encoder"]
    command += ["--out", folder / name, "--processing", folder / "processing.yaml"]
    command += ["--pad", "input_ids=0", "--pad", "attention_mask=0"] if name == "padded" else []
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=sys.stderr)
    return folder / name


@contextmanager
def serving(folder: Path, policy: Policy, bundles: Mapping[str, Path]) -> Iterator[Running]:
    """A server on its core."""
    counts = Path(tempfile.mkstemp(dir=folder)[1])
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, "-m", "benchmarks.encoder.server"]
    command += [bundles[policy.bundle], counts, policy.pick, *policy.settings]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=sys.stderr, text=True) as process:
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline().rsplit(":", 1)[1])
            server = Running(psutil.Process(process.pid), port, WIRE, [], counts)
            yield server
            server.resume()
        finally:
            process.terminate()


def check(title: str, server: Running, texts: list[str], session: OnnxSession) -> None:
    """Answers must be those of the session for each text alone, also when many ask at a time."""
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda text: ask(server, request(text)), texts))
    for row, (status, told, body) in zip(minilm.tokens(texts), answers, strict=True):
        expected = session.run(minilm.padded([row]))["vector"][0]
        if status != 200 or not np.allclose(WIRE.decode(told, body), expected, atol=1e-4):
            raise SystemExit(f"{title}: wrong answer, status {status}: {body[:200]!r}")


def bare(session: OnnxSession) -> dict[int, report.Pace]:
    """The session alone, by batch size, with as many tokens a row as the even texts have."""
    given = {size: minilm.padded([np.full(EVEN, 2000, np.int64)] * size) for size in SIZES}
    session.run(given[1])
    taken, cpu_s = dict.fromkeys(SIZES, 0.0), dict.fromkeys(SIZES, 0.0)
    for size in SIZES * 2:
        began, cpu_began = perf_counter(), thread_time()
        for _ in range(SIZES[-1] // size):  # as many rows at every size
            session.run(given[size])
        taken[size] += perf_counter() - began
        cpu_s[size] += thread_time() - cpu_began
    rows = 2 * SIZES[-1]
    return {size: report.Pace(rows / taken[size], rows / cpu_s[size]) for size in SIZES}


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Move to another core for the block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


if __name__ == "__main__":
    main()
