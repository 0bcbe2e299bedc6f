"""The routes of the REST API: one table, from which requests find their handler and the OpenAPI document its paths."""

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from headway.core.errors import RequestError
from headway.serve.errors import NotFoundError

Headers = list[tuple[str, str]]
Answer = tuple[int, Headers, bytes]

JSON: Headers = [("content-type", "application/json")]


@dataclass(slots=True)
class Call:
    """What a handler is given.

    Attributes:
        named: the parts of the path that its route names in braces.
        headers: `get(name)` of the request's headers, names in lower case.
        body: decompressed; empty for a GET.
    """

    named: Mapping[str, str]
    headers: Any
    body: bytes = b""


Handler = Callable[[Call], Awaitable[Answer]]


class Route(NamedTuple):
    """One method of one path, such as `/v2/models/{model}`."""

    method: str
    path: str
    summary: str
    handler: Handler


def json_answer(status: int, document: Any) -> Answer:
    """An answer whose body is this document."""
    return status, JSON, json.dumps(document).encode()


def telling(document: Callable[[Call], Any]) -> Handler:
    """A handler that answers with this document."""

    async def answer(call: Call) -> Answer:
        return json_answer(200, document(call))

    return answer


class WrongMethodError(RequestError):
    """The path exists, but not for this method. `allowed` names those it takes."""

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"this path takes {allowed}, not {method[:20]}")
        self.allowed = allowed


class _Node:
    __slots__ = ("any", "below", "name", "routes")

    def __init__(self) -> None:
        self.below: dict[str, _Node] = {}
        self.any: _Node | None = None  # below a part in braces, which `name` calls so
        self.name = ""
        self.routes: dict[str, Route] = {}


class Routes:
    """A tree over the parts of the paths. A part that is spelled out goes before one in braces."""

    def __init__(self) -> None:
        self._root = _Node()

    def add(self, *routes: Route) -> None:
        """Take routes into the table."""
        for route in routes:
            node = self._root
            for part in route.path.split("/"):
                if part.startswith("{"):
                    node.any = node.any or _Node()
                    node = node.any
                    node.name = part[1:-1]
                else:
                    node = node.below.setdefault(part, _Node())
            node.routes[route.method] = route

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route of a request, and what its path names. One slash at the end is passed over; HEAD finds GET's.

        Raises:
            NotFoundError: there is no such path.
            WrongMethodError: the path takes other methods.
        """
        named: dict[str, str] = {}
        node: _Node | None = self._root
        for part in (path[:-1] if path.endswith("/") else path).split("/"):
            assert node is not None  # noqa: S101
            below = node.below.get(part)
            if below is None and part and node.any is not None:
                below = node.any
                named[below.name] = part
            node = below
            if node is None:
                break
        if node is None or not node.routes:
            raise NotFoundError(f"no such path: {path[:200]}")
        route = node.routes.get("GET" if method == "HEAD" else method)
        if route is None:
            raise WrongMethodError(method, ", ".join(node.routes).replace("GET", "GET, HEAD"))
        return route, named

    def __iter__(self) -> Iterator[Route]:
        waiting = [self._root]
        while waiting:
            node = waiting.pop()
            yield from node.routes.values()
            waiting += [*node.below.values(), *([node.any] if node.any else [])]
