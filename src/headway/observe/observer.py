"""Everything that is seen of one server: each request as it begins and ends, and what the process does meanwhile."""

import asyncio
import logging
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Literal

from headway.observe import accelerators, exposition
from headway.observe.logs import clipped, logger
from headway.observe.metrics import Metrics, Outcome
from headway.observe.process import LoopLag
from headway.observe.requests import CURRENT, RequestRecord
from headway.observe.traceparent import parse

if TYPE_CHECKING:
    from headway.observe.traces import Tracer

LogRequests = Literal["none", "failed", "all"]

_MOST_FAILED_LINES = 100  # a second: whoever floods a server with bad requests must not fill its disk with lines
_MOST_PATH = 200


class Observer:
    """Is told of every request by the edges of the wires. For one event loop.

    Args:
        log_requests: which requests get a line in the log when they end.
        tracer: where requests are traced.

    Attributes:
        log_requests: as above; may be changed at any time.
    """

    def __init__(self, metrics: Metrics, *, log_requests: LogRequests = "none", tracer: "Tracer | None" = None) -> None:
        self.log_requests: LogRequests = log_requests
        self.tracer = tracer
        self._metrics = metrics
        self._lag = LoopLag(metrics.loop_lag.add)
        self._budget = _Budget(_MOST_FAILED_LINES)

    def start(self) -> None:
        """Watch the event loop that is running, and the accelerators."""
        self._metrics.threads.loop_is_here()
        self._metrics.accelerators = accelerators.find()
        self._lag.start()

    async def close(self) -> None:
        """Watch no more; send the traces that were not sent yet."""
        self._lag.stop()
        if (devices := self._metrics.accelerators) is not None:
            self._metrics.accelerators = None
            devices.close()
        if self.tracer is not None:
            await self.tracer.close()

    async def scrape(self, accept: str) -> tuple[str, bytes]:
        """Content type and text of every metric."""
        if (devices := self._metrics.accelerators) is not None:
            await asyncio.to_thread(devices.read)
        kind = exposition.content_type(accept)
        return kind, self._metrics.render(kind)

    def begin(
        self, method: str, traceparent: str | None = None, tracestate: str | None = None, *, traced: bool = False
    ) -> RequestRecord:
        """A request has come; to be followed by `end` in the same task.

        Args:
            method: `GET`, `POST` or the name of a gRPC call.
            traceparent: and `tracestate`: the request's headers.
            traced: whether it is worth a trace; probes and scrapes are not.
        """
        record = RequestRecord()
        record.method = method
        if traceparent is not None:
            record.parent = parse(traceparent)
        if traced and self.tracer is not None:
            self.tracer.begin(record, tracestate)
        self._metrics.in_flight += 1
        CURRENT.set(record)
        return record

    def end(self, record: RequestRecord, status: int | str, outcome: Outcome) -> None:
        """It is answered with this status, or its caller has gone."""
        self._metrics.in_flight -= 1
        if outcome != "ok" and record.outcome is None:
            self._metrics.refused(outcome)
        log = self.log_requests
        if (log == "none" or (log == "failed" and outcome == "ok")) and record.span is None:
            return
        now = perf_counter()
        if record.span is not None:
            record.span.end(record, status, outcome, now)
        if log == "all" or (log == "failed" and outcome != "ok"):
            self._log(record, status, outcome, now)

    def _log(self, record: RequestRecord, status: int | str, outcome: Outcome, now: float) -> None:
        fields: dict[str, object] = {
            "method": record.method,
            "route": record.route or clipped(record.path, _MOST_PATH),
            "model": record.model or clipped(record.named.get("model", ""), _MOST_PATH),
            "version": record.version or clipped(record.named.get("version", ""), _MOST_PATH),
            "outcome": outcome,
            "status": status,
            "rows": record.rows,
        }
        for name, _, seconds in (*record.stages(now), ("whole", 0.0, now - record.began)):
            fields[f"{name}_ms"] = round(seconds * 1000, 3)
        if self.log_requests != "all":
            if not self._budget.take():
                return
            if self._budget.left_out:
                fields["left_out"] = self._budget.left_out
                self._budget.left_out = 0
        logger.log(logging.INFO if outcome == "ok" else logging.WARNING, "request", extra={"fields": fields})


class _Budget:
    """So many a second. `left_out` counts those that got none; whoever tells of them sets it back."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._second = -1
        self._taken = 0
        self.left_out = 0

    def take(self) -> bool:
        """Whether there is one left."""
        if (second := int(monotonic())) != self._second:
            self._second, self._taken = second, 0
        self._taken += 1
        if self._taken > self._most:
            self.left_out += 1
            return False
        return True
