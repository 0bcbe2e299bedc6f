"""Loading and unloading while a server runs, as common clients do it."""

import asyncio
import gc
import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from tests.serve.numbered import SIZE, numbered
from tritonclient.utils import InferenceServerException

from headway.bundles.archive import archive
from headway.core.errors import ConfigError
from headway.registry.registry import Registry
from headway.serve import proving
from headway.serve.config import ServeConfig
from headway.serve.errors import LoadError, NotFoundError, UnavailableError
from headway.serve.served_model import ServedModel
from headway.serve.server import Server

EVERYWHERE = "0.0.0.0"  # noqa: S104
LOAD, UNLOAD = "/v2/repository/models/numbered/load", "/v2/repository/models/numbered/unload"


@contextmanager
def serving(*models: Any, **settings: Any) -> Iterator[Server]:
    fixed = {"http_port": 0, "grpc_port": 0, "threads": 1, "choose_seconds": 0}
    with Server(models, ServeConfig(**{**fixed, **settings})).running() as server:
        yield server


@contextmanager
def clients(server: Server) -> Iterator[tuple[Any, Any]]:
    with triton_grpc.InferenceServerClient(server.grpc_address) as calls:
        rest = triton_http.InferenceServerClient(server.url.removeprefix("http://"), network_timeout=60)
        try:
            yield rest, calls
        finally:
            rest.close()


def ask(server: Server, path: str, body: Any = b"", **headers: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    try:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, sent, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def infer(client: Any, kind: Any, version: str = "") -> int:
    """The number that a model answers."""
    value = kind.InferInput("input", [1, SIZE], "FP32")
    value.set_data_from_numpy(np.ones((1, SIZE), np.float32))
    return int(client.infer("numbered", [value], model_version=version).as_numpy("first")[0, 0])


def index(client: Any) -> list[tuple[str, str, str]]:
    return [(row["name"], row.get("version", ""), row["state"]) for row in client.get_model_repository_index()]


@pytest.fixture
def registered(tmp_path: Path, home: Path) -> Registry:
    """Versions 1, 2 and 3, of which 1 is in production."""
    registry = Registry()
    for number in (1, 2, 3):
        registry.add(numbered(tmp_path, number))
    registry.alias("numbered", "production", "1")
    return registry


def test_every_client_loads_and_unloads_unmodified(registered: Registry) -> None:
    async def use_aio(address: str, grpc_address: str) -> None:
        async with triton_http_aio.InferenceServerClient(address) as rest:
            await rest.load_model("numbered", config=json.dumps({"version": "2"}))
            assert await rest.is_model_ready("numbered", "2")
            assert [row["version"] for row in await rest.get_model_repository_index()] == ["2"]
            await rest.unload_model("numbered")
            assert not await rest.is_model_ready("numbered")
        async with triton_grpc_aio.InferenceServerClient(grpc_address) as calls:
            await calls.load_model("numbered")
            assert await calls.is_model_ready("numbered", "1")
            await calls.unload_model("numbered")
            assert not await calls.is_model_ready("numbered")
            assert [row.state for row in (await calls.get_model_repository_index()).models] == ["UNAVAILABLE"]

    with serving("numbered@production") as server, clients(server) as (rest, calls):
        assert "model_repository" in rest.get_server_metadata()["extensions"]
        assert infer(rest, triton_http) == 1
        registered.alias("numbered", "production", "2")
        rest.load_model("numbered")  # where the alias points now
        assert (infer(rest, triton_http), infer(calls, triton_grpc)) == (2, 2)
        assert index(rest) == [("numbered", "2", "READY")]
        calls.load_model("numbered", config=json.dumps({"version": "3"}))
        assert infer(calls, triton_grpc) == 3
        with pytest.raises(InferenceServerException, match="no version '2'"):
            infer(rest, triton_http, "2")
        registered.alias("numbered", "production", "1")
        calls.unload_model("numbered", unload_dependents=True)
        assert not calls.is_model_ready("numbered")
        assert not rest.is_server_ready()
        with pytest.raises(InferenceServerException, match="is not loaded: unloaded"):
            infer(rest, triton_http)
        (row,) = calls.get_model_repository_index().models
        assert (row.version, row.state, row.reason) == ("3", "UNAVAILABLE", "unloaded")
        rest.load_model("numbered")
        assert infer(rest, triton_http) == 1
        asyncio.run(use_aio(server.url.removeprefix("http://"), server.grpc_address))


def test_several_versions_are_served_at_once_as_a_version_policy_says(registered: Registry) -> None:
    with serving("numbered:1", "numbered:3") as server, clients(server) as (rest, calls):
        assert rest.get_model_metadata("numbered")["versions"] == ["1", "3"]
        assert infer(rest, triton_http) == 3
        before = rest.get_inference_statistics("numbered", "1")["model_stats"][0]["inference_count"]
        for policy, versions in (
            ({"all": {}}, ["1", "2", "3"]),
            ({"latest": {"num_versions": 2}}, ["2", "3"]),
            ({"specific": {"versions": [2, 1]}}, ["1", "2"]),
        ):
            rest.load_model("numbered", config=json.dumps({"version_policy": policy}))
            assert rest.get_model_metadata("numbered")["versions"] == versions
            assert [infer(calls, triton_grpc, version) for version in versions] == [int(one) for one in versions]
            assert infer(rest, triton_http) == int(versions[-1])
        assert before == 0
        rest.load_model("numbered")  # what it was started from
        assert rest.get_model_metadata("numbered")["versions"] == ["1", "3"]
        metrics = server_metrics(server)
        assert 'headway_versions_served{model="numbered"} 2.0' in metrics
        assert 'headway_loads_total{model="numbered",result="ok"} 4.0' in metrics
        assert 'headway_load_seconds_count{model="numbered"} 4.0' in metrics
        deadline = time.monotonic() + 20
        while 'version="2"' in server_metrics(server):  # once it is freed, which the load does not wait for
            assert time.monotonic() < deadline, "the series of an unloaded version go on"


def server_metrics(server: Server) -> str:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=20)
    connection.request("GET", "/metrics")
    try:
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def test_a_version_that_stays_is_not_loaded_anew(registered: Registry) -> None:
    with serving("numbered:1", "numbered:2") as server, clients(server) as (rest, _):
        infer(rest, triton_http, "1")
        rest.load_model("numbered")
        (seen,) = rest.get_inference_statistics("numbered", "1")["model_stats"]
        assert seen["inference_count"] == 1


