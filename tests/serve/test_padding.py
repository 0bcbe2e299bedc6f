"""Rows of different lengths in one run: everybody gets what he would have got alone, or padding is off."""

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.bundles.golden import Sample
from headway.core.errors import RequestError
from headway.core.tensors import Array, TensorSpec
from headway.serve.batcher import BatchLimits
from headway.serve.errors import InferenceError
from headway.serve.padding import Padding, refuted
from headway.serve.runner import Runner
from headway.serve.signature import Signature

INPUTS = (
    TensorSpec(name="ids", datatype="INT64", shape=(-1, -1), dims=("batch", "length")),
    TensorSpec(name="mask", datatype="BOOL", shape=(-1, -1), dims=("batch", "length")),
)
OUTPUTS = (
    TensorSpec(name="sum", datatype="INT64", shape=(-1,), dims=("batch",)),
    TensorSpec(name="squares", datatype="INT64", shape=(-1, -1, 2), dims=("batch", "length", "")),
)
PADDING = Padding(INPUTS, OUTPUTS, {"ids": 7, "mask": 0})


class Masked:
    """A masked sum of each row, and what each element is squared: padding is in neither."""

    inputs, outputs, thread_safe = INPUTS, OUTPUTS, True

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.shapes: list[tuple[int, ...]] = []

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.gate.wait(20)
        ids, mask = inputs["ids"], inputs["mask"]
        self.shapes.append(ids.shape)
        return {"sum": np.sum(ids, 1, where=mask), "squares": np.stack([ids, ids * ids], 2)}  # type: ignore[arg-type]

    def close(self) -> None: ...


