"""The callers of the soak test, each kind a process: `python -m benchmarks.serving.soak_clients KIND REST GRPC FOLDER`.

Every request carries numbers that no other one has, and the model adds a number to each that its version has of its
own: so an answer tells whose it is and which version gave it. What callers count lies in a file that survives SIGKILL.
"""

import http.client
import json
import mmap
import os
import random
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from headway.core.tensors import Array

OFFSET = 1_000_000_007  # times the version, is what the model adds
COUNTS = ("sent", "right", "refused", "left", "half", "told", "wrong")
THREADS = 2  # callers of a process
_TIMEOUT_S = 60  # longer than the server takes to give up
_stopping = threading.Event()


class Tally:
    """What one thread of callers saw.

    sent: valid requests, counted before their last byte goes out. Of these, right: answered, with what is theirs;
    refused: answered with 504 because they were late; left: given up on purpose. half: broken off before they were
    whole. told: invalid, and refused with a reason. wrong: everything else.
    """

    def __init__(self, folder: Path, name: str) -> None:
        path = folder / f"{name}-{os.getpid()}-{threading.get_ident()}"
        path.write_bytes(bytes(8 * len(COUNTS)))
        with path.open("r+b") as file:
            self._counts = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
        self._notes = path.with_suffix(".notes")

    def add(self, what: str) -> None:
        """One more."""
        self._counts[COUNTS.index(what)] += 1

    def wrong(self, why: str) -> None:
        """One more that must not be; `why` is kept."""
        self.add("wrong")
        with self._notes.open("a", encoding="utf-8") as notes:
            notes.write(f"{why[:500]}\n")


def read(folder: Path, kinds: tuple[str, ...]) -> dict[str, int]:
    """What all callers of these kinds counted."""
    files = [f for kind in kinds for f in folder.glob(f"{kind}-*") if f.suffix != ".notes"]
    totals = sum((np.fromfile(file, np.int64) for file in files), np.zeros(len(COUNTS), np.int64))
    return dict(zip(COUNTS, (int(total) for total in totals), strict=True))


def numbers() -> Iterator[Array]:
    """Inputs, [1 to 4, 1], of numbers that come once on a machine."""
    start = (os.getpid() << 40) + (threading.get_ident() % 1009 << 28)
    for turn in count(1):
        yield np.arange(1 + turn % 4, dtype=np.int64)[:, None] + start + turn * 4


def expected(sent: Array, version: str) -> Array:
    """What that version answers."""
    return sent + int(version) * OFFSET


# Callers that behave, with clients that are not ours


def behave(module: Any, address: str, model: str, tally: Tally) -> None:
    """Ask and check, over REST or gRPC, until told to stop. `module` is tritonclient's."""
    client = module.InferenceServerClient(address)
    for turn, sent in enumerate(numbers()):
        if _stopping.is_set():
            break
        tensor = module.InferInput("ids", list(sent.shape), "INT64")
        as_json = {"binary_data": False} if "http" in module.__name__ and turn % 2 else {}
        tensor.set_data_from_numpy(sent, **as_json)
        output = module.InferRequestedOutput("same", **as_json)
        tally.add("sent")
        try:
            answer = client.infer(model, [tensor], outputs=[output], request_id=str(turn))
        except Exception as error:  # noqa: BLE001  (whatever it is, this request was not answered)
            tally.wrong(f"{model}: {type(error).__name__}: {error}")
            continue
        told = answer.get_response()
        version, number = (told[k] if isinstance(told, dict) else getattr(told, k) for k in ("model_version", "id"))
        if number == str(turn) and np.array_equal(answer.as_numpy("same"), expected(sent, version)):
            tally.add("right")
        else:
            tally.wrong(f"{model}: asked {sent.tolist()} as {turn}, got {told}")
    client.close()


def cancel(address: str, tally: Tally) -> None:
    """Ask over gRPC and cancel, mostly before there is an answer."""
    import tritonclient.grpc as module

    chance = random.Random(os.getpid())
    client = module.InferenceServerClient(address)
    for sent in numbers():
        if _stopping.is_set():
            break
        tensor = module.InferInput("ids", list(sent.shape), "INT64")
        tensor.set_data_from_numpy(sent)
        tally.add("sent")
        ended: SimpleQueue[Any] = SimpleQueue()
        call = client.async_infer("rough", [tensor], lambda result, error, ended=ended: ended.put((result, error)))
        try:
            answer, error = ended.get(timeout=chance.choice((0.0001, 0.001, 0.01)))
        except Empty:
            call.cancel()
            tally.add("left")
            ended.get(timeout=_TIMEOUT_S)
            continue
        told = None if error else answer.get_response()
        if told is not None and np.array_equal(answer.as_numpy("same"), expected(sent, told.model_version)):
            tally.add("right")
        else:
            tally.wrong(f"rough over gRPC: asked {sent.tolist()}, got {error or told}")
    client.close()


# Callers that do not behave, byte by byte


def request(sent: Array, **parameters: Any) -> tuple[dict[str, str], bytes]:
    """Headers and body of a binary request."""
    blob = sent.tobytes()
    tensor = {"name": "ids", "datatype": "INT64", "shape": list(sent.shape)}
    asked = {
        "inputs": [{**tensor, "parameters": {"binary_data_size": len(blob)}}],
        "outputs": [{"name": "same", "parameters": {"binary_data": False}}],
        "parameters": parameters,
    }
    header = json.dumps(asked).encode()
    return {"Inference-Header-Content-Length": str(len(header))}, header + blob


