"""Every public method of tritonclient's four clients, unmodified, against a real server.

The methods are listed by introspection: one without a case fails the test.
"""

import asyncio
import http.client
import importlib
import inspect
import os
import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException, shared_memory

from headway.bundles.bundle import Bundle
from headway.observe.logs import logger
from headway.serve.config import ServeConfig
from headway.serve.server import Server

Seal = Callable[..., Bundle]
WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 10
ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
CLIENTS = ("tritonclient.http", "tritonclient.http.aio", "tritonclient.grpc", "tritonclient.grpc.aio")

# Come with the loading and unloading of models; their cases stand below.
LATER = {"load_model", "unload_model"}


class Use:
    """One client, its calls made synchronous: `use.infer(...)` waits where the client's own method is a coroutine."""

    def __init__(self, module: ModuleType, server: Server, run: Callable[[Any], Any]) -> None:
        self.module, self.server, self.run = module, server, run
        self.grpc = ".grpc" in module.__name__
        self.address = server.grpc_address if self.grpc else server.url.removeprefix("http://")
        self.client = run(self._make())

    async def _make(self) -> Any:
        return self.module.InferenceServerClient(self.address)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.client, name)

        def call(*arguments: Any, **named: Any) -> Any:
            found = method(*arguments, **named)
            return self.run(found) if inspect.isawaitable(found) else found

        return call

    def input(self, value: np.ndarray = ROWS) -> Any:
        one = self.module.InferInput("input", list(value.shape), "FP32")
        one.set_data_from_numpy(value)
        return one

    def document(self, name: str, *arguments: Any, **named: Any) -> Any:
        """What a method answers, as JSON on both wires."""
        return getattr(self, name)(*arguments, **named, **({"as_json": True} if self.grpc else {}))


@contextmanager
def using(name: str, server: Server) -> Iterator[Use]:
    with asyncio.Runner() as runner:

        def run(found: Any) -> Any:
            return runner.run(found)

        use = Use(importlib.import_module(name), server, run)
        try:
            yield use
        finally:
            use.close()


def right(result: Any, value: np.ndarray = ROWS) -> None:
    np.testing.assert_allclose(result.as_numpy("logits"), value @ WEIGHTS, rtol=1e-5)


# One case a method


def infer(use: Use) -> None:
    outputs = [use.module.InferRequestedOutput("logits")]
    result = use.infer("linear", [use.input()], "1", outputs, "7", priority=1, timeout=20_000_000)
    right(result)
    right(use.infer("linear", [use.input()]))
    with pytest.raises(InferenceServerException, match="sequence_id"):
        use.infer("linear", [use.input()], sequence_id=3, sequence_start=True)


def async_infer(use: Use) -> None:
    if not use.grpc:
        right(use.async_infer("linear", [use.input()]).get_result())
        return
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    use.async_infer("linear", [use.input()], lambda result, error: answers.put((result, error)))
    result, error = answers.get(timeout=20)
    assert error is None
    right(result)