def test_python_loads_and_unloads_from_any_thread(registered: Registry) -> None:
    with serving(model_control=False) as server, clients(server) as (rest, _):
        assert server.models == []
        assert not rest.is_server_ready()
        server.load("numbered")
        assert infer(rest, triton_http) == 3
        server.load("numbered", version="1")
        assert infer(rest, triton_http) == 1
        with pytest.raises(LoadError, match="no variant 'int8'"):
            server.load("numbered", variant="int8")
        with pytest.raises(ConfigError, match="unknown key 'versoin'; did you mean 'version'"):
            server.load("numbered", versoin="1")
        with pytest.raises(NotFoundError, match="no model called 'other'"):
            server.load("other")
        server.unload("numbered")
        with pytest.raises(NotFoundError, match="no model is called 'other'"):
            server.unload("other")
        with pytest.raises(InferenceServerException, match="callers change nothing here"):
            rest.load_model("numbered")
    with pytest.raises(UnavailableError, match="not running"):
        server.load("numbered")


def test_a_bundle_that_was_registered_under_another_number_is_served_under_that(tmp_path: Path, home: Path) -> None:
    Registry().add(numbered(tmp_path, 1))
    Registry().add(numbered(tmp_path, 7, sealed_as=1), version="7")
    with serving("numbered:7") as server, clients(server) as (rest, _):
        assert rest.get_model_metadata("numbered")["versions"] == ["7"]
        rest.load_model("numbered", config='{"version_policy": {"all": {}}}')
        assert [infer(rest, triton_http, version) for version in ("1", "7")] == [1, 7]


