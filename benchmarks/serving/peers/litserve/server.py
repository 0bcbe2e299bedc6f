"""LitServe, with its batching and its fast queue; bytes in, bytes out."""

import sys
from typing import Annotated

import litserve
from fastapi import Body, Response
from greedy import MAX_ROWS, Model


class Api(litserve.LitAPI):
    """One worker process, which is what one core is good for."""

    def setup(self, device: str) -> None:
        """In the worker."""
        self.model = Model(sys.argv[1])

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]):
        """FP32 in."""
        return self.model.rows(request)[0]

    def predict(self, rows):
        """LitServe has stacked the rows."""
        return self.model.run(rows)

    def encode_response(self, output) -> Response:
        """FP32 out."""
        return Response(output.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    server = litserve.LitServer(Api(max_batch_size=MAX_ROWS, batch_timeout=0.01), accelerator="cpu", fast_queue=True)
    server.run(port=int(sys.argv[2]), host="127.0.0.1", log_level="warning", generate_client_file=False)
