"""gRPC over its real socket, with the common client as it is."""

import asyncio
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tests.serve.wire import Gated, behind_gates
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

from headway.bundles.bundle import Bundle
from headway.core.errors import ConfigError
from headway.serve.config import ServeConfig
from headway.serve.grpc_service import HEALTH, SERVICE
from headway.serve.messages import message, methods
from headway.serve.server import Server

Seal = Callable[..., Bundle]
WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 10
ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


@contextmanager
def serving(*models: Any, **settings: Any) -> Iterator[Server]:
    with Server(models, ServeConfig(**{"http_port": 0, "grpc_port": 0, **settings})).running() as server:
        yield server


@contextmanager
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc_address) as one:
        yield one


@contextmanager
def calling(server: Server) -> Iterator[Callable[..., Any]]:
    """`call(method, request, service=..., timeout=...)` over a bare channel; `request` is a message or bytes."""
    with grpc.insecure_channel(server.grpc_address) as channel:

        def call(name: str, request: Any, service: str = SERVICE, timeout: float = 20) -> Any:
            kind = next(one for one in methods(service) if one.name == name)
            content = request if isinstance(request, bytes) else request.SerializeToString()
            invoke = channel.unary_unary(f"/{service}/{name}", response_deserializer=kind.response.FromString)
            return invoke(content, timeout=timeout)

        yield call


@contextmanager
def refused(code: str, text: str = "") -> Iterator[None]:
    with pytest.raises(grpc.RpcError, match=text or None) as caught:
        yield
    assert caught.value.code().name == code, caught.value.details()


def infer_input(value: np.ndarray, name: str = "input", kind: str = "FP32") -> Any:
    one = triton.InferInput(name, list(value.shape), kind)
    one.set_data_from_numpy(value)
    return one


def infer_request(shape: Any = (2, 4), datatype: str = "FP32", **more: Any) -> Any:
    """A request for `linear` with one typed input; `contents` replaces its values, `raw` goes beside it."""
    request = message("inference.ModelInferRequest")(model_name=more.get("model", "linear"))
    one = request.inputs.add(name=more.get("name", "input"), datatype=datatype, shape=shape)
    for field, values in more.get("contents", {}).items():
        getattr(one.contents, field).extend(values)
    request.raw_input_contents.extend(more.get("raw", ()))
    return request


FITTING = {"fp32_contents": ROWS.ravel().tolist()}


def test_a_real_client_uses_it_unmodified(sealed: Seal) -> None:
    with serving(sealed("linear", version="2"), sealed("linear", version="10")) as server, client(server) as one:
        assert one.is_server_live()
        assert one.is_server_ready()
        assert one.is_model_ready("linear")
        assert one.is_model_ready("linear", "2")
        assert one.get_server_metadata().name == "headway"
        metadata = one.get_model_metadata("linear", as_json=True)
        assert metadata["versions"] == ["2", "10"]
        assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": ["-1", "4"]}]
        result = one.infer("linear", [infer_input(ROWS)], request_id="7", timeout=10_000_000)
        np.testing.assert_allclose(result.as_numpy("logits"), ROWS @ WEIGHTS, rtol=1e-5)
        assert result.get_response().id == "7"
        assert result.get_response().model_version == "10"
        asked = [triton.InferRequestedOutput("logits")]
        old = one.infer("linear", [infer_input(ROWS)], model_version="2", outputs=asked, client_timeout=20)
        assert old.get_response().model_version == "2"
        config = one.get_model_config("linear").config
        assert (config.max_batch_size, config.input[0].dims, config.backend) == (32, [4], "onnxruntime")
        assert config.input[0].data_type == model_config_pb2.TYPE_FP32
        states = one.get_model_repository_index().models
        assert [(row.version, row.state) for row in states] == [("2", "READY"), ("10", "READY")]
        (seen,) = one.get_inference_statistics("linear", "10").model_stats
        assert seen.inference_count == 2
        assert seen.inference_stats.success.count == seen.inference_stats.queue.count == 1
        assert seen.inference_stats.compute_infer.ns > 0
        assert [row.batch_size for row in seen.batch_stats] == [2]
        assert len(one.get_inference_statistics().model_stats) == 2


