"""The encoder's benchmark: what its callers send, and what is said of what they saw."""

import re

import numpy as np
import pytest
from benchmarks.encoder.callers import Turn, request
from benchmarks.encoder.mixed import Mixed, measure
from benchmarks.encoder.report import EVEN, OURS, Found, Pace, section
from benchmarks.encoder.server import Counts

from headway.core.tensors import Array


def turn(rate: float, cpu_rate: float = 100.0) -> Turn:
    return Turn(100, 100 / rate, 100 / cpu_rate, [0.1] * 100, Counts(25, 100, 1050, 1000))


@pytest.mark.parametrize("text", ["", "a film", "Amélie " * 10_000])
def test_every_request_has_its_text_after_as_many_bytes(text: str) -> None:
    body, head = request(text), len(request("")) - 4
    size = re.search(rb'"binary_data_size": *(\d+)}', body[:head])
    assert size is not None
    assert int(size[1]) == len(body) - head
    assert body[head:] == len(text.encode()).to_bytes(4, "little") + text.encode()


def test_gains_are_taken_within_a_round_and_the_goal_is_by_the_clock() -> None:
    """The machine was twice as fast in the second round, for all."""
    found = Found([10, 20, 300], 32)
    found.turns = {("every text alone", 8): [turn(50), turn(100)], (OURS, 8): [turn(60), turn(120)]}
    found.turns[EVEN, 8] = [turn(80), turn(160)]
    found.bare = [{1: Pace(50, 60), 8: Pace(100, 110)}, {1: Pace(100, 105), 8: Pace(200, 210)}]
    found.mixed = {OURS: Mixed([1.1, 1.2], [1.05, 1.05], [4, 4])}
    text = section(found, 100, 2)
    assert "| every text alone | 8 | 75 | 1.20 (1.20-1.20) | 1.00 (1.00-1.00) | 100 / 100 | 4.0 | 1.05 |" in text
    assert "best batch size, 8." in text
    assert "0.80 (0.80-0.80) of it with 8 callers" in text
    assert "**not reached**" in text
    assert "**The machine was busy**" in text


class _Session:
    """Notes what is run."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        self.tokens.append(int(inputs["attention_mask"].sum()))
        return {}


def test_every_way_runs_every_token_of_a_queue() -> None:
    session = _Session()
    found = measure(session, [np.full(n % 60 + 2, 1) for n in range(200)], 0)  # type: ignore[arg-type]
    assert set(map(len, (found[OURS].cost, found["all in one run"].cost))) == {3}
    assert found["every text alone"].padded == [1.0] * 3
    assert found["all in one run"].runs == [1] * 3
    ours = found[OURS]
    assert all(1 <= padded <= 1.25 and 1 <= runs < 32 for padded, runs in zip(ours.padded, ours.runs, strict=True))
