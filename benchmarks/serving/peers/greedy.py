"""What the servers of our own making share: a session on one thread, and a queue that batches greedily.

While a run is under way requests gather; when it ends, up to 32 of them go into the next one. An idle session never
waits.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime

MAX_ROWS = 32


class Model:
    """An ONNX file with one FP32 input and one output, on one thread."""

    def __init__(self, path: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name
        self.output = self.session.get_outputs()[0].name
        self.row = tuple(self.session.get_inputs()[0].shape[1:])

    def rows(self, data: bytes, offset: int = 0) -> np.ndarray:
        """FP32 rows as they lie in a request's body, [n, *row]."""
        return np.frombuffer(data, np.float32, offset=offset).reshape(-1, *self.row)

    def run(self, rows: np.ndarray) -> np.ndarray:
        """[n, *row] -> [n, classes]."""
        return self.session.run([self.output], {self.input: rows})[0]


class Greedy:
    """One run at a time, in a thread of its own; each request has one row."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._queue: list[tuple[np.ndarray, asyncio.Future]] = []
        self._thread = ThreadPoolExecutor(1)
        self._busy = False

    async def infer(self, row: np.ndarray) -> np.ndarray:
        """[1, *row] -> [1, classes]."""
        answer = asyncio.get_running_loop().create_future()
        self._queue.append((row, answer))
        self._start()
        return await answer

    def _start(self) -> None:
        if self._busy or not self._queue:
            return
        self._busy = True
        batch, self._queue = self._queue[:MAX_ROWS], self._queue[MAX_ROWS:]
        loop = asyncio.get_running_loop()
        self._thread.submit(self._run, loop, batch)

    def _run(self, loop: asyncio.AbstractEventLoop, batch: list) -> None:
        try:
            outputs = self._model.run(np.concatenate([row for row, _ in batch]))
        except Exception as error:  # noqa: BLE001  (goes to every caller of the batch)
            outputs = error
        loop.call_soon_threadsafe(self._finish, batch, outputs)

    def _finish(self, batch: list, outputs: np.ndarray | Exception) -> None:
        self._busy = False
        self._start()
        for number, (_, answer) in enumerate(batch):
            if answer.done():
                continue
            if isinstance(outputs, Exception):
                answer.set_exception(outputs)
            else:
                answer.set_result(outputs[number : number + 1])
