"""Shared answers over real sockets: right for everybody, and nobody else's."""

import asyncio
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from prometheus_client.parser import text_string_to_metric_families

from headway.bundles.bundle import Bundle
from headway.core.errors import ConfigError
from headway.observe.metrics import Metrics
from headway.serve.batcher import BatchLimits
from headway.serve.cache_store import AnswerStore
from headway.serve.config import ServeConfig
from headway.serve.dataplane import DataPlane
from headway.serve.loading import load_bundle
from headway.serve.served_model import InferRequest, ServedModel
from headway.serve.server import Server

Seal = Callable[..., Bundle]
WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 10
ROW = np.array([[1, 2, 3, 4]], np.float32)


class Client:
    """Both wires of one server."""

    def __init__(self, server: Server) -> None:
        self.url = server.url
        self.rest = triton_http.InferenceServerClient(server.url.removeprefix("http://"), concurrency=8)
        self.grpc = triton_grpc.InferenceServerClient(server.grpc_address)

    def ask(self, model: str, value: np.ndarray, *, wire: str = "rest", binary: bool = True, **more: Any) -> Any:
        api: Any = triton_http if wire == "rest" else triton_grpc
        kind = "BYTES" if value.dtype == object else "FP32"
        one = api.InferInput("text" if kind == "BYTES" else "input", list(value.shape), kind)
        if wire == "rest":
            one.set_data_from_numpy(value, binary_data=binary)
            return self.rest.infer(model, [one], **more)
        one.set_data_from_numpy(value)
        return self.grpc.infer(model, [one], **more)

    def statistics(self, model: str, version: str = "") -> dict[str, Any]:
        (found,) = self.rest.get_inference_statistics(model, version)["model_stats"]
        return found

    def runs(self, model: str, version: str = "") -> int:
        return self.statistics(model, version)["execution_count"]


@contextmanager
def serving(*models: Any, **settings: Any) -> Iterator[tuple[Server, Client]]:
    config = ServeConfig(**{"http_port": 0, "grpc_port": 0, "cache_mb": 1, "choose_seconds": 0, **settings})
    with Server(models, config).running() as server:
        client = Client(server)
        try:
            yield server, client
        finally:
            client.rest.close()
            client.grpc.close()


def metric(client: Client, name: str, **labels: str) -> float:
    with urllib.request.urlopen(f"{client.url}/metrics", timeout=20) as answer:  # noqa: S310
        text = answer.read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    (found,) = [s.value for s in samples if s.name == name and labels.items() <= s.labels.items()]
    return found


def test_an_input_that_comes_again_is_not_run_again_however_it_comes(sealed: Seal) -> None:
    with serving(sealed("linear")) as (_, client):
        for wire, binary in (("rest", True), ("rest", False), ("grpc", True)):
            result = client.ask("linear", ROW, wire=wire, binary=binary)
            np.testing.assert_allclose(result.as_numpy("logits"), ROW @ WEIGHTS, rtol=1e-6)
        assert client.runs("linear") == 1
        client.ask("linear", ROW + 1)
        assert client.runs("linear") == 2


def test_ids_are_the_requests_own(sealed: Seal) -> None:
    with serving(sealed("linear")) as (_, client):
        for number in ("1", "2", ""):
            assert client.ask("linear", ROW, request_id=number).get_response().get("id", "") == number
            assert client.ask("linear", ROW, wire="grpc", request_id=number).get_response().id == number
        assert client.runs("linear") == 1


def test_whichever_outputs_are_asked_for_come_from_one_run(sealed: Seal) -> None:
    with serving(sealed("linear"), sealed("everything")) as (_, client):
        plain = client.ask("linear", ROW).as_numpy("logits")
        asked = [triton_http.InferRequestedOutput("logits", class_count=2)]
        best = client.ask("linear", ROW, outputs=asked).as_numpy("logits")
        assert [text.decode().split(":")[1] for text in best[0]] == ["2", "1"]
        np.testing.assert_array_equal(client.ask("linear", ROW).as_numpy("logits"), plain)
        assert client.runs("linear") == 1
        kinds = {"BOOL": "?", "FP16": "f2", "FP32": "f4", "FP64": "f8"}
        kinds |= {f"{s}INT{bits}": f"{s.lower() or 'i'}{bits // 8}" for s in ("", "U") for bits in (8, 16, 32, 64)}
        values = {kind: np.array([[1, 0]]).astype(code) for kind, code in kinds.items()}
        for names in (["FP32"], ["BOOL", "INT64", "FP16"], list(kinds), ["UINT8"]):
            sent = [triton_http.InferInput(f"in_{kind}", [1, 2], kind) for kind in kinds]
            for one, value in zip(sent, values.values(), strict=True):
                one.set_data_from_numpy(value)
            wanted = [triton_http.InferRequestedOutput(f"out_{kind}", binary_data=True) for kind in names]
            result = client.rest.infer("everything", sent, outputs=wanted)
            assert [output["name"] for output in result.get_response()["outputs"]] == [f"out_{kind}" for kind in names]
            for kind in names:
                np.testing.assert_array_equal(result.as_numpy(f"out_{kind}"), values[kind])
        assert client.runs("everything") == 1