def test_the_aio_client_uses_it_unmodified(sealed: Seal) -> None:
    async def use(address: str) -> None:
        async with triton_aio.InferenceServerClient(address) as one:
            assert await one.is_server_live()
            assert await one.is_model_ready("linear")
            assert (await one.get_model_config("linear")).config.name == "linear"
            values = [np.full((1 + n % 3, 4), n, np.float32) for n in range(40)]
            results = await asyncio.gather(*(one.infer("linear", [infer_input(value)]) for value in values))
            for value, result in zip(values, results, strict=True):
                np.testing.assert_allclose(result.as_numpy("logits"), value @ WEIGHTS, rtol=1e-5)

    with serving(sealed("linear")) as server:
        asyncio.run(use(server.grpc_address))


def test_every_datatype_comes_back_as_it_went(sealed: Seal) -> None:
    kinds = {
        "BOOL": "?", "UINT8": "u1", "UINT16": "u2", "UINT32": "u4", "UINT64": "u8", "INT8": "i1", "INT16": "i2",
        "INT32": "i4", "INT64": "i8", "FP16": "f2", "FP32": "f4", "FP64": "f8",
    }  # fmt: skip
    values = {kind: np.array([[1, 0], [0, 1]]).astype(code) for kind, code in kinds.items()}
    with serving(sealed("everything"), sealed("texts")) as server, client(server) as one:
        result = one.infer("everything", [infer_input(v, f"in_{kind}", kind) for kind, v in values.items()])
        for kind, value in values.items():
            np.testing.assert_array_equal(result.as_numpy(f"out_{kind}"), value)
        texts = np.array([b"", "größer".encode(), b"a"], dtype=object)
        assert list(one.infer("texts", [infer_input(texts, "text", "BYTES")]).as_numpy("same")) == list(texts)


def test_typed_contents_are_taken_and_checked(sealed: Seal) -> None:
    with serving(sealed("linear"), sealed("texts")) as server, calling(server) as call:

        def infer(**given: Any) -> Any:
            return call("ModelInfer", infer_request(**given))

        answer = infer(contents=FITTING)
        logits = np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(2, 3)
        np.testing.assert_allclose(logits, ROWS @ WEIGHTS, rtol=1e-5)
        assert not answer.outputs[0].HasField("contents")
        text = {"model": "texts", "name": "text", "datatype": "BYTES"}
        assert infer(shape=[1], contents={"bytes_contents": [b"ab"]}, **text).raw_output_contents == [b"\2\0\0\0ab"]
        bad = "INVALID_ARGUMENT"
        with refused(bad, "must be empty beside raw_input_contents"):
            infer(contents=FITTING, raw=[ROWS.tobytes()])
        with refused(bad, "needs fp32_contents, and nothing else"):
            infer()
        with refused(bad, "needs fp32_contents, and nothing else"):
            infer(contents={**FITTING, "int_contents": [1]})
        with refused(bad, "8 elements do not make the shape"):
            infer(shape=[1 << 40, 1 << 40], contents=FITTING)
        with refused(bad, "travels only as raw_input_contents"):
            infer(datatype="FP16", contents=FITTING)
        with refused(bad, "out of the range of INT8"):
            infer(datatype="INT8", contents={"int_contents": [300] * 8})
        with refused(bad, "2 raw_input_contents for 1 inputs"):
            infer(raw=[b"", b""])
        with refused(bad, "takes 32"):
            infer(raw=[b"1234"])
        with refused(bad, "past the end"):
            infer(shape=[1], raw=[b"\xff\xff\xff\xff"], **text)
        with refused(bad, "positive whole numbers"):
            infer(shape=[-1, 4], raw=[b""])
        with refused(bad, "has no inputs"):
            call("ModelInfer", message("inference.ModelInferRequest")(model_name="linear"))
        twice = infer_request(contents=FITTING)
        twice.inputs.append(twice.inputs[0])
        with refused(bad, "stands twice"):
            call("ModelInfer", twice)