def test_a_sealed_archive_may_come_with_the_call_and_nothing_else(tmp_path: Path, registered: Registry) -> None:
    packed = archive(numbered(tmp_path, 9), tmp_path / "9.hw").read_bytes()
    stranger = archive(numbered(tmp_path, 5, name="stranger"), tmp_path / "5.hw").read_bytes()
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    with serving("numbered:1") as server, clients(server) as (rest, calls):
        for files in (
            {"file:1/model.onnx": packed},
            {"file:../9/model.hw": packed},
            {"file:9/../../evil.hw": packed},
            {"file:/etc/model.hw": packed},
            {"file:9/model.hw": packed, "file:10/model.hw": packed},
            {"file:model.hw": packed},
        ):
            for client in (rest, calls):
                with pytest.raises(InferenceServerException, match="only sealed bundles") as caught:
                    client.load_model("numbered", config="{}", files=files)
                assert caught.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")
        for content, message in (
            (b"not a bundle", "not a bundle"),
            (packed[:-100], "cannot be read|not what was sealed|were sealed"),
            (packed.replace(b"<p>test</p>", b"<p>evil</p>"), "cannot be read|checksum"),
            (stranger, "is called 'stranger'"),
        ):
            with pytest.raises(InferenceServerException, match=message):
                rest.load_model("numbered", config="{}", files={"file:9/model.hw": content})
        with pytest.raises(InferenceServerException, match="holds version 9, not 8"):
            calls.load_model("numbered", files={"file:8/model.hw": packed})
        assert infer(rest, triton_http) == 1
        status, answer = ask(server, LOAD, {"parameters": {"file:9/model.hw": "?"}})
        assert (status, answer["error"]) == (400, "the file is not base64")
        assert ask(server, LOAD, {"parameters": {"file:9/model.hw": 5}})[0] == 400
        rest.load_model("numbered", files={"file:9/model.hw": packed})
        assert infer(rest, triton_http) == 9
        calls.load_model("numbered", files={"file:9/model.hw": packed})
        rest.load_model("numbered")  # what it was started from
        assert infer(rest, triton_http) == 1
    after = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    assert {path.name for path in after - before} == set()


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        (LOAD, b"{", 400, "not valid JSON"),
        (LOAD, {"parameters": []}, 400, "must be an object"),
        (LOAD, {"parameters": {"path": "/etc"}}, 400, "no parameter is called 'path'"),
        (LOAD, {"parameters": {"config": {}}}, 400, "must be JSON in a string"),
        (LOAD, {"parameters": {"config": "[" * 5000}}, 400, "nested too deeply"),
        (LOAD, {"parameters": {"config": '{"backend": "python"}'}}, 400, "unknown key 'backend'"),
        (LOAD, {"parameters": {"config": '{"version": "../1"}'}}, 400, "version"),
        (LOAD, {"parameters": {"config": '{"alias": "a/../b"}'}}, 400, "alias"),
        (LOAD, {"parameters": {"config": '{"version": "1", "alias": "a"}'}}, 400, "only one of version, alias"),
        (LOAD, {"parameters": {"config": '{"version_policy": {}}'}}, 400, "one of latest, all and specific"),
        (LOAD, {"parameters": {"config": '{"version_policy": {"specific": {"versions": [0]}}}'}}, 400, "versions"),
        (LOAD, {"parameters": {"config": '{"version": "8"}'}}, 404, "no version 8"),
        (LOAD, {"parameters": {"config": '{"alias": "none"}'}}, 404, "no alias 'none'"),
        (UNLOAD, {"parameters": {"unload_dependents": 1}}, 400, "unload_dependents"),
        ("/v2/repository/models/other/load", b"", 404, "no model called 'other'"),
        ("/v2/repository/models/other/unload", b"", 404, "no model is called 'other'"),
        ("/v2/repository/models/../load", b"", 404, ""),
        ("/v2/repository/models/%2e%2e/load", b"", 404, ""),
        ("/v2/repository/models/..%2fnumbered/load", b"", 404, ""),
        ("/v2/repository/models/numbered:1/load", b"", 404, "no model is called"),
        ("/v2/repository/models/numbered%40production/load", b"", 404, "no model is called"),
        ("/v2/repository/models/%20/load", b"", 404, "no model is called"),
        ("/v2/repository/mine/models/numbered/load", b"", 501, "one repository"),
        ("/v2/repository/mine/index", b"", 501, "one repository"),
    ],
)
def test_a_wrong_call_has_its_status_and_changes_nothing(
    server_of_one: Server, path: str, body: Any, status: int, message: str
) -> None:
    got, answer = ask(server_of_one, path, body)
    assert got == status, answer
    assert list(answer) == ["error"]
    assert message in answer["error"]
    _, rows = ask(server_of_one, "/v2/repository/index")
    assert {(row["name"], row.get("version"), row["state"]) for row in rows if row["state"] == "READY"} == {
        ("numbered", "1", "READY")
    }
    assert {row["name"] for row in rows} == {"numbered"}, "a name that a caller made up stays"
    assert 'model="other"' not in server_metrics(server_of_one)


