"""Attacks over gRPC: messages that become much when they are parsed, damaged ones, streams that nobody reads."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.serve.wire import calling, infer_message, metric, resident, serving

from headway.bundles.bundle import Bundle
from headway.core.errors import RequestError
from headway.serve.grpc_service import SERVICE
from headway.serve.messages import message, parsed
from headway.serve.server import Server

Seal = Callable[..., Bundle]


@pytest.fixture
def server(sealed: Seal) -> Iterator[Server]:
    with serving(sealed("linear"), sealed("texts"), grpc_port=0, choose_seconds=0, threads=1) as server:
        yield server


def varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found += bytes([number & 127 | 128])
        number >>= 7
    return found + bytes([number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(kind: bytes, shape: list[int], contents: bytes = b"", name: bytes = b"input") -> bytes:
    dims = b"".join(map(varint, shape))
    return field(5, field(1, name) + field(2, kind) + field(3, dims) + (field(5, contents) if contents else b""))


MODEL = field(1, b"linear")
MANY = 200_000
OUTPUTS = b"".join(field(6, field(1, b"%d" % number)) for number in range(9000))
LARGE = {
    "empty inputs": MODEL + b"\x2a\x00" * MANY,
    "empty outputs": MODEL + tensor(b"FP32", [1, 4]) + b"\x32\x00" * MANY,
    "empty raw contents": MODEL + tensor(b"FP32", [1, 4]) + b"\x3a\x00" * MANY,
    "parameters": MODEL + b"".join(field(4, field(1, b"%d" % number)) for number in range(MANY)),
    "empty texts": field(1, b"texts") + tensor(b"BYTES", [MANY], b"\x42\x00" * MANY, b"text"),
    "unknown fields": MODEL + b"\xf8\x01\x00" * MANY,
    "unpacked dimensions": MODEL + field(5, b"\x18\x01" * MANY),
    "numbers of one byte": MODEL + tensor(b"INT64", [1 << 24, 4], field(3, bytes(17 << 20))),
    "floats": MODEL + tensor(b"FP32", [1 << 20, 4], field(6, bytes(17 << 20))),
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_message_of_too_many_parts_is_refused_unparsed(server: Server, kind: str) -> None:
    """Parsed, 60 MB of them were 1-2 GB of objects and held every other request up for 1-20 s."""
    with calling(server) as call:
        call("ModelInfer", infer_message())
        before = resident()
        with pytest.raises(grpc.RpcError) as refused:
            call("ModelInfer", LARGE[kind])
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "raw_input_contents" in refused.value.details()
        assert resident() - before < 150e6
        call("ModelInfer", infer_message())


def test_other_calls_are_measured_as_well(server: Server) -> None:
    setting = b"".join(field(1, field(1, b"%d" % number)) for number in range(MANY))
    with calling(server) as call:
        for name in ("TraceSetting", "LogSettings", "RepositoryModelLoad", "ModelConfig", "SystemSharedMemoryRegister"):
            with pytest.raises(grpc.RpcError) as refused:
                call(name, setting)
            assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=12)), max_size=4), st.integers(0, 400))
def test_measuring_refuses_no_message_that_can_be_parsed(cuts: list[tuple[int, bytes]], end: int) -> None:
    """Of those that are large, which this one is by a raw tensor at its end."""
    sent = infer_message(number="7").SerializeToString()
    for at, piece in cuts:
        sent = sent[:at] + piece + sent[at + 1 :]
    sent = sent[:end]
    kind = message("inference.ModelInferRequest")
    large = sent + field(7, bytes(1 << 17))
    try:
        expected = kind.FromString(large)
    except DecodeError:
        expected = None
    try:
        assert parsed(kind, large) == expected
    except RequestError:
        assert (
            expected is None or b"\x3b" in sent or any(byte & 7 in (3, 4) for byte in sent)
        )  # a group, skipped by some


def test_hostile_tensors(server: Server) -> None:
    four = np.ones(4, "<f4").tobytes()
    for sent, says in (
        (MODEL + tensor(b"FP32", [1 << 63, 4]) + field(7, four), "shape"),
        (MODEL + tensor(b"FP32", [(1 << 64) - 1, 4]) + field(7, four), "shape"),
        (MODEL + tensor(b"FP32", [1 << 32, 1 << 32]) + field(7, four), "takes"),
        (MODEL + tensor(b"FP32", [0, 4]) + field(7, b""), "shape"),
        (MODEL + tensor(b"FP32", [1] * 33) + field(7, four), "shape"),
        (MODEL + tensor(b"FP32", [1] * 60_000) + field(7, four), "shape"),
        (MODEL + tensor(b"FP32", [1, 4]) + field(7, four[:-1]), "takes 16"),
        (MODEL + tensor(b"FP32", [1, 4], field(6, four)) + field(7, four), "contents"),
        (MODEL + tensor(b"FP32", [1, 4], field(6, four * 2)), "elements"),
        (MODEL + tensor(b"FP32", [1, 4], field(7, bytes(32))), "fp32_contents"),
        (MODEL + tensor(b"FP32", [1, 4]) * 2 + field(7, four) * 2, "stands twice"),
        (MODEL + tensor(b"FP32", [1, 4]) + field(7, four) * 2, "raw_input_contents"),
        (MODEL + tensor(b"FP32", [1, 4]) + field(7, four) + field(6, field(1, b"logits")) * 2, "stands twice"),
        (
            MODEL
            + tensor(b"FP32", [1, 4], field(6, four))
            + b"".join(field(6, field(1, b"%d" % n)) for n in range(9000)),
            "entries",
        ),
        (field(1, b"texts") + tensor(b"BYTES", [1], name=b"text") + field(7, b"\xff\xff\xff\xff"), "past the end"),
        (field(1, b"texts") + tensor(b"BYTES", [2 << 20], name=b"text") + field(7, bytes(8 << 20)), "at most 1048576"),
    ):
        with calling(server) as call, pytest.raises(grpc.RpcError) as refused:
            call("ModelInfer", sent)
        assert refused.value.code().name in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"), says
        assert says in refused.value.details()


def test_typed_numbers_are_read_right_however_many(server: Server) -> None:
    """In parts, in a thread."""
    values = np.random.default_rng(0).standard_normal((1000, 4)).astype(np.float32).repeat(5, axis=0)
    sent = message("inference.ModelInferRequest")(model_name="linear")
    sent.inputs.add(name="input", datatype="FP32", shape=values.shape).contents.fp32_contents.extend(values.ravel())
    with calling(server) as call, pytest.raises(grpc.RpcError) as refused:
        call("ModelInfer", sent)
    assert "5000 rows" in refused.value.details(), "it was read to its end"


def test_metadata_that_is_odd_changes_nothing(server: Server) -> None:
    sent = infer_message().SerializeToString()
    with grpc.insecure_channel(server.grpc_address) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        for metadata in (
            [("x-bin", bytes(range(256)))],
            [("authorization-bin", b"\xff")],
            [("traceparent", "x" * 5000)] * 2,
            [("traceparent", f"00-{'a' * 32}-{'b' * 16}-01"), ("tracestate", "=,=" * 1000)],
            [("x-" + "a" * 200, "b" * 4000)],
        ):
            assert infer(sent, metadata=metadata, timeout=30)
        for name in ("Nothing", "../ModelInfer", ""):
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary(f"/{SERVICE}/{name}")(sent, timeout=30)
            assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_damaged_message_is_answered(server: Server) -> None:
    whole = infer_message(number="7").SerializeToString()
    codes: set[str] = set()
    with calling(server) as call:

        @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(st.tuples(st.integers(0, len(whole)), st.integers(0, 9), st.binary(max_size=6)), max_size=3))
        def damaged(cuts: list[tuple[int, int, bytes]]) -> None:
            sent = whole
            for at, gone, piece in cuts:
                sent = sent[:at] + piece + sent[at + gone :]
            try:
                call("ModelInfer", sent)
            except grpc.RpcError as error:
                codes.add(error.code().name)  # type: ignore[attr-defined]

        damaged()
        assert codes <= {"INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"}
        call("ModelInfer", infer_message())


def test_a_stream_that_is_never_read_is_soon_not_read_either(sealed: Seal) -> None:
    """Its answers wait at the client's side of the wire, then on ours, then its requests are left where they are."""
    ask_on, sent = threading.Event(), 0
    text = message("inference.ModelInferRequest")(model_name="texts")
    text.inputs.add(name="text", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"x" * 500_000)
    content = text.SerializeToString()

    def requests() -> Iterator[bytes]:
        nonlocal sent
        while sent < 500 and not ask_on.is_set():
            sent += 1
            yield content

    ended = 'headway_requests_total{model="texts",outcome="ok",version="1"}'
    with (
        serving(sealed("texts"), sealed("linear"), grpc_port=0, stream_requests=4, choose_seconds=0) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
        calling(server) as call,
    ):
        stream: Any = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(requests(), timeout=60)
        before = -1.0
        while before != (before := metric(server, ended)) or before == 0:
            call("ModelInfer", infer_message())  # others are answered meanwhile
            threading.Event().wait(0.2)
        assert before < 100, "the server reads on although nobody reads its answers"
        ask_on.set()
        stream.cancel()
