"""What REST offers beside inference as such: config, statistics, index, compression, classification, OpenAPI."""

import gzip
import http.client
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton

from headway.bundles.bundle import Bundle
from headway.core.errors import RequestError
from headway.core.tensors import TensorSpec
from headway.observe.metrics import Metrics
from headway.serve import openapi
from headway.serve.classification import classify
from headway.serve.config import ServeConfig
from headway.serve.control import Control
from headway.serve.dataplane import DataPlane
from headway.serve.extensions import Extensions
from headway.serve.repository import Repository
from headway.serve.rest import Rest
from headway.serve.server import Server

Seal = Callable[..., Bundle]
WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 10
ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
INFER = "/v2/models/linear/infer"
FITTING = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}


@contextmanager
def serving(*models: Any, **settings: Any) -> Iterator[Server]:
    with Server(models, ServeConfig(**{"http_port": 0, "grpc_port": None, **settings})).running() as server:
        yield server


@contextmanager
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    one = triton.InferenceServerClient(server.url.removeprefix("http://"))
    try:
        yield one
    finally:
        one.close()


def ask(server: Server, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Any, bytes]:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=20)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def infer_input(value: np.ndarray) -> Any:
    one = triton.InferInput("input", list(value.shape), "FP32")
    one.set_data_from_numpy(value)
    return one


def test_config_statistics_and_index_are_what_clients_need(sealed: Seal) -> None:
    with serving(sealed("linear", version="2"), sealed("linear", version="3")) as server, client(server) as one:
        config = one.get_model_config("linear")
        assert (config["max_batch_size"], config["input"]) == (
            32, [{"name": "input", "data_type": "TYPE_FP32", "dims": [4]}],
        )  # fmt: skip
        for count in (1, 2):
            one.infer("linear", [infer_input(ROWS)], model_version="2")
            (row,) = one.get_inference_statistics("linear", "2")["model_stats"]
            stats = row["inference_stats"]
            assert set(stats) == {
                "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit",
                "cache_miss",
            }  # fmt: skip
            assert all(type(number) is int for duration in stats.values() for number in duration.values())
            assert stats["queue"]["count"] == stats["success"]["count"] == count
            assert (row["inference_count"], row["execution_count"]) == (2 * count, count)
            assert [(batch["batch_size"], batch["compute_infer"]["count"]) for batch in row["batch_stats"]] == [
                (2, count)
            ]
        assert len(one.get_inference_statistics()["model_stats"]) == 2
        index = one.get_model_repository_index()
        assert [(row["version"], row["state"]) for row in index] == [("2", "READY"), ("3", "READY")]
        assert len(json.loads(ask(server, "POST", "/v2/repository/index", b'{"ready": true}')[2])) == 2
        assert ask(server, "POST", "/v2/repository/index", b'{"ready": 1}')[0] == 400
        assert ask(server, "POST", "/v2/repository/index", b"[]")[0] == 400
        assert ask(server, "GET", "/v2/repository/index")[0] == 405
        assert ask(server, "GET", "/v2/models/none/config")[0] == 404
        assert ask(server, "GET", "/v2/models/linear/versions/9/stats")[0] == 404
        assert "statistics" in one.get_server_metadata()["extensions"]


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_bodies_may_be_compressed_both_ways(sealed: Seal, name: str) -> None:
    value = np.tile(ROWS, (200, 1))
    with serving(sealed("linear")) as server, client(server) as one:
        result = one.infer(
            "linear", [infer_input(value)], request_compression_algorithm=name, response_compression_algorithm=name
        )
        np.testing.assert_allclose(result.as_numpy("logits"), value @ WEIGHTS, rtol=1e-5)
        body = json.dumps({"inputs": [FITTING["inputs"][0] | {"shape": [400, 4], "data": value.ravel().tolist()}]})
        status, headers, answer = ask(server, "POST", INFER, body.encode(), accept_encoding=f"br, {name};q=0.5")
        assert (status, headers["content-encoding"]) == (200, name)
        assert len(json.loads(zlib.decompress(answer, 47))["outputs"][0]["data"]) == 1200
        assert "content-encoding" not in ask(server, "POST", INFER, body.encode(), accept_encoding=f"{name};q=0")[1]
        assert ask(server, "POST", INFER, json.dumps(FITTING).encode(), accept_encoding=name)[0] == 200


