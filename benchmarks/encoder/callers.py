"""Callers who each send a text and ask again once they have its vector, until a list of texts is done.

Every server is given the same texts, and is timed from the first question to the last answer. A turn of fixed length
would end in the middle of batches, which are long here, and longest where the batches are worst.
"""

import asyncio
from collections.abc import Iterator, Mapping
from time import perf_counter
from typing import NamedTuple

import numpy as np
from benchmarks.encoder.server import Counts, read
from benchmarks.serving.servers import Running
from benchmarks.serving.wires import Wire

from headway.core.tensors import Array

_ENDS = b"\r\n\r\n"


class Turn(NamedTuple):
    """What one server did with a list of texts.

    Attributes:
        texts: of them.
        seconds: from the first question to the last answer.
        cpu_s: of the server meanwhile, which has one core: what `seconds` would be if it had that to itself.
        latencies: of each text, in seconds.
        counts: of the runs.
    """

    texts: int
    seconds: float
    cpu_s: float
    latencies: list[float]
    counts: Counts

    @property
    def rate(self) -> float:
        """Texts a second."""
        return self.texts / self.seconds

    @property
    def cpu_rate(self) -> float:
        """Texts a second of its CPU time."""
        return self.texts / self.cpu_s


def request(text: str) -> bytes:
    """A body, binary REST. The JSON has always as many bytes, so that every request has the same headers."""
    data = text.encode()
    size = f"{4 + len(data):>8}"
    tensor = f'{{"name":"text","shape":[1],"datatype":"BYTES","parameters":{{"binary_data_size":{size}}}}}'
    asked = f'{{"inputs":[{tensor}],"parameters":{{"binary_data_output":true}}}}'
    return asked.encode() + len(data).to_bytes(4, "little") + data


def vector(told: Mapping[str, str], body: bytes) -> Array:
    """Of one answer."""
    return np.frombuffer(body[int(told["inference-header-content-length"]) :], np.float32)


WIRE = Wire(
    "/v2/models/encoder/infer",
    {"Inference-Header-Content-Length": str(len(request("")) - 4), "Content-Type": "application/octet-stream"},
    lambda row: request(str(row)),
    vector,
)


def turn(server: Running, texts: list[str], callers: int) -> Turn:
    """Wake a server, have it answer every text, and stop it. Raises `SystemExit` where an answer is no success."""
    server.resume()
    try:
        before, cpu_s = read(server.clock), server.cpu_seconds()
        began = perf_counter()
        latencies = asyncio.run(_all(server.port, texts, callers))
        seconds = perf_counter() - began
        after, cpu_s = read(server.clock), server.cpu_seconds() - cpu_s
    finally:
        server.pause()
    counts = Counts(*(new - old for new, old in zip(after, before, strict=True)))
    return Turn(len(texts), seconds, cpu_s, latencies, counts)


async def _all(port: int, texts: list[str], callers: int) -> list[float]:
    latencies: list[float] = []
    left = iter([request(text) for text in texts])
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(_caller(port, left, latencies))
    return latencies


async def _caller(port: int, left: Iterator[bytes], latencies: list[float]) -> None:
    head = [f"POST {WIRE.path} HTTP/1.1", "Host: h", *(f"{name}: {value}" for name, value in WIRE.headers.items())]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for body in left:
        began = perf_counter()
        writer.write("\r\n".join([*head, f"Content-Length: {len(body)}\r\n\r\n"]).encode() + body)
        told = (await reader.readuntil(_ENDS)).lower()
        answer = await reader.readexactly(int(told.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]))
        if not told.startswith(b"http/1.1 200"):
            raise SystemExit(f"answers {answer[:200]!r}")
        latencies.append(perf_counter() - began)
    writer.close()
    await writer.wait_closed()