def start_stream(use: Use) -> None:
    """And async_stream_infer, stop_stream: answers in order, and a bad request between good ones fails alone."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    use.start_stream(lambda result, error: answers.put((result, error)))
    values = [np.full((1 + number % 3, 4), number, np.float32) for number in range(20)]
    for number, value in enumerate(values):
        model = "none" if number == 5 else "linear"
        use.async_stream_infer(model, [use.input(value)], request_id=str(number), enable_empty_final_response=True)
    use.stop_stream()
    for number, value in enumerate(values):
        result, error = answers.get(timeout=20)
        if number == 5:
            assert "no model is called 'none'" in error.message()
            continue
        right(result, value)
        assert result.get_response().id == str(number)
        assert result.get_response().parameters["triton_final_response"].bool_param
    assert answers.empty()


def stream_infer(use: Use) -> None:
    values = [np.full((1, 4), number, np.float32) for number in range(10)]

    async def requests() -> Any:
        for value in values:
            yield {"model_name": "linear", "inputs": [use.input(value)]}

    async def collect() -> list[Any]:
        return [one async for one in use.client.stream_infer(requests())]

    for value, (result, error) in zip(values, use.run(collect()), strict=True):
        assert error is None
        right(result, value)


def generate_request_body(use: Use) -> None:
    """And parse_response_body."""
    kind = use.module.InferenceServerClient
    body, length = kind.generate_request_body([use.input()])
    connection = http.client.HTTPConnection(use.address, timeout=20)
    headers = {"Inference-Header-Content-Length": str(length)}
    connection.request("POST", "/v2/models/linear/infer", body, headers)
    answer = connection.getresponse()
    content, header = answer.read(), int(answer.headers["inference-header-content-length"])
    connection.close()
    right(kind.parse_response_body(content, header_length=header))


def metadata(use: Use) -> None:
    found = use.document("get_server_metadata")
    assert found["name"] == "headway"
    assert {"system_shared_memory", "logging", "statistics"} <= set(found["extensions"])


def model_metadata(use: Use) -> None:
    assert use.document("get_model_metadata", "linear", "1")["outputs"][0]["name"] == "logits"


def config(use: Use) -> None:
    found = use.document("get_model_config", "linear")
    assert found.get("config", found)["max_batch_size"] == 32


def index(use: Use) -> None:
    found = use.document("get_model_repository_index")
    rows = found["models"] if use.grpc else found
    assert [(row["name"], row["state"]) for row in rows] == [("linear", "READY")]


def statistics(use: Use) -> None:
    use.infer("linear", [use.input()])
    for arguments in ((), ("linear",), ("linear", "1")):
        (row,) = use.document("get_inference_statistics", *arguments)["model_stats"]
        assert int(row["inference_stats"]["success"]["count"]) > 0


def log(use: Use) -> None:
    """Read and change: the level of Headway's logger follows."""
    before = logger.level
    try:
        found = use.document("update_log_settings", {"log_verbose_level": 0, "log_info": False})
        settings = use.document("get_log_settings")
        assert settings == found
        value = settings["settings"]["log_info"].get("bool_param", False) if use.grpc else settings["log_info"]
        assert value is False
        assert logger.level == 30
        with pytest.raises(InferenceServerException, match="log_file"):
            use.update_log_settings({"log_file": "/tmp/x"})  # noqa: S108
    finally:
        logger.setLevel(before)


def trace(use: Use) -> None:
    """Read and change; where nothing traces, they stay off."""
    for model in (None, "linear"):
        found = use.document("get_trace_settings", model)
        level = found["settings"]["trace_level"]["value"] if use.grpc else found["trace_level"]
        assert level == ["OFF"]
    assert use.document("update_trace_settings", None, {"trace_level": ["OFF"], "trace_rate": "1"}) == found
    for model, settings, text in (
        ("none", {}, "no model"),
        ("linear", {"trace_rate": "3"}, "for all models together"),
        (None, {"trace_level": ["TIMESTAMPS"]}, "does not trace"),
        (None, {"trace_file": "/tmp/x"}, "stays"),  # noqa: S108
    ):
        with pytest.raises(InferenceServerException, match=text):
            use.update_trace_settings(model, settings)


def system_memory(use: Use) -> None:
    """Register, status, infer with input and output in regions, unregister."""
    key, size = f"headway-test-{os.getpid()}", ROWS.nbytes
    region = shared_memory.create_shared_memory_region("both", key, 2 * size, create_only=True)
    try:
        shared_memory.set_shared_memory_region(region, [ROWS])
        use.register_system_shared_memory("in", key, size)
        use.register_system_shared_memory("out", key, size, offset=size)
        found = use.document("get_system_shared_memory_status")
        rows = list(found["regions"].values()) if use.grpc else found
        assert {row["name"]: (row["key"], int(row["byte_size"])) for row in rows} == {
            "in": (key, size), "out": (key, size),
        }  # fmt: skip
        assert len(use.document("get_system_shared_memory_status", "in").get("regions", "x") if use.grpc else "x") == 1
        one = use.module.InferInput("input", [2, 4], "FP32")
        one.set_shared_memory("in", size)
        output = use.module.InferRequestedOutput("logits")
        output.set_shared_memory("out", size, offset=4)
        with pytest.raises(InferenceServerException, match="region of 32"):
            use.infer("linear", [one], outputs=[output])
        output.set_shared_memory("out", 24, offset=4)
        answer = use.infer("linear", [one], outputs=[output])
        found = answer.get_output("logits")
        size_told = (
            found.parameters["shared_memory_byte_size"].int64_param
            if use.grpc
            else found["parameters"]["shared_memory_byte_size"]
        )
        assert size_told == 24
        value = shared_memory.get_contents_as_numpy(region, np.float32, [2, 3], size + 4)
        np.testing.assert_allclose(value, ROWS @ WEIGHTS, rtol=1e-5)
        del value
        use.unregister_system_shared_memory("in")
        use.unregister_system_shared_memory("in")
        use.unregister_system_shared_memory()
        with pytest.raises(InferenceServerException, match="no shared memory region is called 'in'"):
            use.infer("linear", [one])
    finally:
        with suppress(InferenceServerException):
            use.unregister_system_shared_memory()
        shared_memory.destroy_shared_memory_region(region)


