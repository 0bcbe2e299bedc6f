"""JSON from strangers: bounded in length and depth, with objects that name nothing twice.

Reading JSON is one long call into C that lets no other thread run: 16 MB of numbers would stop every other request for
0.4 s, in a worker thread as well. So a long text is read with numbers made by Python functions, which let others in
between two numbers (0.02-0.15 s at a time; the whole takes up to twice as long).
"""

import json
from typing import Any, NoReturn

import numpy as np

from headway.core.errors import RequestError
from headway.serve.errors import TooLargeError
from headway.serve.fields import RequestLimits

LONG = 1 << 18  # bytes from which JSON is read in a worker thread, and with patience
_MOST_LISTS = 1 << 18  # millions of them keep the garbage collector busy for seconds
_MOST_KEYS = 1 << 16  # an object is made of its keys in one go


def json_object(text: bytes, limits: RequestLimits) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        TooLargeError: it is longer than is read.
        RequestError: it is no JSON object, has too many keys, or is nested too deeply.
    """
    if len(text) > limits.json_bytes:
        raise TooLargeError(
            f"{len(text)} bytes of JSON; at most {limits.json_bytes} are read", remedy="Send tensors as binary data."
        )
    if text.count(b"[") + text.count(b"{") > limits.json_depth or text.count(b":") > _MOST_KEYS:  # else it is neither
        _check_structure(text, limits.json_depth)
    try:
        document = (_decoder if len(text) < LONG else _patient).decode(text.decode())
    except RecursionError:
        raise RequestError("the JSON is nested too deeply") from None
    except ValueError as error:  # JSON and UTF-8 errors are both of this kind
        raise RequestError(f"the request is not valid JSON: {error}"[:300]) from None
    if not isinstance(document, dict):
        raise RequestError("must be a JSON object", where="the request")
    return document


def _check_structure(text: bytes, depth: int) -> None:
    """Refuse more keys, lists and objects, or deeper ones, than are read; what stands within texts does not count."""
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"")  # every quote that is left begins or ends a text
    codes = np.frombuffer(plain, np.uint8)
    within = np.logical_xor.accumulate(codes == ord('"'))
    shapes = codes[~within] | 0x20  # which turns [ into { and ] into }
    opens = shapes[(shapes == ord("{")) | (shapes == ord("}"))] == ord("{")
    if opens.sum() > _MOST_LISTS:
        raise RequestError(
            f"more than {_MOST_LISTS} lists and objects", remedy="Send tensors as flat lists or as binary data."
        )
    if opens.size and np.where(opens, 1, -1).cumsum().max() > depth:
        raise RequestError(f"the JSON is nested too deeply; at most {depth} levels are read")
    if (codes[~within] == ord(":")).sum() > _MOST_KEYS:
        raise RequestError(f"more than {_MOST_KEYS} keys")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; send it as binary data")


def _float(text: str) -> float:
    return float(text)


def _int(text: str) -> int:
    return int(text)


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
_patient = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_float, parse_int=_int)