def test_each_failure_has_its_status(sealed: Seal) -> None:
    settings = {"max_body_bytes": 1000}
    with serving(sealed("linear"), sealed("lookup"), **settings) as server, calling(server) as call:
        with refused("NOT_FOUND", "no model is called"):
            call("ModelInfer", infer_request(model="none"))
        with refused("NOT_FOUND", "no version"):
            call("ModelConfig", message("inference.ModelConfigRequest")(name="linear", version="7"))
        with refused("INVALID_ARGUMENT", "is no inference.ModelInferRequest"):
            call("ModelInfer", b"\xff\xff\xff")
        with refused("INVALID_ARGUMENT", "refuses these inputs"):
            call("ModelInfer", infer_request([1], "INT64", model="lookup", name="index", raw=[b"\x63" + bytes(7)]))
        with refused("RESOURCE_EXHAUSTED"):
            call("ModelInfer", infer_request(raw=[bytes(2000)]))
        unsupported = infer_request(contents=FITTING)
        unsupported.parameters["sequence_id"].int64_param = 1
        with refused("UNIMPLEMENTED", "sequence_id"):
            call("ModelInfer", unsupported)
        with client(server) as one, pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
            one.get_cuda_shared_memory_status()


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> list[Gated]:
    """Sessions that are loaded while this fixture lasts stand behind gates."""
    return behind_gates(monkeypatch)


def test_deadlines_full_queues_and_shutdown(sealed: Seal, gated: list[Gated]) -> None:
    """While a run is under way: a short timeout, a caller's deadline, a full queue; then what was accepted finishes."""
    server = Server([sealed("linear")], ServeConfig(http_port=0, grpc_port=0, queue_rows=2, max_batch_rows=2))
    with server.running(), grpc.insecure_channel(server.grpc_address) as channel, calling(server) as call:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        fitting = infer_request(contents=FITTING)
        running = infer.future(fitting.SerializeToString(), timeout=30)
        assert gated[0].entered.wait(10)
        hurried = infer_request(contents=FITTING)
        hurried.parameters["timeout"].int64_param = 1000
        with refused("DEADLINE_EXCEEDED", "the deadline passed before there was an answer"):
            call("ModelInfer", hurried)
        with refused("DEADLINE_EXCEEDED"):
            call("ModelInfer", fitting, timeout=0.05)
        waiting = infer.future(fitting.SerializeToString(), timeout=30)
        codes = [waiting]
        while not any(one.done() for one in codes):  # two rows wait at most, whichever of these they are
            codes.append(infer.future(fitting.SerializeToString(), timeout=30))
            threading.Event().wait(0.01)
        done = next(one for one in codes if one.done())
        assert done.code().name == "RESOURCE_EXHAUSTED"
        server.stop()
        gated[0].gate.set()
        assert running.code().name == "OK"
        assert {one.code().name for one in codes} <= {"OK", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}
        assert "OK" in {one.code().name for one in codes}


def test_the_work_of_a_caller_that_left_is_dropped_before_it_runs(sealed: Seal, gated: list[Gated]) -> None:
    with serving(sealed("linear")) as server, grpc.insecure_channel(server.grpc_address) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        content = infer_request(contents=FITTING).SerializeToString()
        first = infer.future(content, timeout=30)
        assert gated[0].entered.wait(10)
        leaving = [infer.future(content, timeout=30) for _ in range(5)]
        wait_for(server, 'headway_queued_rows{model="linear",version="1"} 10.0')
        for one in leaving:
            one.cancel()
        wait_for(server, 'headway_queued_rows{model="linear",version="1"} 0.0')
        wait_for(server, 'headway_requests_total{model="linear",outcome="cancelled",version="1"} 5.0')
        gated[0].gate.set()
        assert first.code().name == "OK"
        with client(server) as one:
            one.infer("linear", [infer_input(ROWS)])
        assert len(gated[0].runs) == 2


