"""Ray Serve: one replica, `@serve.batch`, bytes in, bytes out."""

import asyncio
import sys
import threading

import numpy as np
import ray
from greedy import MAX_ROWS, Model
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": 0})
class Cnn:
    """The one replica."""

    def __init__(self, path: str) -> None:
        self.model = Model(path)

    @serve.batch(max_batch_size=MAX_ROWS, batch_wait_timeout_s=0.0)
    async def run(self, rows: list[np.ndarray]) -> list[np.ndarray]:
        """Rows [1, *row] -> outputs [classes]."""
        return list(await asyncio.to_thread(self.model.run, np.concatenate(rows)))

    async def __call__(self, request: Request) -> Response:
        """FP32 in, FP32 out."""
        answer = await self.run(self.model.rows(await request.body()))
        return Response(answer.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2]), "access_log": False})
    serve.run(Cnn.bind(sys.argv[1]), route_prefix="/predict")
    threading.Event().wait()
