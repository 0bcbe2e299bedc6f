"""MLServer with a custom runtime and adaptive batching, in one process.

Of its REST forms base64 costs least: JSON numbers become Python objects one by one, and it has no binary tensors there.
"""

import asyncio
import os
import socket
import sys

from greedy import MAX_ROWS
from mlserver import MLServer, ModelSettings, Settings
from mlserver.settings import ModelParameters
from runtime import Runtime


async def main(path: str, port: int) -> None:
    """Serve until told to stop."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        grpc_port = free.getsockname()[1]
    settings = Settings(
        host="127.0.0.1", http_port=port, grpc_port=grpc_port, metrics_endpoint=None, parallel_workers=0, debug=False
    )
    name = os.path.basename(path).removesuffix(".onnx")  # noqa: PTH119
    model = ModelSettings(
        name=name,
        implementation=Runtime,
        parameters=ModelParameters(uri=path),
        max_batch_size=MAX_ROWS,
        max_batch_time=0.01,
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