def wait_for(server: Server, line: str) -> None:
    """Wait until the metrics hold this line."""
    for _ in range(1000):
        with urllib.request.urlopen(f"{server.url}/metrics") as answer:  # noqa: S310
            text = answer.read().decode()
        if line in text.splitlines():
            return
        threading.Event().wait(0.01)
    pytest.fail(f"{line} never came\n{text}")


def test_health_is_told_and_its_watchers_do_not_hold_a_shutdown_up(sealed: Seal) -> None:
    kind = message("grpc.health.v1.HealthCheckRequest")
    with serving(sealed("linear")) as server, calling(server) as call:
        assert call("Check", kind(), HEALTH).status == 1
        assert call("Check", kind(service=SERVICE), HEALTH).status == 1
        with refused("NOT_FOUND"):
            call("Check", kind(service="other"), HEALTH)
        with grpc.insecure_channel(server.grpc_address) as channel:
            answer = message("grpc.health.v1.HealthCheckResponse").FromString
            watch = channel.unary_stream(f"/{HEALTH}/Watch", response_deserializer=answer)
            seen, unknown = (watch(kind(service=name).SerializeToString(), timeout=30) for name in ("", "other"))
            assert (next(seen).status, next(unknown).status) == (1, 3)
            server.stop()
            assert [one.status for one in seen] == [2]


def test_ports(sealed: Seal) -> None:
    bundle = sealed("linear")
    with serving(bundle) as server:
        port = int(server.grpc_address.rsplit(":", 1)[1])
        with pytest.raises(ConfigError, match="cannot listen") as caught, serving(bundle, grpc_port=port):
            pytest.fail("two servers share a port")
        assert "--grpc-port" in str(caught.value)
    with socket.create_server(("127.0.0.1", 0)), serving(bundle, grpc_port=None) as server:
        assert server.grpc_address == ""


# Messages


def test_our_messages_agree_with_those_of_the_common_client() -> None:
    """Each field that we have has the client's number, type and label; the pools are two."""
    theirs = {**service_pb2.DESCRIPTOR.message_types_by_name, **model_config_pb2.DESCRIPTOR.message_types_by_name}

    def compare(ours: Any, other: Any) -> None:
        for field in ours.fields:
            found = other.fields_by_name[field.name]
            assert (field.number, field.type, field.is_repeated) == (found.number, found.type, found.is_repeated)
            if field.message_type is not None:
                compare(field.message_type, found.message_type)
            if field.enum_type is not None:
                assert field.enum_type.values_by_name.keys() == found.enum_type.values_by_name.keys()

    for method in methods(SERVICE):
        for kind in (method.request, method.response):
            if not theirs[kind.DESCRIPTOR.name].fields:
                continue  # ours may answer what KServe's clients read
            compare(kind.DESCRIPTOR, theirs[kind.DESCRIPTOR.name])
            assert kind.DESCRIPTOR is not theirs[kind.DESCRIPTOR.name]


def test_the_stored_descriptors_are_those_of_the_proto_files(tmp_path: Any) -> None:
    from importlib.resources import files

    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from grpc_tools import protoc

    folder, made = files("headway.serve") / "proto", tmp_path / "made"
    arguments = [f"--proto_path={folder}", f"--descriptor_set_out={made}", "inference.proto", "health.proto"]
    assert protoc.main(["protoc", *arguments]) == 0
    stored = FileDescriptorSet.FromString((folder / "descriptors.binpb").read_bytes())
    assert FileDescriptorSet.FromString(made.read_bytes()) == stored, "run `make proto`"
