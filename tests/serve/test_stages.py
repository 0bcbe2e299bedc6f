"""Processing in the server: on its own threads, beside the runs, bounded; and real clients that send real files."""

import asyncio
import base64
import http.client
import json
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton
from prometheus_client.parser import text_string_to_metric_families
from tests.processing.fixtures import PICTURE, colours_of, encoded, pack_pictures, pack_texts, photo, scores_of
from tritonclient.utils import InferenceServerException

from headway.core.errors import HeadwayError, RequestError
from headway.observe.metrics import ModelMetrics
from headway.processing.pipeline import Pipeline
from headway.serve.batcher import BatchLimits
from headway.serve.config import ServeConfig
from headway.serve.errors import DeadlineError, FullError, InferenceError, TooLargeError, UnavailableError
from headway.serve.loading import Loaded, load_bundle
from headway.serve.served_model import InferRequest, OutputRequest, ServedModel
from headway.serve.server import Server
from headway.serve.stages import Stages

pytestmark = pytest.mark.usefixtures("home")
SOON = 20.0  # seconds, of what happens at once on a machine that has time


def rows(*values: object) -> np.ndarray:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


# The threads, with processing that waits to be told


class Gate:
    """Stands in for a pipeline: each call says that it began, and goes on when it is let."""

    inputs = outputs = ()

    def __init__(self) -> None:
        self.began, self.let, self.abandoned = threading.Semaphore(0), threading.Event(), threading.Event()
        self.calls = 0
        self.result: BaseException | None = None

    def takes(self, inputs: Mapping[str, Any]) -> bool:
        return "raw" in inputs

    def gives(self, names: Any) -> bool:
        return "made" in names

    def before(self, inputs: Mapping[str, Any], abandoned: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        self.calls += 1
        self.began.release()
        self.let.wait(SOON)
        if abandoned():
            self.abandoned.set()
        if self.result is not None:
            raise self.result
        return dict(inputs)

    def after(self, outputs: Mapping[str, Any], names: Any) -> dict[str, Any]:
        return {name: threading.current_thread().name for name in names}


def staged(
    check: Callable[[Stages, Gate], Coroutine[Any, Any, None]], *, threads: int = 1, queue_rows: int = 4
) -> ModelMetrics:
    """Run a check in an event loop, and close."""
    gate, metrics = Gate(), ModelMetrics()

    async def main() -> None:
        pipeline: Any = gate
        stages = Stages(pipeline, threads=threads, queue_rows=queue_rows, metrics=metrics, name="m")
        try:
            await asyncio.wait_for(check(stages, gate), SOON)
        finally:
            gate.let.set()
            await stages.close()

    asyncio.run(main())
    return metrics


async def begun(gate: Gate) -> None:
    """Until one more call has begun."""
    assert await asyncio.to_thread(gate.began.acquire, timeout=SOON)


def asking(stages: Stages, count: int = 1, seconds: float = SOON, queued: int = 0) -> "asyncio.Task[Any]":
    return asyncio.ensure_future(stages.before({"raw": rows(*range(count))}, seconds, queued))


async def failure(of: Awaitable[Any]) -> BaseException:
    with pytest.raises(HeadwayError) as caught:
        await of
    return caught.value


def test_what_is_the_models_own_asks_no_thread() -> None:
    async def check(stages: Stages, gate: Gate) -> None:
        gate.let.set()
        assert list(await stages.before({"own": rows(1)}, SOON, 0)) == ["own"]
        assert list(await stages.after({"own": rows(1)}, ["own"], SOON)) == ["own"]

    metrics = staged(check)
    assert sum(metrics.pre.counts) == sum(metrics.post.counts) == 0


def test_rows_are_bounded_with_those_of_the_queue() -> None:
    async def check(stages: Stages, gate: Gate) -> None:
        first = asking(stages, 2)
        await begun(gate)
        assert isinstance(await failure(asking(stages, 1, queued=2)), FullError)
        second = asking(stages, 2)
        await asyncio.sleep(0)
        assert stages.rows == 4
        assert isinstance(await failure(asking(stages, 1)), FullError)
        assert isinstance(await failure(asking(stages, 5)), TooLargeError)
        gate.let.set()
        await asyncio.gather(first, second)
        assert stages.rows == 0
        await asking(stages, 4)

    assert sum(staged(check).pre.counts) == 3


def test_a_caller_that_leaves_frees_its_rows_and_stops_the_work() -> None:
    async def check(stages: Stages, gate: Gate) -> None:
        running = asking(stages, 2)
        await begun(gate)
        waiting = asking(stages, 2)
        await asyncio.sleep(0)
        running.cancel()
        waiting.cancel()
        await asyncio.wait({running, waiting})
        assert stages.rows == 0
        gate.let.set()
        assert await asyncio.to_thread(gate.abandoned.wait, SOON)
        await asking(stages, 1)
        assert gate.calls == 2  # what waited never ran

    staged(check)


def test_a_deadline_is_kept_while_the_thread_is_busy() -> None:
    async def check(stages: Stages, gate: Gate) -> None:
        running = asking(stages, 1, seconds=0.01)
        waiting = asking(stages, 1, seconds=0.02)
        assert isinstance(await failure(running), DeadlineError)
        assert isinstance(await failure(waiting), DeadlineError)
        assert stages.rows == 0
        gate.let.set()
        await asking(stages)

    assert sum(staged(check).pre.counts) == 1


def test_whatever_a_stage_raises_the_thread_lives_on() -> None:
    class Panic(BaseException):
        """As pyo3 raises for a panic in Rust."""

    async def check(stages: Stages, gate: Gate) -> None:
        gate.let.set()
        for raised, expected in ((RequestError("no"), RequestError), (IndexError(), InferenceError),
                                 (Panic(), InferenceError)):  # fmt: skip
            gate.result = raised
            assert isinstance(await failure(asking(stages)), expected)
        gate.result = None
        await asking(stages)

    staged(check)


def test_what_is_under_way_is_finished_before_closing() -> None:
    async def check(stages: Stages, gate: Gate) -> None:
        running = asking(stages)
        await begun(gate)
        draining = asyncio.ensure_future(stages.drain(SOON))
        await asyncio.sleep(0)
        assert isinstance(await failure(asking(stages)), UnavailableError)
        assert not draining.done()
        gate.let.set()
        await running
        assert 0 < await draining <= SOON

    staged(check)


def test_what_is_not_finished_in_time_is_refused() -> None:
    async def check(stages: Stages, gate: Gate) -> None:
        running, waiting = asking(stages), asking(stages)
        await begun(gate)
        assert await stages.drain(0.01) == 0
        for one in (running, waiting):
            assert isinstance(await failure(one), UnavailableError)

    staged(check)


def test_small_outputs_are_made_at_once_and_large_ones_on_a_thread() -> None:
    async def check(stages: Stages, gate: Gate) -> None:
        here = threading.current_thread().name
        small = await stages.after({"y": np.zeros((2, 3))}, ["made"], SOON)
        large = await stages.after({"y": np.zeros((1000, 1000))}, ["made"], SOON)
        assert (small["made"], large["made"]) == (here, "headway-stage-m_0")

    assert sum(staged(check).post.counts) == 2


# Beside the runs


class Slow:
    """A session that says when a run began, and ends it when it is let."""

    thread_safe = False

    def __init__(self, session: Any) -> None:
        self._session = session
        self.inputs, self.outputs, self.close = session.inputs, session.outputs, session.close
        self.began, self.let = threading.Event(), threading.Event()

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        self.began.set()
        assert self.let.wait(SOON)
        return self._session.run(inputs)


class Noted:
    """A pipeline that notes when it has prepared something."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.prepared = threading.Semaphore(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def before(self, *given: Any) -> Any:
        made = self._pipeline.before(*given)
        self.prepared.release()
        return made


@contextmanager
def loaded(bundle: Any) -> Iterator[tuple[Loaded, Slow, Noted]]:
    one = load_bundle(bundle, choose_seconds=0)
    assert one.processing is not None
    slow, noted = Slow(one.session), Noted(one.processing)
    yield replace(one, session=slow, processing=noted), slow, noted  # type: ignore[arg-type]


def request(value: np.ndarray, name: str = "picture") -> InferRequest:
    return InferRequest({name: value})


def test_pictures_are_prepared_while_a_run_is_under_way(tmp_path: Path) -> None:
    async def main(one: Loaded, slow: Slow, noted: Noted) -> None:
        limits = BatchLimits(max_rows=8, window=0, queue_rows=64, parallel_runs=1)
        model = ServedModel(one, limits, ModelMetrics(), processing_threads=2)
        pictures = [photo(seed=seed) for seed in range(4)]
        asked = [asyncio.ensure_future(model.infer(request(rows(encoded(one))), SOON)) for one in pictures[:1]]
        assert await asyncio.to_thread(slow.began.wait, SOON)  # the first picture runs, and goes on running
        asked += [asyncio.ensure_future(model.infer(request(rows(encoded(one))), SOON)) for one in pictures[1:]]
        for _ in pictures:
            assert await asyncio.to_thread(noted.prepared.acquire, timeout=SOON)  # all others are ready meanwhile
        assert not any(one.done() for one in asked)
        slow.let.set()
        answers = await asyncio.gather(*asked)
        for answer, picture in zip(answers, pictures, strict=True):
            np.testing.assert_allclose(answer.outputs[0][1][0], colours_of(picture), rtol=1e-5)
        await model.close(SOON)
        assert model.metrics.runs.keys() <= {1, 2, 3}
        assert sum(model.metrics.pre.counts) == 4

    with loaded(pack_pictures(tmp_path)) as parts:
        asyncio.run(main(*parts))


def test_an_unloaded_model_answers_what_it_is_preparing(tmp_path: Path) -> None:
    async def main(one: Loaded, slow: Slow, _noted: Noted) -> None:
        slow.let.set()
        model = ServedModel(one, BatchLimits(max_rows=8, window=0, queue_rows=64), ModelMetrics())
        asked = [asyncio.ensure_future(model.infer(request(rows(encoded(photo()))), SOON)) for _ in range(20)]
        await asyncio.sleep(0)
        await model.close(SOON)
        assert len(await asyncio.gather(*asked)) == 20
        assert isinstance(await failure(model.infer(request(rows(encoded(photo()))), SOON)), UnavailableError)

    with loaded(pack_pictures(tmp_path)) as parts:
        asyncio.run(main(*parts))


def test_the_models_own_outputs_can_be_asked_for_too(tmp_path: Path) -> None:
    async def main(one: Loaded, slow: Slow, _noted: Noted) -> None:
        slow.let.set()
        model = ServedModel(one, BatchLimits(max_rows=8, window=0, queue_rows=64), ModelMetrics())
        value = np.zeros((2, 3, 32, 32), np.float32)
        value[:, 1] = 7
        asked = [OutputRequest("logits", False), OutputRequest("label", False), OutputRequest("scores", False, 2)]
        answer = await model.infer(InferRequest({"pixels": value}, asked), SOON)
        (_, logits, _), (_, label, _), (_, classes, _) = answer.outputs
        assert logits.tolist() == [[0, 7, 0]] * 2
        assert label.tolist() == [b"green"] * 2
        assert classes[0, 0].endswith(b":1:green")
        wrong = await failure(model.infer(InferRequest({"pixels": value}, [OutputRequest("x", False)]), SOON))
        assert "logits, scores, label" in str(wrong)
        await model.close(SOON)

    with loaded(pack_pictures(tmp_path)) as parts:
        asyncio.run(main(*parts))


# Real clients


@contextmanager
def serving(*models: Any, **settings: Any) -> Iterator[Server]:
    fixed = {"http_port": 0, "grpc_port": None, "choose_seconds": 0}
    with Server(models, ServeConfig(**{**fixed, **settings})).running() as server:
        yield server


def ask(server: Server, path: str, body: bytes | str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=SOON)
    try:
        connection.request("POST", path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_a_client_sends_pictures_and_gets_labels(tmp_path: Path) -> None:
    pictures = [photo(70, 90, seed=1), photo(50, 41, seed=2)]
    sent = rows(*map(encoded, pictures))
    expected = np.stack([colours_of(picture) for picture in pictures])
    labels = [[b"red", b"green", b"blue"][place] for place in expected.argmax(axis=1)]
    with serving(pack_pictures(tmp_path), grpc_port=0) as server:
        for module, address in ((triton, server.url.removeprefix("http://")), (triton_grpc, server.grpc_address)):
            with module.InferenceServerClient(address) as client:
                picture = module.InferInput("picture", [2], "BYTES")
                picture.set_data_from_numpy(sent)
                found = client.infer("colours", [picture])
                np.testing.assert_allclose(found.as_numpy("scores"), expected, rtol=1e-5)
                assert found.as_numpy("label").tolist() == labels
        with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
            told = client.get_model_metadata("colours")
            assert told["inputs"] == [{"name": "picture", "datatype": "BYTES", "shape": [-1]}]
            assert [(o["name"], o["datatype"], o["shape"]) for o in told["outputs"]] == [
                ("scores", "FP32", [-1, 3]),
                ("label", "BYTES", [-1]),
            ]
            assert client.get_model_config("colours")["input"][0]["data_type"] == "TYPE_STRING"
            counted = client.get_inference_statistics("colours")["model_stats"][0]["inference_stats"]
            assert counted["compute_input"]["ns"] > 0


def test_a_client_sends_texts_and_gets_scores(tmp_path: Path) -> None:
    texts = ["the lazy dog", "A naïve fox, again and again, over and over and over", "quick"]
    with (
        serving(pack_texts(tmp_path)) as server,
        triton.InferenceServerClient(server.url.removeprefix("http://")) as client,
    ):
        for binary in (True, False):
            text = triton.InferInput("text", [3], "BYTES")
            text.set_data_from_numpy(rows(*[one.encode() for one in texts]), binary_data=binary)
            asked = triton.InferRequestedOutput("scores", binary_data=binary)
            found = client.infer("words", [text], outputs=[asked]).as_numpy("scores")
            np.testing.assert_allclose(found, scores_of(texts), rtol=1e-5)
        ids, mask = triton.InferInput("ids", [1, 2], "INT64"), triton.InferInput("mask", [1, 2], "INT64")
        ids.set_data_from_numpy(np.array([[4, 5]]))
        mask.set_data_from_numpy(np.array([[1, 1]]))
        assert client.infer("words", [ids, mask]).as_numpy("scores").shape == (1, 3)


def test_a_picture_travels_alone_and_in_json(tmp_path: Path) -> None:
    data, expected = encoded(photo(), "JPEG"), None
    with serving(pack_pictures(tmp_path)) as server:
        path = "/v2/models/colours/infer"
        status, answer = ask(server, path, data, {"Inference-Header-Content-Length": "0"})
        assert status == 200
        expected = np.frombuffer(answer[answer.rindex(b"}") + 1 :][:12], "<f4")
        one = {"name": "picture", "datatype": "BYTES", "shape": [1], "data": [{"b64": base64.b64encode(data).decode()}]}
        status, answer = ask(server, path, json.dumps({"inputs": [one]}))
        assert status == 200
        outputs = {output["name"]: output["data"] for output in json.loads(answer)["outputs"]}
        np.testing.assert_allclose(outputs["scores"], expected, rtol=1e-6)
        assert outputs["label"] == [("red", "green", "blue")[int(expected.argmax())]]
        for wrong in ({"b64": "?"}, {"b64": 7}, {"b64": "é"}, {"b64": "", "x": 1}, {"base64": ""}, 7, None, ["a", {}]):
            status, answer = ask(server, path, json.dumps({"inputs": [{**one, "data": [wrong]}]}))
            assert status == 400, wrong
            assert "error" in json.loads(answer)


def test_a_bad_row_fails_its_own_request_alone_and_says_why(tmp_path: Path) -> None:
    good = encoded(photo())
    bad = {
        encoded(photo(), "GIF"): "it is neither a JPEG nor a PNG file",
        b"": "it is neither a JPEG nor a PNG file",
        good[:-100]: "the picture is damaged",
        encoded(photo(400, 400)): "400 x 400 pixels are too many: at most 100,000 are taken",
    }
    with serving(pack_pictures(tmp_path), max_pixels=100_000, processing_threads=2) as server:
        address = server.url.removeprefix("http://")
        with triton.InferenceServerClient(address, concurrency=8) as client:

            def send(data: bytes) -> Any:
                picture = triton.InferInput("picture", [2], "BYTES")
                picture.set_data_from_numpy(rows(good, data))
                return client.async_infer("colours", [picture])

            asked = [(send(good), send(data), says) for data, says in bad.items() for _ in range(3)]
            for well, badly, says in asked:
                np.testing.assert_allclose(well.get_result().as_numpy("scores")[1], colours_of(photo()), rtol=1e-5)
                with pytest.raises(InferenceServerException) as caught:
                    badly.get_result()
                assert caught.value.message().startswith("input 'picture', row 1: ")
                assert says in caught.value.message()
                assert caught.value.status() == "400"
        connection = http.client.HTTPConnection(address, timeout=SOON)
        connection.request("GET", "/metrics")
        families = {f.name: f for f in text_string_to_metric_families(connection.getresponse().read().decode())}
        connection.close()
        ended = {s.labels["outcome"]: s.value for s in families["headway_requests"].samples}
        assert (ended["ok"], ended["wrong"], ended["failed"]) == (12, 12, 0)
        counts = {s.name: s.value for s in families["headway_preprocess_seconds"].samples}
        assert counts["headway_preprocess_seconds_count"] == 12


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"\xff", "row 0: the text is not UTF-8"),
        (b"a" * 10_000_000, "row 0: a text of 10,000,000 bytes"),
        (b"\x00", ""),
    ],
)
def test_hostile_texts(tmp_path: Path, text: bytes, says: str) -> None:
    with serving(pack_texts(tmp_path)) as server:
        status, answer = ask(server, "/v2/models/words/infer", text, {"Inference-Header-Content-Length": "0"})
        assert status == (400 if says else 200)
        assert says.encode() in answer


def test_wrong_requests_are_told_what_there_is(tmp_path: Path) -> None:
    def body(*inputs: tuple[str, str, list[int], list[Any]]) -> str:
        keys = ("name", "datatype", "shape", "data")
        return json.dumps({"inputs": [dict(zip(keys, one, strict=True)) for one in inputs]})

    text = ("text", "BYTES", [1], ["a fox"])
    with serving(pack_texts(tmp_path)) as server:
        for wrong, says in (
            (body(("words", "BYTES", [1], ["x"])), "no input is called 'words'. The inputs are: text; or the model's"),
            (body(text, ("ids", "INT64", [1, 1], [1])), "the model's input 'ids' is given twice"),
            (body(("text", "BYTES", [1, 1], ["x"])), "input 'text': must be BYTES of shape [-1], not object [1, 1]"),
            (body(("text", "INT64", [1], [7])), "input 'text': must be BYTES of shape [-1], not int64 [1]"),
            (body(("text", "BYTES", [2000], ["x"] * 2000)), "2000 rows in one request; at most 1024 are taken"),
            (body(("ids", "INT64", [1, 1], [1])), "input 'mask' is missing"),
        ):
            status, answer = ask(server, "/v2/models/words/infer", wrong)
            assert status == (413 if "2000" in says else 400)
            assert says in json.loads(answer)["error"]


def test_a_package_that_is_missing_is_said_before_anything_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    bundle = pack_pictures(tmp_path, PICTURE)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(HeadwayError, match=r"Pillow is not installed"), serving(bundle):
        pass
