"""What texts of mixed lengths cost the session alone, against as many tokens in rows of one length."""

from collections.abc import Callable, Sequence
from time import perf_counter, thread_time
from typing import NamedTuple

import numpy as np
from benchmarks.encoder.minilm import padded

from headway.core.tensors import Array
from headway.runtimes.onnx_runtime import OnnxSession
from headway.serve.batcher import BatchLimits
from headway.serve.durations import Durations
from headway.serve.lane import Job
from headway.serve.ragged import pick

WAITING = 32  # texts of a queue


_OWN = "own tokens"
_LEAST_ROUNDS = 4
Groups = list[list[Array]]


class Mixed(NamedTuple):
    """A way to run a queue of texts, one value a round.

    Attributes:
        cost: CPU seconds, as a multiple of what the texts' own tokens cost in rows of one length.
        padded: tokens run, as a multiple of the real ones.
        runs: of the session.
    """

    cost: list[float]
    padded: list[float]
    runs: list[int]


def measure(session: OnnxSession, tokens: Sequence[Array], seconds: float) -> dict[str, Mixed]:
    """Each round draws another queue and runs it in each way, in an order drawn anew. The first is not counted."""
    durations = Durations()

    def neighbours(queue: list[Array]) -> Groups:
        """As the batcher empties a queue that nobody joins."""
        limits, groups = BatchLimits(), []
        left = [Job(ids, 1, None, 0.0, lengths=(len(ids),), size=len(ids)) for ids in queue]
        while left:
            overhead = durations.fixed / durations.per_unit if durations.known else left[0].size
            found = pick(left, max_rows=limits.max_rows, max_padding=limits.max_padding, overhead=overhead)
            groups.append([job.payload for job in found])
            left = [job for job in left if job not in found]
        return groups

    ways: dict[str, Callable[[list[Array]], Groups]] = {
        _OWN: lambda queue: [[np.resize(queue[0], _mean(queue))] * len(queue)],
        "every text alone": lambda queue: [[ids] for ids in queue],
        "all in one run": lambda queue: [queue],
        "neighbours in length": neighbours,
    }
    found = {title: Mixed([], [], []) for title in ways if title != _OWN}
    draw = np.random.default_rng(0)
    end, rounds = perf_counter() + seconds, 0
    while rounds < _LEAST_ROUNDS or perf_counter() < end:
        queue = [tokens[place] for place in draw.choice(len(tokens), WAITING, replace=False)]
        real = sum(map(len, queue))
        groups = {title: way(queue) for title, way in ways.items()}
        run = {title: sum(len(group) * max(map(len, group)) for group in groups[title]) for title in ways}
        taken = {title: _run(session, groups[title], durations) for title in map(str, draw.permutation(list(ways)))}
        for title, seen in found.items() if rounds else ():
            seen.cost.append(taken[title] / (taken[_OWN] * real / run[_OWN]))
            seen.padded.append(run[title] / real)
            seen.runs.append(len(groups[title]))
        rounds += 1
    return found


def _mean(queue: list[Array]) -> int:
    """Tokens of a text, rounded up."""
    return -(-sum(map(len, queue)) // len(queue))


def _run(session: OnnxSession, groups: Groups, durations: Durations) -> float:
    """CPU seconds; the server learns from each run too."""
    total = 0.0
    for group in groups:
        inputs = padded(group)
        began = thread_time()
        session.run(inputs)
        took = thread_time() - began
        durations.learn(inputs["input_ids"].size, took)
        total += took
    return total
