"""A served model's way of a request, without a wire: priorities, lengths, and what the model's config says of them."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.serve.wire import Gated

from headway.bundles.bundle import Bundle
from headway.core.errors import RequestError
from headway.observe.metrics import ModelMetrics
from headway.serve import describe
from headway.serve.config import ServeConfig
from headway.serve.loading import load_bundle
from headway.serve.served_model import InferRequest, ServedModel

Seal = Callable[..., Bundle]


def serve(bundle: Bundle, body: Callable[[ServedModel, Gated], Coroutine[Any, Any, None]], **settings: Any) -> None:
    """Run `body` with the bundle's model, whose session is busy with a first request."""

    async def main() -> None:
        loaded = load_bundle(bundle, choose_seconds=0)
        session = Gated(loaded.session)
        limits = ServeConfig(**settings).batch_limits(bundle.manifest.contract, thread_safe=True)
        model = ServedModel(replace(loaded, session=session), limits, ModelMetrics())
        first = asyncio.create_task(ask(model, [[1.0, 2.0]]))
        await asyncio.to_thread(session.entered.wait)
        try:
            await body(model, session)
        finally:
            session.gate.set()
            await first
            await model.close(5)

    asyncio.run(main())


async def ask(model: ServedModel, rows: list[list[float]], priority: int = 0) -> list[list[float]]:
    request = InferRequest({"input": np.array(rows, np.float32)}, priority=priority)
    ((_, value, _),) = (await model.infer(request, 20)).outputs
    return value.tolist()  # type: ignore[no-any-return]


def said(model: ServedModel) -> str | None:
    parameter = describe.config(model)["parameters"].get("padding")
    return parameter and parameter["string_value"]


def test_requests_of_different_lengths_share_a_run_where_the_bundle_says_how(sealed: Seal) -> None:
    async def body(model: ServedModel, session: Gated) -> None:
        assert said(model) == "on"
        asked = [[[1.0] * length] for length in (4, 5, 5, 4)]
        waiting = [asyncio.create_task(ask(model, rows)) for rows in asked]
        await asyncio.sleep(0)
        session.gate.set()
        assert [await one for one in waiting] == [[[4.0]], [[5.0]], [[5.0]], [[4.0]]]
        assert [run.shape for run in session.runs] == [(1, 2), (4, 5)]

    serve(sealed("lengths", padding={"input": 0}), body)


@pytest.mark.parametrize(
    ("padding", "config"), [({}, None), ({"input": 1}, "off: the bundle's claim does not hold here")]
)
def test_lengths_stay_apart_where_it_does_not_or_lies(
    sealed: Seal, padding: dict[str, float], config: str | None
) -> None:
    async def body(model: ServedModel, session: Gated) -> None:
        assert said(model) == config
        waiting = [asyncio.create_task(ask(model, [[1.0] * length])) for length in (4, 5, 5, 4)]
        await asyncio.sleep(0)
        session.gate.set()
        assert [await one for one in waiting] == [[[4.0]], [[5.0]], [[5.0]], [[4.0]]]
        assert sorted(run.shape for run in session.runs) == [(1, 2), (2, 4), (2, 5)]

    serve(sealed("lengths", padding=padding), body)


def test_a_request_says_who_goes_first(sealed: Seal) -> None:
    async def body(model: ServedModel, session: Gated) -> None:
        waiting = [asyncio.create_task(ask(model, [[float(level)] * 4], level)) for level in (0, 9, 1)]
        await asyncio.sleep(0)
        with pytest.raises(RequestError, match="priority: must be from 1"):
            await ask(model, [[1.0]], 11)
        session.gate.set()
        await asyncio.gather(*waiting)
        assert [run[0, 0] for run in session.runs[1:]] == [1, 9, 0], "the default is below 9 here"

    serve(sealed("lengths"), body, max_batch_rows=1, default_priority=10)


def test_settings_become_limits(sealed: Seal) -> None:
    contract = sealed("linear").manifest.contract.model_copy(update={"p99_ms": 20.0})
    limits = ServeConfig().batch_limits(contract, thread_safe=False)
    assert (limits.adaptive, limits.latency_target, limits.parallel_runs) == (True, 0.020, 1)
    config = ServeConfig(batching="fixed", latency_target_ms=5, parallel_runs=2, max_padding=0.5, default_priority=2)
    limits = config.batch_limits(contract, thread_safe=True)
    assert (limits.adaptive, limits.latency_target, limits.parallel_runs) == (False, 0.005, 2)
    assert (limits.max_padding, limits.default_priority) == (0.5, 2)
