"""What is known of a request while it is under way."""

import asyncio
import re

from headway.observe.requests import CURRENT, RequestRecord, batch_ran, current_id
from headway.observe.traceparent import Traceparent

PARENT = Traceparent("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=True)


def test_ids_differ_and_stay() -> None:
    records = [RequestRecord() for _ in range(1000)]
    ids = [record.id for record in records]
    assert len(set(ids)) == 1000
    assert ids == [record.id for record in records]
    assert all(re.fullmatch("[0-9a-f]{32}", one) and set(one) != {"0"} for one in ids)


def test_the_callers_trace_is_the_id() -> None:
    record = RequestRecord()
    record.parent = PARENT
    assert record.id == PARENT.trace_id
    version, trace_id, span_id, flags = record.response().split("-")
    assert (version, trace_id, flags) == ("00", PARENT.trace_id, "00")  # nothing was recorded here
    assert span_id != PARENT.span_id


def test_each_task_has_its_own_request() -> None:
    async def answered() -> bool:
        record = RequestRecord()
        CURRENT.set(record)
        await asyncio.sleep(0)
        return current_id() == record.id

    async def several() -> list[bool]:
        return await asyncio.gather(*(answered() for _ in range(20)))

    assert all(asyncio.run(several()))
    assert CURRENT.get() is None
    assert current_id() != current_id()


def test_stages_come_in_the_order_of_their_start() -> None:
    record, other = RequestRecord(), RequestRecord()
    record.began, record.entered = 1.0, 1.5
    record.stage("preprocess", 1.5, 0.25)
    batch_ran([record, None, other], [0.5, 0.1, 0.2], rows=3, began=2.25, seconds=0.5)
    record.stage("postprocess", 2.75, 0.125)
    assert [stage[0] for stage in record.stages(4.0)] == ["decode", "preprocess", "queue", "infer", "postprocess"]
    record.outcome, record.answered = "ok", 2.875
    assert record.stages(4.0) == [
        ("decode", 1.0, 0.5), ("preprocess", 1.5, 0.25), ("queue", 1.75, 0.5), ("infer", 2.25, 0.5),
        ("postprocess", 2.75, 0.125), ("encode", 2.875, 1.125),
    ]  # fmt: skip
    assert RequestRecord().stages(4.0) == []  # it reached no model
