"""The routing table."""

import pytest

from headway.serve.errors import NotFoundError
from headway.serve.routes import Answer, Call, Route, Routes, WrongMethodError


async def answer(_call: Call) -> Answer:
    return 200, [], b""


INFER = "/v2/models/{model}/versions/{version}/infer"
PATHS = ("/v2", "/v2/models/stats", "/v2/models/{model}", INFER)


@pytest.fixture
def routes() -> Routes:
    table = Routes()
    table.add(*(Route("GET", path, "", answer) for path in PATHS), Route("POST", "/v2", "", answer))
    return table


@pytest.mark.parametrize(
    ("path", "route", "named"),
    [
        ("/v2", "/v2", {}),
        ("/v2/", "/v2", {}),
        ("/v2/models/stats", "/v2/models/stats", {}),
        ("/v2/models/digits", "/v2/models/{model}", {"model": "digits"}),
        (
            "/v2/models/a/versions/3/infer",
            "/v2/models/{model}/versions/{version}/infer",
            {"model": "a", "version": "3"},
        ),
    ],
)
def test_finds(routes: Routes, path: str, route: str, named: dict[str, str]) -> None:
    for method in ("GET", "HEAD"):
        found, parts = routes.find(method, path)
        assert (found.method, found.path, parts) == ("GET", route, named)


@pytest.mark.parametrize("path", ["", "/", "v2", "/v3", "/v2//", "/v2/models", "/v2/models//", "/v2/models/a/versions"])
def test_knows_what_is_no_path(routes: Routes, path: str) -> None:
    with pytest.raises(NotFoundError, match="no such path"):
        routes.find("GET", path)


def test_names_the_methods_that_a_path_takes(routes: Routes) -> None:
    with pytest.raises(WrongMethodError, match="takes GET, HEAD, POST, not DELETE") as caught:
        routes.find("DELETE", "/v2")
    assert caught.value.allowed == "GET, HEAD, POST"


def test_yields_every_route(routes: Routes) -> None:
    assert sorted((route.method, route.path) for route in routes) == sorted(
        [("POST", "/v2"), *(("GET", p) for p in PATHS)]
    )