class Rough:
    """Does one thing after another that a client should not do, and between them asks as it should."""

    def __init__(self, address: str, tally: Tally) -> None:
        self._address, self._tally = address, tally
        self._chance = random.Random(threading.get_ident())
        self._numbers = numbers()

    def run(self) -> None:
        """Until told to stop."""
        ways: tuple[Callable[[], None], ...] = (
            self.ask, self.ask, self.hurry, self.dawdle, self.half, self.leave, self.reset, self.invalid,
        )  # fmt: skip
        while not _stopping.is_set():
            try:
                self._chance.choice(ways)()
            except (OSError, http.client.HTTPException) as error:
                self._tally.wrong(f"rough: {type(error).__name__}: {error}")

    def ask(self, pause_s: float = 0, **parameters: Any) -> None:
        """A valid request, perhaps in two pieces with a pause between them."""
        sent = next(self._numbers)
        with self._begun(*request(sent, **parameters)) as connection:
            if pause_s:
                connection.send(self._rest[: len(self._rest) // 2])
                self._rest = self._rest[len(self._rest) // 2 :]
                _stopping.wait(pause_s)
            self._tally.add("sent")
            connection.send(self._rest)
            status, told = self._answer(connection)
        if status == 504 and parameters:
            self._tally.add("refused")
        elif status == 200 and told["outputs"][0]["data"] == expected(sent, told["model_version"]).ravel().tolist():
            self._tally.add("right")
        else:
            self._tally.wrong(f"rough: asked {sent.tolist()}, got {status} {told}")

    def hurry(self) -> None:
        """A deadline, in microseconds, that often cannot be kept."""
        self.ask(timeout=self._chance.choice((1, 500, 3000)))

    def dawdle(self) -> None:
        """A body that comes slowly."""
        self.ask(pause_s=0.2)

    def half(self) -> None:
        """Half a body, and gone."""
        with self._begun(*request(next(self._numbers))) as connection:
            connection.send(self._rest[: len(self._rest) // 2])
        self._tally.add("half")

    def leave(self) -> None:
        """A whole request, and gone before its answer."""
        with self._begun(*request(next(self._numbers))) as connection:
            self._tally.add("sent")
            connection.send(self._rest)
            _stopping.wait(self._chance.choice((0, 0.002, 0.06)))
        self._tally.add("left")

    def reset(self) -> None:
        """The same, but the connection breaks."""
        with self._begun(*request(next(self._numbers))) as connection:
            self._tally.add("sent")
            connection.send(self._rest)
            assert connection.sock is not None
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._tally.add("left")

    def invalid(self) -> None:
        """A request that cannot be answered, and must be refused with a reason."""
        sent = next(self._numbers)
        headers, body = request(sent)
        wrong: tuple[tuple[dict[str, str], bytes], ...] = (
            ({}, b'{"inputs": ['),
            ({}, b"[" * 5000),
            ({}, b""),
            (headers, body[:-3]),
            (headers, body + b"more"),
            ({"Inference-Header-Content-Length": "-1"}, body),
            ({"Inference-Header-Content-Length": "999999"}, body),
            ({**headers, "Content-Encoding": "gzip"}, body),
            (headers, body.replace(b'"INT64"', b'"INT32"')),
            (headers, body.replace(b'"ids"', b'"odd"')),
            (headers, body.replace(b'"shape": [', b'"shape": [-')),
            (headers, body.replace(b'"same"', b'"none"')),
        )
        with self._begun(*self._chance.choice(wrong)) as connection:
            connection.send(self._rest)
            status, told = self._answer(connection)
        if 400 <= status < 500 and isinstance(told.get("error"), str) and told["error"]:
            self._tally.add("told")
        else:
            self._tally.wrong(f"invalid: got {status} {told}")

    def _begun(self, headers: dict[str, str], body: bytes) -> "_Closing":
        self._rest = body
        connection = _Closing(self._address, timeout=_TIMEOUT_S)
        connection.putrequest("POST", "/v2/models/rough/infer")
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection

    def _answer(self, connection: "_Closing") -> tuple[int, Any]:
        response = connection.getresponse()
        return response.status, json.loads(response.read())


class _Closing(http.client.HTTPConnection):
    def __enter__(self) -> "_Closing":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main(kind: str, rest: str, grpc: str, place: str) -> None:
    """The command."""
    folder = Path(place)
    signal.signal(signal.SIGTERM, lambda *_: _stopping.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the soak itself tells its callers when to stop

    def caller() -> None:
        tally = Tally(folder, kind)
        if kind in ("calm_rest", "calm_grpc", "beside_rest", "beside_grpc"):
            import tritonclient.grpc
            import tritonclient.http

            module, address = (tritonclient.http, rest) if kind.endswith("rest") else (tritonclient.grpc, grpc)
            behave(module, address, "calm" if kind.startswith("calm") else "rough", tally)
        elif kind == "cancel":
            cancel(grpc, tally)
        else:
            Rough(rest, tally).run()

    threads = [threading.Thread(target=caller) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
