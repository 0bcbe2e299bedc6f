"""FastAPI with ONNX Runtime, written well: bytes in and out, greedy batching, the run in a thread, uvloop, httptools.

No JSON and no pydantic model stand on the request's path, and the event loop is never blocked by a run.
"""

import sys

import uvicorn
from fastapi import FastAPI, Request, Response
from greedy import Greedy, Model

app = FastAPI(openapi_url=None)


@app.post("/predict")
async def predict(request: Request) -> Response:
    """FP32 in, FP32 out."""
    answer = await app.state.greedy.infer(app.state.model.rows(await request.body()))
    return Response(answer.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    app.state.model = Model(sys.argv[1])
    app.state.greedy = Greedy(app.state.model)
    uvicorn.run(app, port=int(sys.argv[2]), loop="uvloop", http="httptools", access_log=False, log_level="warning")
