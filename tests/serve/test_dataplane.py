"""The table of what is served, and what becomes of requests under way when it changes."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serve.numbered import SIZE, numbered

from headway.observe.metrics import Metrics
from headway.serve.batcher import BatchLimits
from headway.serve.dataplane import DataPlane, State
from headway.serve.errors import NotFoundError, UnavailableError
from headway.serve.loading import load_bundle
from headway.serve.served_model import InferRequest, ServedModel

LIMITS = BatchLimits(max_rows=4, window=0, queue_rows=16, parallel_runs=1)
REQUEST = InferRequest({"input": np.ones((1, SIZE), np.float32)})


def served(plane: DataPlane, folder: Path, number: int) -> ServedModel:
    loaded = load_bundle(numbered(folder, number), choose_seconds=0)
    return ServedModel(loaded, LIMITS, plane.metrics.model("numbered", str(number)))


def test_a_request_under_way_stays_with_its_version_and_is_waited_for(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is not in the model's queue yet, because it is still being prepared."""

    async def run() -> None:
        plane = DataPlane(Metrics())
        plane.replace("numbered", [served(plane, tmp_path, 1)])
        old = plane.model("numbered")
        prepared, real = asyncio.Event(), old._outputs

        async def slowly(*given: Any) -> Any:
            await prepared.wait()
            return await real(*given)

        monkeypatch.setattr(old, "_outputs", slowly)
        answer = asyncio.create_task(old.infer(REQUEST, 10))
        await asyncio.sleep(0)
        assert plane.replace("numbered", [served(plane, tmp_path, 2)]) == [old]
        closing = asyncio.create_task(old.close(30))
        await asyncio.sleep(0.05)
        assert not closing.done()
        assert (await plane.model("numbered").infer(REQUEST, 10)).outputs[0][1] == [[2]]
        prepared.set()
        assert (await answer).outputs[0][1] == [[1]]
        await closing
        with pytest.raises(UnavailableError):
            await old.infer(REQUEST, 10)
        await plane.close()

    asyncio.run(run())


def test_the_table(tmp_path: Path, home: Path) -> None:
    async def run() -> None:
        plane = DataPlane(Metrics())
        assert not plane.ready
        with pytest.raises(NotFoundError, match="no model is called 'numbered'"):
            plane.model("numbered")
        plane.states["numbered"] = {"": State("LOADING")}
        with pytest.raises(UnavailableError, match="is being loaded"):
            plane.model("numbered")
        one, ten, two = (served(plane, tmp_path, number) for number in (1, 10, 2))
        assert plane.replace("numbered", [one, ten, two]) == []
        assert list(plane.versions("numbered")) == ["1", "2", "10"]
        assert plane.model("numbered") is ten
        assert plane.model("numbered", "2") is two
        assert plane.ready
        assert set(plane.replace("numbered", [two])) == {one, ten}
        assert plane.model("numbered") is two
        assert not one.metrics.ready
        assert two.metrics.ready
        await asyncio.gather(one.close(1), ten.close(1))
        assert plane.replace("numbered", []) == [two]
        plane.states["numbered"] = {"2": State("UNAVAILABLE", "unloaded")}
        with pytest.raises(NotFoundError, match="is not loaded: unloaded"):
            plane.model("numbered")
        assert plane.names == []
        await two.close(1)

    asyncio.run(run())
