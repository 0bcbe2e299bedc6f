"""gzip and deflate (in zlib's framing) of bodies. Large ones go to a thread: zlib leaves the GIL to the rest."""

import zlib
from contextlib import suppress

from headway.core.errors import RequestError
from headway.serve.aside import Aside
from headway.serve.errors import TooLargeError, UnsupportedError

_FRAMES = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_LEAST = 1024  # bytes; a smaller answer gains nothing
_SOON = 1 << 18  # bytes that are soon decompressed
_THREAD = 1 << 16  # bytes from which a thread costs less than it frees


async def decompress(body: bytes, encoding: str, most: int, aside: Aside) -> bytes:
    """The body before it was compressed, of at most `most` bytes. `aside` is for large ones.

    Raises:
        TooLargeError: it has more; no more than that was ever held.
        RequestError: it is not so encoded.
        UnsupportedError: another encoding than gzip and deflate.
    """
    name = encoding.strip().lower()
    if name == "identity":
        return body
    if name not in _FRAMES:
        raise UnsupportedError(f"{encoding[:50]!r} is not supported", where="Content-Encoding", remedy="Send gzip.")
    if len(body) < _THREAD:
        with suppress(TooLargeError):  # a small body can hold a thousand times its size
            return _decompress(body, _FRAMES[name], min(most, _SOON))
    return await aside.run(_decompress, body, _FRAMES[name], most)


async def compress(body: bytes, accepted: str, aside: Aside) -> tuple[bytes, str | None]:
    """The body in an encoding that the caller accepts, and that encoding; None where it stays as it is."""
    if len(body) < _LEAST or (name := _chosen(accepted)) is None:
        return body, None
    if len(body) < _THREAD:
        return _compress(body, _FRAMES[name]), name
    return await aside.run(_compress, body, _FRAMES[name]), name


def _decompress(body: bytes, frame: int, most: int) -> bytes:
    machine = zlib.decompressobj(frame)
    try:
        whole = machine.decompress(body, most + 1)
    except zlib.error:
        raise RequestError("the body is not encoded as it says", where="Content-Encoding") from None
    if len(whole) > most:
        raise TooLargeError(f"the body has more than {most} bytes once decompressed")
    if not machine.eof or machine.unused_data:
        raise RequestError("the compressed body is cut off, or more follows it", where="Content-Encoding")
    return whole


def _compress(body: bytes, frame: int) -> bytes:
    machine = zlib.compressobj(1, wbits=frame)
    return machine.compress(body) + machine.flush()


def _chosen(accepted: str) -> str | None:
    """The first of ours that `Accept-Encoding` names and does not weigh with 0."""
    for entry in accepted.lower().split(","):
        name, _, weight = (part.strip() for part in entry.partition(";"))
        if name in _FRAMES and weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            return name
    return None
