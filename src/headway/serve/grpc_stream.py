"""`ModelStreamInfer`: many infer requests over one call, many under way, answered in the order in which they came.

Source: Triton `docs/protocol/` and `protobuf/grpc_service.proto`. A request that fails is answered with an
`error_message`, and the stream goes on. A request is read only when there is room for one more under way, and the room
is free again once its answer was taken off our hands: a client that sends and never reads is soon not read either.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio

from headway.serve.messages import message, parsed

Context = Any  # grpc.aio.ServicerContext, which has no types


class Stream:
    """One call.

    Args:
        context: of the call.
        answer: makes the `ModelInferResponse` to a request's bytes.
        told: the text for an exception that `answer` raised.
        most: requests under way.
    """

    def __init__(
        self,
        context: Context,
        answer: Callable[[Any, Context], Awaitable[Any]],
        told: Callable[[Exception], str],
        most: int,
    ) -> None:
        self._context, self._answer, self._told = context, answer, told
        self._room = asyncio.Semaphore(most)
        self._under_way: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue()
        self._reader: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Answer until the client has sent its last request, or `finish` is called. Cancelled, it drops all work."""
        async with asyncio.TaskGroup() as group:
            self._reader = group.create_task(self._read(group))
            while (task := await self._under_way.get()) is not None:
                await self._context.write(await task)
                self._room.release()

    def finish(self) -> None:
        """Read no more; what was read is answered."""
        if self._reader is not None:
            self._reader.cancel()

    async def _read(self, group: asyncio.TaskGroup) -> None:
        try:
            while True:
                await self._room.acquire()
                content = await self._context.read()
                if content is grpc.aio.EOF:
                    return
                self._under_way.put_nowait(group.create_task(self._one(content)))
        finally:
            self._under_way.put_nowait(None)

    async def _one(self, content: bytes) -> bytes:
        reply = message("inference.ModelStreamInferResponse")()
        request = message("inference.ModelInferRequest")()
        try:
            request = parsed(type(request), content)
            reply.infer_response.CopyFrom(await self._answer(request, self._context))
        except Exception as error:  # noqa: BLE001  (one request fails, and not the stream)
            reply.error_message = self._told(error)
            reply.infer_response.model_name = request.model_name
            reply.infer_response.model_version = request.model_version
            reply.infer_response.id = request.id
        reply.infer_response.parameters["triton_final_response"].bool_param = True  # each request has one answer
        made: bytes = reply.SerializeToString()
        return made