def test_compressed_bodies_that_lie_are_refused(sealed: Seal) -> None:
    fitting = json.dumps(FITTING).encode()
    with serving(sealed("linear"), max_body_bytes=10_000) as server:
        bomb = gzip.compress(bytes(5_000_000))
        assert len(bomb) < 10_000
        assert ask(server, "POST", INFER, bomb, content_encoding="gzip")[0] == 413
        for wrong in (fitting, gzip.compress(fitting)[:-3], gzip.compress(fitting) + b"more", b""):
            assert ask(server, "POST", INFER, wrong, content_encoding="gzip")[0] == 400
        assert ask(server, "POST", INFER, fitting, content_encoding="br")[0] == 501
        assert ask(server, "POST", INFER, fitting, content_encoding="identity")[0] == 200


def test_an_output_can_be_asked_for_as_its_classes(sealed: Seal) -> None:
    value = np.array([[1, 2, 3, 2]], np.float32)
    logits = (value @ WEIGHTS)[0]
    expected = [f"{logits[place]:f}:{place}".encode() for place in np.argsort(-logits)[:2]]
    with serving(sealed("linear"), grpc_port=0) as server, client(server) as one:
        for binary in (True, False):
            asked = [triton.InferRequestedOutput("logits", binary_data=binary, class_count=2)]
            got = one.infer("linear", [infer_input(value)], outputs=asked).as_numpy("logits")
            assert [item if isinstance(item, bytes) else item.encode() for item in got[0]] == expected
        with triton_grpc.InferenceServerClient(server.grpc_address) as other:
            sent = triton_grpc.InferInput("input", [1, 4], "FP32")
            sent.set_data_from_numpy(value)
            outputs = [triton_grpc.InferRequestedOutput("logits", class_count=2)]
            assert other.infer("linear", [sent], outputs=outputs).as_numpy("logits")[0].tolist() == expected


def test_classes_of_tensors_with_and_without_rows_and_labels() -> None:
    value = np.array([[0.5, 2, 1], [3, 1, 1]], np.float32)
    spec, found = classify(TensorSpec(name="y", datatype="FP32", shape=(-1, 3)), value, 2, ["cat", "dog"])
    assert (spec.datatype, spec.shape) == ("BYTES", (2, 2))
    assert found.tolist() == [[b"2.000000:1:dog", b"1.000000:2"], [b"3.000000:0:cat", b"1.000000:1:dog"]]
    spec, found = classify(TensorSpec(name="y", datatype="FP32", shape=(2, 3)), value, 99, ())
    assert spec.shape == (6,)
    assert found[0] == b"3.000000:3"
    with pytest.raises(RequestError, match="only numbers"):
        classify(TensorSpec(name="y", datatype="BYTES", shape=(1,)), np.array([b"a"], object), 1, ())


def test_the_openapi_document_declares_every_route_and_no_other(sealed: Seal) -> None:
    plane, config = DataPlane(Metrics()), ServeConfig()
    extensions = Extensions(plane, Repository(plane, config), Control(None, "127.0.0.1"), config)
    routes = Rest(plane, extensions, config).routes
    document = openapi.document(routes)
    declared = {(verb.upper(), path) for path, verbs in document["paths"].items() for verb in verbs}
    assert declared == {(route.method, route.path) for route in routes}
    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)):
        assert name in document["components"]["schemas"]
    with serving(sealed("linear")) as server:
        assert json.loads(ask(server, "GET", "/openapi.json")[2]) == document
        for method, path in sorted(declared):  # and so load goes before unload
            place = path.format(model="linear", version="1", region="r", repository="other")
            bodies = {"infer": FITTING, "generate": {"input": [1, 2, 3, 4]}, "generate_stream": {"input": [1, 2, 3, 4]}}
            body = json.dumps(bodies[kind]).encode() if (kind := path.rpartition("/")[2]) in bodies else b""
            unknown = "sharedmemory" in path or "other" in place
            assert ask(server, method, place, body)[0] == (501 if unknown else 200), place


def test_a_wrong_method_is_told_which_are_right(sealed: Seal) -> None:
    with serving(sealed("linear")) as server:
        status, headers, _ = ask(server, "GET", "/v2/models/linear/infer")
        assert (status, headers["allow"]) == (405, "POST")
