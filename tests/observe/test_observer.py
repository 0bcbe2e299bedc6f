"""The observer: what is counted, what is logged, and how much of it."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from headway.observe import observer as module
from headway.observe.metrics import OUTCOMES, Metrics, Outcome
from headway.observe.observer import LogRequests, Observer
from headway.observe.requests import CURRENT, RequestRecord, batch_ran


@pytest.fixture(autouse=True)
def _no_request() -> Iterator[None]:
    token = CURRENT.set(None)
    yield
    CURRENT.reset(token)


def answer(observer: Observer, outcome: Outcome = "ok", *, by_model: bool = True) -> RequestRecord:
    record = observer.begin("POST")
    record.route, record.named = "/v2/models/{model}/infer", {"model": "digits"}
    if by_model:
        record.model, record.version, record.entered, record.rows = "digits", "3", record.began, 5
        batch_ran([record], [0.001], rows=5, began=record.began + 0.001, seconds=0.002)
        record.outcome, record.answered = outcome, record.began + 0.003
    observer.end(record, 200 if outcome == "ok" else 503, outcome)
    return record


def test_requests_under_way_are_counted() -> None:
    metrics = Metrics()
    observer = Observer(metrics)
    first, second = observer.begin("POST"), observer.begin("GET")
    assert metrics.in_flight == 2
    assert b"headway_requests_in_flight 2.0" in metrics.render()
    observer.end(first, 200, "ok")
    observer.end(second, 499, "cancelled")
    assert metrics.in_flight == 0


def test_a_request_is_counted_once_whether_a_model_took_it_or_not() -> None:
    metrics = Metrics()
    observer = Observer(metrics)
    answer(observer, "full")  # the model has counted it
    answer(observer, "not_found", by_model=False)
    answer(observer, "ok", by_model=False)  # a probe
    lines = metrics.render().decode().splitlines()
    refused = [line for line in lines if line.startswith("headway_refused_total")]
    assert refused == ['headway_refused_total{outcome="not_found"} 1.0']


@pytest.mark.parametrize(
    ("setting", "logged"), [("none", []), ("failed", ["full", "failed"]), ("all", ["ok", "full", "failed"])]
)
def test_what_is_logged_is_a_setting(setting: LogRequests, logged: list[str], log: Any) -> None:
    observer = Observer(Metrics(), log_requests=setting)
    outcomes: tuple[Outcome, ...] = ("ok", "full", "failed")
    for outcome in outcomes:
        answer(observer, outcome)
    assert [line["outcome"] for line in log.lines("request")] == logged


def test_a_line_has_everything_that_explains_a_request(log: Any) -> None:
    observer = Observer(Metrics(), log_requests="all")
    record = answer(observer)
    (line,) = log.lines("request")
    assert {name: line[name] for name in ("method", "route", "model", "version", "outcome", "status", "rows")} == {
        "method": "POST", "route": "/v2/models/{model}/infer", "model": "digits", "version": "3", "outcome": "ok",
        "status": 200, "rows": 5,
    }  # fmt: skip
    assert (line["level"], line["request_id"]) == ("info", record.id)
    assert (line["decode_ms"], line["queue_ms"], line["infer_ms"]) == (0.0, 1.0, 2.0)
    assert line["whole_ms"] >= 0
    answer(observer, "not_found", by_model=False)
    refused = log.lines("request")[1]
    assert (refused["level"], refused["model"], refused["version"]) == ("warning", "digits", "")
    assert "infer_ms" not in refused


def test_a_flood_of_failures_is_told_in_few_lines(log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    observer = Observer(Metrics(), log_requests="failed")
    for _ in range(350):
        answer(observer, "wrong")
    assert len(log.lines("request")) == 100
    now += 1
    answer(observer, "wrong")
    answer(observer, "wrong")
    assert [line.get("left_out") for line in log.lines("request")[99:]] == [None, 250, None]


def test_who_asked_for_every_line_gets_every_line(log: Any) -> None:
    observer = Observer(Metrics(), log_requests="all")
    for _ in range(150):
        answer(observer, "wrong")
    assert len(log.lines("request")) == 150


def test_a_caller_chooses_no_long_words(log: Any) -> None:
    observer = Observer(Metrics(), log_requests="failed")
    record = observer.begin("GET", "x" * 10**6)
    record.path, record.named = "/\r\n" * 10**5, {"model": "m" * 10**5, "version": "9" * 10**5}
    observer.end(record, 404, "not_found")
    (line,) = log.lines("request")
    assert len(log.getvalue()) < 2000
    assert line["route"].startswith("/\r\n/\r\n")


def test_the_loop_is_watched_while_it_runs() -> None:
    metrics = Metrics()

    async def watched() -> None:
        observer = Observer(metrics)
        observer.start()
        while not sum(metrics.loop_lag.counts):
            await asyncio.sleep(0.01)
        await observer.close()

    asyncio.run(watched())
    assert b"headway_event_loop_lag_seconds_count" in metrics.render()
    assert b'headway_thread_cpu_seconds_total{role="loop"}' in metrics.render()


def test_accelerators_are_asked_when_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Devices:
        asked = closed = 0

        def read(self) -> None:
            self.asked += 1

        def collect(self) -> list[Any]:
            return []

        def close(self) -> None:
            self.closed += 1

    devices = Devices()
    monkeypatch.setattr(module.accelerators, "find", lambda: devices)

    async def scraped() -> None:
        observer = Observer(Metrics())
        observer.start()
        kind, text = await observer.scrape("application/openmetrics-text")
        assert kind.startswith("application/openmetrics-text")
        assert text.endswith(b"# EOF\n")
        await observer.close()
        await observer.scrape("")

    asyncio.run(scraped())
    assert (devices.asked, devices.closed) == (1, 1)


def test_every_outcome_is_explained() -> None:
    assert all(OUTCOMES.values())
    assert set(Metrics().model("digits", "1").outcomes) == set(OUTCOMES)
