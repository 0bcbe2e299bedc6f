"""`ModelStreamInfer` and calls that do not bring their request, over a real socket."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from tests.serve.wire import WEIGHTS, Gated, behind_gates, calling, infer_message, metric, serving, wait_until

from headway.bundles.bundle import Bundle
from headway.serve.grpc_service import HEALTH, SERVICE
from headway.serve.messages import message
from headway.serve.server import Server

Seal = Callable[..., Bundle]
QUEUED = 'headway_queued_rows{model="linear",version="1"}'
CANCELLED = 'headway_requests_total{model="linear",outcome="cancelled",version="1"}'
OK = 'headway_requests_total{model="linear",outcome="ok",version="1"}'


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> list[Gated]:
    return behind_gates(monkeypatch)


@contextmanager
def streaming(server: Server, requests: Iterator[bytes], timeout: float = 60) -> Iterator[Any]:
    """The answers to these requests, over one stream."""
    with grpc.insecure_channel(server.grpc_address) as channel:
        kind = message("inference.ModelStreamInferResponse")
        invoke = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer", response_deserializer=kind.FromString)
        yield invoke(requests, timeout=timeout)


def until_told(end: threading.Event, *first: bytes) -> Iterator[bytes]:
    """These requests; then the stream stays open."""
    yield from first
    end.wait(30)


def test_a_bad_request_fails_alone_and_answers_come_in_order(sealed: Seal) -> None:
    values = [np.full((1 + number % 3, 4), number, np.float32) for number in range(100)]
    contents = [infer_message(value, number=str(n)).SerializeToString() for n, value in enumerate(values)]
    contents[10] = infer_message(values[10], model="none", number="10").SerializeToString()
    contents[20] = b"\xff\xff\xff"
    with serving(sealed("linear"), grpc_port=0) as server, streaming(server, iter(contents)) as answers:
        for number, answer in enumerate(answers):
            found = answer.infer_response
            assert found.parameters["triton_final_response"].bool_param
            if number == 10:
                assert "no model is called 'none'" in answer.error_message
                assert (found.id, found.model_name) == ("10", "none")
            elif number == 20:
                assert "is no inference.ModelInferRequest" in answer.error_message
            else:
                assert (answer.error_message, found.id) == ("", str(number))
                logits = np.frombuffer(found.raw_output_contents[0], "<f4").reshape(-1, 3)
                np.testing.assert_allclose(logits, values[number] @ WEIGHTS, rtol=1e-5)
        assert number == 99
        assert answers.code() == grpc.StatusCode.OK


def test_only_so_many_of_a_stream_are_under_way(sealed: Seal, gated: list[Gated]) -> None:
    content = infer_message().SerializeToString()
    with (
        serving(sealed("linear"), grpc_port=0, stream_requests=5, max_batch_rows=1) as server,
        streaming(server, iter([content] * 50)) as answers,
    ):
        wait_until(lambda: metric(server, QUEUED) == 4, "4 wait beside the one that runs")
        with calling(server) as call:  # another caller is not behind the other 45
            threading.Timer(0.2, gated[0].gate.set).start()
            call("ModelInfer", infer_message())
        assert sum(not answer.error_message for answer in answers) == 50


def test_a_stream_that_is_cancelled_takes_its_queued_work_with_it(sealed: Seal, gated: list[Gated]) -> None:
    end = threading.Event()
    contents = [infer_message(np.full((1, 4), n, np.float32)).SerializeToString() for n in range(6)]
    with (
        serving(sealed("linear"), grpc_port=0, max_batch_rows=1) as server,
        streaming(server, until_told(end, *contents)) as answers,
    ):
        wait_until(lambda: metric(server, QUEUED) == 5, "5 wait")
        answers.cancel()
        end.set()
        wait_until(lambda: metric(server, QUEUED) == 0, "none waits")
        gated[0].gate.set()
        with calling(server) as call:
            call("ModelInfer", infer_message(np.full((1, 4), 9, np.float32)))
        assert gated[0].ran == [0, 9]
        assert metric(server, CANCELLED) == 6


def test_a_stream_that_stays_open_does_not_hold_a_shutdown_up(sealed: Seal) -> None:
    end = threading.Event()
    with serving(sealed("linear"), grpc_port=0) as server:
        content = infer_message().SerializeToString()
        with streaming(server, until_told(end, content)) as answers:
            assert not next(answers).error_message
            server.stop()
            assert [answer.error_message for answer in answers] == []
            assert answers.code() == grpc.StatusCode.OK
            end.set()


def test_streams_leave_room_for_requests(sealed: Seal) -> None:
    """Also for those of watchers of health, which stay open as well."""
    end = threading.Event()
    watch = message("grpc.health.v1.HealthCheckRequest")().SerializeToString()
    content = infer_message().SerializeToString()
    with serving(sealed("linear"), grpc_port=0, max_streams=2) as server:
        with (
            streaming(server, until_told(end, content)) as first,
            grpc.insecure_channel(server.grpc_address) as channel,
        ):
            next(first)
            watching = channel.unary_stream(f"/{HEALTH}/Watch")(watch, timeout=30)
            next(watching)
            with streaming(server, iter([content])) as third:
                assert third.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            with calling(server) as call:
                assert call("ModelInfer", infer_message()).model_name == "linear"
            watching.cancel()
            end.set()
            assert list(first) == []
        with streaming(server, iter([content])) as again:
            assert len(list(again)) == 1


def test_a_call_whose_request_does_not_come_is_given_up(sealed: Seal) -> None:
    """Such calls would count as calls under way for ever, and there are only so many."""
    with (
        serving(sealed("linear"), grpc_port=0, request_timeout_s=0.3) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        waiting: queue.Queue[bytes | None] = queue.Queue()
        late = channel.stream_unary(f"/{SERVICE}/ModelInfer").future(iter(waiting.get, None), timeout=30)
        assert late.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "did not come in time" in late.details()
        waiting.put(None)
        none = channel.stream_unary(f"/{SERVICE}/ModelInfer").future(iter(()), timeout=30)
        assert (none.code(), "brought no request" in none.details()) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        with calling(server) as call:
            assert call("ServerLive", message("inference.ServerLiveRequest")()).live