class Unmasked(Masked):
    """Says it has a mask, and sums everything."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return super().run({**inputs, "mask": np.ones_like(inputs["mask"])})


class Silent:
    def batch_ran(self, **_: Any) -> None: ...


def request(rows: list[list[int]]) -> dict[str, Array]:
    ids = np.array(rows, np.int64)
    return {"ids": ids, "mask": ids % 3 != 0}


requests = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 40)).flatmap(
        lambda shape: st.lists(
            st.lists(st.integers(-(2**31), 2**31), min_size=shape[1], max_size=shape[1]),
            min_size=shape[0],
            max_size=shape[0],
        )
    ),
    min_size=1,
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(requests, st.integers(1, 16), st.sampled_from([0.1, 0.5, 5.0]))
def test_everybody_gets_his_own_rows_bit_for_bit(
    asked: list[list[list[int]]], max_rows: int, max_padding: float
) -> None:
    session, alone = Masked(), Masked()
    alone.gate.set()
    signature = Signature(INPUTS, shares_runs=True, padding=PADDING)

    async def main() -> list[dict[str, Array]]:
        limits = BatchLimits(max_rows=max_rows, max_padding=max_padding)
        runner = Runner(session, limits, whole_rows=True, watcher=Silent(), name="masked", padding=PADDING)
        checked = [signature.check(request(rows)) for rows in asked]
        tasks = [asyncio.create_task(runner.infer(one, 20)) for one in checked]
        await asyncio.sleep(0)
        session.gate.set()
        try:
            return await asyncio.gather(*tasks)
        finally:
            await runner.close(5)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        answers = loop.run(main())
    for rows, answer in zip(asked, answers, strict=True):
        for name, expected in alone.run(request(rows)).items():
            assert answer[name].dtype == expected.dtype
            np.testing.assert_array_equal(answer[name], expected)
    real = sum(len(rows) * len(rows[0]) for rows in asked)
    assert sum(rows * length for rows, length in session.shapes) <= (1 + max_padding) * real
    assert sum(rows for rows, _ in session.shapes) == sum(map(len, asked))


def test_padding_fills_up_what_is_shorter_with_its_value() -> None:
    joined = PADDING.join([request([[1, 2]]), request([[4], [5]])], [(2,), (1,)])
    assert joined["ids"].tolist() == [[1, 2], [4, 7], [5, 7]]
    assert joined["mask"].tolist() == [[True, True], [True, False], [True, False]]
    assert {name: value.dtype.kind for name, value in joined.items()} == {"ids": "i", "mask": "b"}


def test_a_request_whose_own_inputs_disagree_is_refused() -> None:
    """Padded to one length they would pass, and alone they would fail."""
    signature = Signature(INPUTS, shares_runs=True, padding=PADDING)
    with pytest.raises(RequestError, match="input 'mask': dimension 1 is 4, where another input has 3"):
        signature.check({"ids": np.ones((1, 3), np.int64), "mask": np.ones((1, 4), np.bool_)})


def test_an_output_that_is_not_as_long_as_its_input_is_not_cut() -> None:
    outputs = {"sum": np.ones(1), "squares": np.ones((1, 4, 2))}
    with pytest.raises(InferenceError, match=r"output 'squares' has shape \(1, 4, 2\)"):
        PADDING.cut([outputs], [(5,)])


def test_lanes_and_lengths_of_what_is_padded_and_what_is_not() -> None:
    other = TensorSpec(name="other", datatype="INT64", shape=(-1, -1), dims=("batch", "choices"))
    fixed = TensorSpec(name="fixed", datatype="INT64", shape=(-1, 4), dims=("batch", ""))
    padding = Padding((*INPUTS, other, fixed), OUTPUTS[:1], {"ids": 0, "mask": 0})
    signature = Signature((*INPUTS, other, fixed), shares_runs=True, padding=padding)
    inputs = {**request([[1, 2, 3]]), "other": np.ones((1, 6), np.int64), "fixed": np.ones((1, 4), np.int64)}
    checked = signature.check(inputs)
    assert (checked.lane, checked.lengths) == (((6,),), (3,))


def test_two_dimensions_are_padded_each_to_its_longest() -> None:
    picture = TensorSpec(name="x", datatype="FP32", shape=(-1, -1, -1), dims=("n", "h", "w"))
    turned = TensorSpec(name="y", datatype="FP32", shape=(-1, -1, -1), dims=("n", "w", "h"))
    padding = Padding((picture,), (turned,), {"x": -1})
    tall, wide = np.ones((1, 3, 1), np.float32), np.full((1, 1, 2), 2, np.float32)
    lengths = [padding.lengths({"x": tall}), padding.lengths({"x": wide})]
    assert lengths == [(3, 1), (1, 2)]
    joined = padding.join([{"x": tall}, {"x": wide}], lengths)["x"]
    assert joined.tolist() == [[[1, -1], [1, -1], [1, -1]], [[2, 2], [-1, -1], [-1, -1]]]
    answers = padding.cut([{"y": row.transpose(0, 2, 1)} for row in (joined[:1], joined[1:])], lengths)
    assert [answer["y"].tolist() for answer in answers] == [[[[1, 1, 1]]], [[[2], [2]]]]


def golden(session: Masked, rows: list[list[int]]) -> Sample:
    session.gate.set()
    return Sample(request(rows), session.run(request(rows)))


EXACT = {"sum": 0.0, "squares": 0.0}


def test_a_claim_that_holds_is_not_refuted() -> None:
    session = Masked()
    samples = [golden(session, [[1, 2, 3, 4, 5]]), golden(session, [[1], [2]])]
    assert refuted(PADDING, session, samples, EXACT) == ""
    assert session.shapes[2:] == [(1, 3), (2, 5)], "not run alone, and then beside the longer one"


def test_a_lie_is_found_out() -> None:
    session = Unmasked()
    reason = refuted(PADDING, session, [golden(session, [[1, 2, 3, 4, 5]])], EXACT)
    assert reason == "padding changes output 'sum' by 14, where 0 is allowed"  # twice the padding value
    assert refuted(PADDING, session, [golden(session, [[1, 2, 3, 4, 5]])], {"sum": 14.0, "squares": 0.0}) == ""


def test_what_cannot_be_tried_does_not_count_as_proved() -> None:
    session = Masked()
    reason = refuted(PADDING, session, [golden(session, [[1], [2]])], EXACT)
    assert reason == "no golden sample is long enough to try it"


def test_a_model_that_fails_on_padded_inputs_is_a_reason() -> None:
    class Fails(Masked):
        def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            if len(inputs["ids"]) > 1:
                raise MemoryError("no room")
            return super().run(inputs)

    session = Fails()
    assert refuted(PADDING, session, [golden(session, [[1, 2, 3]])], EXACT) == "MemoryError: no room"
