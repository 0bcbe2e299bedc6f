"""What is known of each request while it is under way: who asks, which model answers, and where the time goes.

The edge of a wire makes a record when a request comes and puts it into `CURRENT`, a context variable of the task that
answers it. Whoever has something to add finds it there: so nothing between the edge and the model hands it on, and a
log line that is written meanwhile carries the request's id. It costs about a microsecond a request, so one is made
for each: that it will fail, and then have to be explained, is not known when it comes.
"""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from operator import itemgetter
from random import Random
from time import perf_counter
from typing import TYPE_CHECKING, Any

from headway.observe.traceparent import Traceparent, response

if TYPE_CHECKING:
    from headway.observe.metrics import Outcome

CURRENT: ContextVar["RequestRecord | None"] = ContextVar("headway_request", default=None)

_random = Random()  # noqa: S311  (ids are to differ, not to be secret; seeded from the system)
_NOTHING: Mapping[str, str] = {}


class RequestRecord:
    """One request. What nobody has said yet is the class's own value, so that making one costs little.

    Attributes:
        method: `GET`, `POST` or the name of a gRPC call.
        route: the path as the API describes it, such as `/v2/models/{model}/infer`; empty for gRPC.
        path: as it came, where the API has no such path.
        named: what the path names.
        model: that took the request in, and its `version`; empty while none has.
        outcome: how it ended for the model; None while no model has counted it.
        rows: of its inputs; 0 until they were checked.
        parent: what the caller's `traceparent` says.
        span: OpenTelemetry's, where the request is traced.
        began: when it came, in seconds as `perf_counter` has them.
        entered: when a model took it in; 0 where none has.
        waited: seconds it then waited for a run, which began at `ran` (0 before) and took `ran_for` seconds.
        answered: when the model had its outputs, or had failed.
    """

    method = route = path = model = version = ""
    named = _NOTHING
    outcome: "Outcome | None" = None
    rows = 0
    entered = waited = ran = ran_for = answered = 0.0
    parent: Traceparent | None = None
    span: Any = None
    _id = _span_id = ""
    _more: Sequence[tuple[str, float, float]] = ()

    def __init__(self) -> None:
        self.began = perf_counter()

    @property
    def id(self) -> str:
        """The trace id: the caller's, or else one of our own, 32 hexadecimal digits."""
        if not self._id:
            self._id = self.parent.trace_id if self.parent else f"{_random.getrandbits(128) | 1:032x}"
        return self._id

    def stage(self, name: str, began: float, seconds: float) -> None:
        """It went through a stage that not every request has, such as `preprocess`."""
        self._more = [*self._more, (name, began, seconds)]

    def stages(self, ended: float) -> list[tuple[str, float, float]]:
        """Where the time went until it `ended`: name, start and seconds of each stage, in the order of their start."""
        found = list(self._more)
        if self.entered:
            found.append(("decode", self.began, self.entered - self.began))
        if self.ran:
            found += [("queue", self.ran - self.waited, self.waited), ("infer", self.ran, self.ran_for)]
        if self.outcome == "ok":
            found.append(("encode", self.answered, ended - self.answered))
        return sorted(found, key=itemgetter(1))

    def traced(self, span: Any, trace_id: int, span_id: int) -> None:
        """OpenTelemetry made this span for it."""
        self.span, self._id, self._span_id = span, f"{trace_id:032x}", f"{span_id:016x}"

    def response(self) -> str:
        """The `traceresponse` header."""
        span_id = self._span_id or f"{_random.getrandbits(64) | 1:016x}"
        return response(self.id, span_id, sampled=self.span is not None)


def batch_ran(
    records: Sequence[RequestRecord | None], waited: Sequence[float], *, rows: int, began: float, seconds: float
) -> None:
    """Tell the requests that shared a run of `rows` rows; each had waited for `waited` seconds when it began."""
    spans = []
    for record, wait in zip(records, waited):  # noqa: B905  (of one length, and this is a hot path)
        if record is not None:
            record.waited, record.ran, record.ran_for = wait, began, seconds
            if record.span is not None:
                spans.append(record.span)
    if spans:
        spans[0].shared_run(spans, rows=rows, began=began, seconds=seconds)


def current_id() -> str:
    """The id of the request that is being answered; of no other where there is none."""
    record = CURRENT.get()
    return (record or RequestRecord()).id