@pytest.fixture(scope="module")
def server_of_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADWAY_HOME", str(tmp_path_factory.mktemp("home")))
        Registry().add(numbered(tmp_path_factory.mktemp("bundles"), 1))
        with serving("numbered") as server:
            server.load("numbered")  # what the event loop keeps a thread for is there before the first test
            yield server


def test_a_model_that_is_served_from_a_path_is_read_from_there_again(tmp_path: Path, home: Path) -> None:
    live = tmp_path / "live"
    live.symlink_to(numbered(tmp_path, 1).path)
    with serving(live) as server, clients(server) as (rest, calls):
        live.unlink()
        live.symlink_to(numbered(tmp_path, 2).path)
        rest.load_model("numbered")
        assert infer(rest, triton_http) == 2
        live.unlink()
        live.symlink_to(numbered(tmp_path, 3, name="other").path)
        with pytest.raises(InferenceServerException, match="is called 'other'"):
            rest.load_model("numbered")
        with pytest.raises(InferenceServerException, match="served from a path, which holds one version"):
            calls.load_model("numbered", config='{"version": "1"}')
        assert infer(rest, triton_http) == 2
        rows = rest.get_model_repository_index()
        assert [(row.get("version"), row["state"]) for row in rows] == [("2", "READY"), (None, "UNAVAILABLE")]
        assert "served from a path" in rows[1]["reason"]
        ready = json.dumps({"ready": True}).encode()
        assert len(ask(server, "/v2/repository/index", ready)[1]) == 1
        assert 'headway_loads_total{model="numbered",result="failed"} 2.0' in server_metrics(server)
        assert rest.is_server_ready()


def test_versions_at_once_are_bounded(registered: Registry) -> None:
    with serving("numbered:1", max_versions=2) as server, clients(server) as (rest, _):
        with pytest.raises(InferenceServerException, match="3 versions, but at most 2"):
            rest.load_model("numbered", config='{"version_policy": {"all": {}}}')
        assert infer(rest, triton_http) == 1


def test_what_a_swap_replaces_is_freed(registered: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing keeps a model that is served no longer; the bundles are proved in this process, to be quick."""
    monkeypatch.setattr(proving.Prover, "prove", lambda self, job: proving._answer(job).proofs)
    with serving("numbered:1") as server, clients(server) as (rest, _):

        def count() -> tuple[int, int]:
            gc.collect()
            threads = sum(thread.name.startswith("headway-run") for thread in threading.enumerate())
            return sum(type(one) is ServedModel for one in gc.get_objects()), threads

        before = count()
        for number in range(50):
            server.load("numbered", version=str(2 - number % 2))
            assert infer(rest, triton_http) == 2 - number % 2
        server.unload("numbered")
        server.load("numbered")
        assert count() == before


# Who may


@pytest.mark.parametrize("path", [LOAD, UNLOAD])
def test_a_web_page_can_neither_load_nor_unload(server_of_one: Server, path: str) -> None:
    """By a request across origins, which carries Origin, or by DNS rebinding, where Host is the page's own name."""
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": server_of_one.url},
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost.evil.example:8000"},
        {"Host": "192.168.1.7"},
        {"Host": "[::ffff:8.8.8.8]:80"},
        {"Host": ""},
    ):
        status, answer = ask(server_of_one, path, b"", **headers)
        assert status == 403, (headers, answer)
        assert list(answer) == ["error"]
    status, rows = ask(server_of_one, "/v2/repository/index", b"", Origin="https://page.example")
    assert (status, rows[0]["state"]) == (200, "READY"), "to look is not to change"
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1", "127.8.8.8:1", "[::1]:8000"):
        assert ask(server_of_one, "/v2/repository/models/none/unload", b"", Host=host)[0] == 404


def test_a_server_that_others_reach_is_not_controlled_unless_its_owner_says_so(registered: Registry) -> None:
    with serving("numbered:1", host=EVERYWHERE) as server, clients(server) as (rest, calls):
        for change in (rest.load_model, rest.unload_model, calls.load_model, calls.unload_model):
            with pytest.raises(InferenceServerException, match="callers change nothing here") as caught:
                change("numbered")
            assert caught.value.status() in ("403", "StatusCode.PERMISSION_DENIED")
        assert infer(rest, triton_http) == 1
    with serving("numbered:1", host=EVERYWHERE, model_control=True) as server:
        assert ask(server, LOAD, b"", Host="models.example")[0] == 200
        assert ask(server, LOAD, b"", Host="models.example", Origin="https://models.example")[0] == 403
