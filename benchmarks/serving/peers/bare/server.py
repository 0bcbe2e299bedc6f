"""The ceiling: granian's RSGI interface, the binary protocol, greedy batching, ONNX Runtime in a thread. Nothing else.

No checks, limits, deadlines, metrics or second wire: what is left is what no Python server of this kind can avoid.
"""

import json
import sys

import uvloop
from granian.constants import HTTPModes
from granian.server.embed import Server
from greedy import Greedy, Model


class Bare:
    """The RSGI application: whatever the path, the body is a binary request of the Open Inference Protocol."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._greedy = Greedy(model)

    async def __rsgi__(self, scope, protocol) -> None:
        body = await protocol()
        length = int(scope.headers.get("inference-header-content-length"))
        asked = json.loads(body[:length])
        row = self._model.rows(body, length).reshape(asked["inputs"][0]["shape"])
        blob = (await self._greedy.infer(row)).tobytes()
        output = {
            "name": self._model.output,
            "datatype": "FP32",
            "shape": [1, len(blob) // 4],
            "parameters": {"binary_data_size": len(blob)},
        }
        header = json.dumps({"model_name": "cnn", "model_version": "1", "outputs": [output]}).encode()
        told = [("inference-header-content-length", str(len(header))), ("content-type", "application/octet-stream")]
        protocol.response_bytes(200, told, header + blob)


async def main(path: str, port: int) -> None:
    server = Server(
        Bare(Model(path)), address="127.0.0.1", port=port, http=HTTPModes.http1, log_enabled=False, backpressure=1024
    )
    await server.serve()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