def test_text_is_shared_as_it_is(sealed: Seal) -> None:
    with serving(sealed("texts")) as (_, client):
        for text in (["größe", ""], ["größe\0"], ["gr", "öße"]):
            value = np.array([item.encode() for item in text], dtype=object)
            for wire, binary in (("rest", True), ("rest", False), ("grpc", True)):
                assert client.ask("texts", value, wire=wire, binary=binary).as_numpy("same").tolist() == list(value)
        assert client.runs("texts") == 3


# Attack 21: nobody gets another's answer


def test_another_model_or_version_never_gets_the_answer(sealed: Seal) -> None:
    bundles = [sealed("linear"), sealed("lengths"), sealed("linear", version="2"), sealed("linear", called="twin")]
    with serving(*bundles) as (_, client):
        for _ in range(2):
            np.testing.assert_allclose(client.ask("linear", ROW).as_numpy("logits"), ROW @ WEIGHTS, rtol=1e-6)
            assert client.ask("lengths", ROW).as_numpy("total").tolist() == [[10]]
            for version in ("1", "2"):
                answer = client.ask("linear", ROW, model_version=version).get_response()
                assert (answer["model_name"], answer["model_version"]) == ("linear", version)
            assert client.ask("twin", ROW).get_response()["model_name"] == "twin"
        assert [client.runs("linear", version) for version in ("1", "2")] == [1, 1]
        assert client.runs("lengths") == client.runs("twin") == 1


def test_another_tenant_never_gets_the_answer(sealed: Seal) -> None:
    with serving(sealed("linear")) as (_, client):
        for number, who in enumerate([None, "Bearer a", "Bearer b", "bearer a"]):
            for wire, name in (("rest", "Authorization"), ("grpc", "authorization")):
                result = client.ask("linear", ROW, wire=wire, headers=who and {name: who})
                np.testing.assert_allclose(result.as_numpy("logits"), ROW @ WEIGHTS, rtol=1e-6)
                assert client.runs("linear") == number + 1  # one tenant is the same on both wires


class Gated:
    """A session that waits at a gate."""

    def __init__(self, session: Any) -> None:
        self.inputs, self.outputs, self.thread_safe = session.inputs, session.outputs, session.thread_safe
        self.gate, self.entered = threading.Event(), threading.Semaphore(0)
        self.rows: list[int] = []
        self._session = session

    def run(self, inputs: Any) -> Any:
        self.rows.append(len(inputs["input"]))
        self.entered.release()
        assert self.gate.wait(20)
        return self._session.run(inputs)

    def close(self) -> None:
        self._session.close()


def in_process(bundle: Bundle, body: Callable[[ServedModel, Gated, AnswerStore], Any]) -> None:
    async def main() -> None:
        loaded = load_bundle(bundle, choose_seconds=0)
        session = Gated(loaded.session)
        object.__setattr__(loaded, "session", session)
        store = AnswerStore(1_000_000)
        plane = DataPlane(Metrics(), store)
        model = ServedModel(loaded, BatchLimits(), plane.metrics.model("linear", "1"), plane.store)
        try:
            await body(model, session, store)
        finally:
            session.gate.set()
            await model.close(5)
        assert store.used == 0

    asyncio.run(main())