def cuda_memory(use: Use) -> None:
    for name, arguments in (
        ("register_cuda_shared_memory", ("r", b"aGFuZGxl", 0, 64)),
        ("get_cuda_shared_memory_status", ()),
        ("unregister_cuda_shared_memory", ()),
    ):
        with pytest.raises(InferenceServerException, match="CUDA shared memory is not supported"):
            getattr(use, name)(*arguments)


def plugins(use: Use) -> None:
    """Client side, but what a plugin adds to the headers reaches the server: here who asks."""
    from tritonclient._plugin import InferenceServerClientPlugin

    class Asks(InferenceServerClientPlugin):
        asked = 0

        def __call__(self, request: Any) -> None:
            self.asked += 1
            request.headers["authorization"] = "Bearer one"

    mine = Asks()
    use.register_plugin(mine)
    assert use.plugin() is mine
    right(use.infer("linear", [use.input()]))
    use.unregister_plugin()
    assert use.plugin() is None
    assert mine.asked == 1


def load(use: Use) -> None:
    """And unload_model."""
    use.unload_model("linear")
    assert not use.is_model_ready("linear")
    use.load_model("linear")
    assert use.is_model_ready("linear")


CASES: dict[str, Callable[[Use], None]] = {
    "infer": infer,
    "async_infer": async_infer,
    "start_stream": start_stream,
    "async_stream_infer": start_stream,
    "stop_stream": start_stream,
    "stream_infer": stream_infer,
    "generate_request_body": generate_request_body,
    "parse_response_body": generate_request_body,
    "is_server_live": lambda use: check(use.is_server_live()),
    "is_server_ready": lambda use: check(use.is_server_ready()),
    "is_model_ready": lambda use: check(use.is_model_ready("linear") and use.is_model_ready("linear", "1")),
    "get_server_metadata": metadata,
    "get_model_metadata": model_metadata,
    "get_model_config": config,
    "get_model_repository_index": index,
    "get_inference_statistics": statistics,
    "get_log_settings": log,
    "update_log_settings": log,
    "get_trace_settings": trace,
    "update_trace_settings": trace,
    "get_system_shared_memory_status": system_memory,
    "register_system_shared_memory": system_memory,
    "unregister_system_shared_memory": system_memory,
    "get_cuda_shared_memory_status": cuda_memory,
    "register_cuda_shared_memory": cuda_memory,
    "unregister_cuda_shared_memory": cuda_memory,
    "plugin": plugins,
    "register_plugin": plugins,
    "unregister_plugin": plugins,
    "load_model": load,
    "unload_model": load,
    "close": lambda use: None,  # `using` calls it
}


def check(fine: bool) -> None:
    assert fine


@pytest.mark.parametrize("name", CLIENTS)
def test_every_method_of_the_client_works(sealed: Seal, name: str) -> None:
    methods = [one for one in dir(importlib.import_module(name).InferenceServerClient) if not one.startswith("_")]
    assert [one for one in methods if one not in CASES] == [], "methods without a case"
    settings = ServeConfig(http_port=0, grpc_port=0, shared_memory=True)
    with Server([sealed("linear")], settings).running() as server, using(name, server) as use:
        cases = dict.fromkeys(CASES[one] for one in methods if one not in LATER)
        for case in cases:
            case(use)
        assert use.is_server_ready()