def test_a_running_answer_is_shared_within_a_tenant_alone(sealed: Seal) -> None:
    async def body(model: ServedModel, session: Gated, _store: AnswerStore) -> None:
        first = asyncio.create_task(model.infer(InferRequest({"input": ROW + 1}), 20))
        await asyncio.to_thread(session.entered.acquire)
        others = [
            asyncio.create_task(model.infer(InferRequest({"input": ROW}, tenant=tenant, id=f"{n}"), 20))
            for n, tenant in enumerate(["", "a", "b", "a", "b", ""])
        ]
        await asyncio.sleep(0)
        session.gate.set()
        for number, response in enumerate(await asyncio.gather(*others)):
            assert response.id == f"{number}"
            np.testing.assert_allclose(response.outputs[0][1], ROW @ WEIGHTS, rtol=1e-6)
        await first
        assert session.rows == [1, 3]

    in_process(sealed("linear"), body)


def test_a_caller_who_asks_for_a_priority_that_is_none_fails_nobody_else(sealed: Seal) -> None:
    async def body(model: ServedModel, session: Gated, _store: AnswerStore) -> None:
        wrong = asyncio.create_task(model.infer(InferRequest({"input": ROW}, priority=99), 20))
        right = asyncio.create_task(model.infer(InferRequest({"input": ROW}), 20))
        await asyncio.sleep(0)
        session.gate.set()
        np.testing.assert_allclose((await right).outputs[0][1], ROW @ WEIGHTS, rtol=1e-6)
        await asyncio.gather(wrong, return_exceptions=True)

    in_process(sealed("linear"), body)


def test_a_closed_model_leaves_nothing_in_memory(sealed: Seal) -> None:
    async def body(model: ServedModel, session: Gated, store: AnswerStore) -> None:
        session.gate.set()
        await model.infer(InferRequest({"input": ROW}), 20)
        assert store.used > 0  # and `in_process` looks after `close`

    in_process(sealed("linear"), body)


# What is seen from outside


def test_the_counts_are_told(sealed: Seal) -> None:
    with serving(sealed("linear")) as (_, client):
        for value in (ROW, ROW, ROW + 1, ROW):
            client.ask("linear", value)
        seen = client.statistics("linear")["inference_stats"]
        assert (seen["cache_hit"]["count"], seen["cache_miss"]["count"]) == (2, 2)
        assert seen["cache_hit"]["ns"] > 0
        assert seen["cache_miss"]["ns"] > 0
        assert seen["success"]["count"] == seen["queue"]["count"] == 4
        assert seen["compute_infer"]["count"] == 2
        (found,) = client.grpc.get_inference_statistics("linear").model_stats
        assert (found.inference_stats.cache_hit.count, found.inference_stats.cache_miss.count) == (2, 2)
        one = {"model": "linear", "version": "1", "boundary": "answer"}
        for outcome, count in {"hit": 2, "miss": 2, "coalesced": 0, "passed": 0}.items():
            assert metric(client, "headway_cache_requests_total", outcome=outcome, **one) == count
        assert metric(client, "headway_cache_on", **one) == 1
        assert metric(client, "headway_cache_entries", **one) == 2
        assert 500 < metric(client, "headway_cache_bytes", **one) < 5000
        assert metric(client, "headway_cache_evictions_total", **one) == 0


def test_many_answers_stay_within_the_memory_that_was_granted(sealed: Seal) -> None:
    async def body(model: ServedModel, session: Gated, store: AnswerStore) -> None:
        session.gate.set()
        for start in range(0, 2000, 50):
            values = [np.full((20, 4), number, np.float32) for number in range(start, start + 50)]
            await asyncio.gather(*(model.infer(InferRequest({"input": value}), 20) for value in values))
            assert store.used <= 1_000_000
        counts = model.metrics.caches["answer"]
        assert counts.evictions > 0
        assert counts.entries + counts.evictions + counts.passed == 2000

    in_process(sealed("linear"), body)


def test_without_the_setting_every_request_runs(sealed: Seal) -> None:
    with serving(sealed("linear"), cache_mb=0) as (_, client):
        for _ in range(3):
            client.ask("linear", ROW)
        assert client.runs("linear") == 3
        seen = client.statistics("linear")["inference_stats"]
        assert seen["cache_hit"] == seen["cache_miss"] == {"count": 0, "ns": 0}


@pytest.mark.parametrize("wrong", [-1, 1.5, "many"])
def test_the_memory_is_a_whole_number_of_megabytes(wrong: Any) -> None:
    with pytest.raises((ConfigError, ValueError), match="cache_mb"):
        ServeConfig(cache_mb=wrong)
