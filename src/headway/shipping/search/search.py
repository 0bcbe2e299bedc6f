"""`steps: auto`: searches for steps and settings that meet the target, within a budget of time.

What is tried depends on the seed and on what was measured, and what was measured is kept by content. So the same search
again costs nothing, one that was interrupted goes on after the last finished candidate, and one with more minutes goes
on where it ended; seconds that a candidate once took count against the budget again.

Candidates are compared on selection data. A few finalists go down the recipe's ordinary road, where test data is read
for the first time.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import chain, islice

from headway.core import plugins
from headway.core.progress import Bar, Progress
from headway.shipping import gate
from headway.shipping.build import Builder, Identity
from headway.shipping.evaluate import Original
from headway.shipping.plan import Plan, plan
from headway.shipping.recipe import Recipe
from headway.shipping.search.result import SearchResult, Suggestion, in_words
from headway.shipping.search.rungs import SHARES, TOP, Trial, excess, finalists, ranked, values, waiting
from headway.shipping.search.sampler import Seen, suggestions
from headway.shipping.search.space import Candidate, Space
from headway.shipping.search.trial import Bench, Result
from headway.shipping.store import Store
from headway.tasks import Task

_FAILED = (0.0, 0.0, -10.0), {"built": 1.0}  # worse than anything that was measured
_NEXT = 3  # of either kind that are named as worth a try


class Search:
    """One search.

    Args:
        space: what may be tried, of a recipe with `auto`.
        task: its task, checked.
        identity: what results depend on.
        store: where they are kept.
        original: what candidates are compared with.
        progress: told of each candidate.
    """

    def __init__(
        self, space: Space, task: Task, identity: Identity, store: Store, original: Original, progress: Progress
    ) -> None:
        assert space.recipe.auto is not None  # noqa: S101  (the caller chose a search because of it)
        self._space, self._asked, self._target = space, space.recipe.auto, space.recipe.config.target
        self._test_rows, self._progress = len(task.parts.test), progress
        self._first = space.first()
        self._trials: list[Trial] = []
        confidence = gate.shared_confidence(self._target.confidence, self._asked.finalists)
        self._within = _Within()
        self._bench = Bench(Builder(space.recipe, task, identity, store, self._within), original, confidence)

    def run(self) -> SearchResult:
        """Try what there is time for. Interrupted, it keeps every candidate that was finished.

        Raises:
            TaskError: the task's metric fails on the original.
            DataError: the original is never right.
        """
        with self._progress.work("search", self._budget) as bar:
            self._within.bar = bar
            ended = self._spend(bar)
            bar.advance(max(0.0, self._budget - self._seconds))
        found = {trial.number: f for trial in self._trials if (f := trial.figures) is not None}
        front = {n: found[n] for level, n in ranked(found, self._target) if level == 0}
        finals = {
            n: self._plan(self._trials[n - 1])
            for n in finalists(front, self._target, self._test_rows, self._asked.finalists)
        }
        self._progress.say(
            f"search: {len(self._trials)} candidates in {self._seconds:.0f} s, {len(front)} on the front, "
            f"{len(finals)} go to the gate; {ended}"
        )
        return SearchResult(self._asked, tuple(self._trials), frozenset(front), finals, ended, tuple(self._further()))

    def _spend(self, bar: Bar) -> str:
        """Build and measure until there is no time, or nothing left; returns why it ended."""
        while True:
            found = self._next()
            if isinstance(found, str):
                return found
            trial, rung = found
            if trial.rung < 0:
                self._trials.append(trial)
            self._within.title = f"{trial.number} {', '.join(trial.candidate.names)}"
            trial.built = self._space.reduced(trial.candidate, SHARES[rung])
            result = self._bench.result(self._plan(trial))
            trial.results[rung] = result
            bar.advance(result.seconds)
            self._progress.say(self._told(trial, result))

    def _next(self) -> tuple[Trial, int] | str:
        """Which trial goes to which rung; or why none does."""
        going = self._fitting(waiting(self._trials, self._target))
        if going:
            return going[0], going[0].rung + 1
        candidate = self._new()
        if isinstance(candidate, Candidate):
            trial = Trial(len(self._trials) + 1, candidate, candidate)
            rung = 0 if self._space.takes_effort(candidate) else TOP
            if not self._trials or self._expected(candidate, rung) <= self._left:
                return trial, rung
            candidate = f"the {self._asked.minutes:g} minutes are used: what is left is less than a candidate takes"
        going = self._fitting(waiting(self._trials, self._target, closing=True))
        return (going[0], going[0].rung + 1) if going else candidate

    def _new(self) -> Candidate | str:
        if self._asked.trials is not None and len(self._trials) >= self._asked.trials:
            return f"{len(self._trials)} candidates were to be looked at"
        known = self._known()
        fresh = (candidate for candidate in self._first if candidate.key() not in known)
        return next(chain(fresh, self._suggestions()), "everything that may be tried was")

    def _suggestions(self) -> Iterator[Candidate]:
        seen = [
            Seen(t.candidate, values(f), excess(f, self._target)) if (f := t.figures) else Seen(t.candidate, *_FAILED)
            for t in self._trials
        ]
        return suggestions(self._space, seen, self._known(), self._asked.seed, SHARES[0])

    def _known(self) -> set[str]:
        return {trial.candidate.key() for trial in self._trials}

    def _plan(self, trial: Trial) -> Plan:
        return plan(self._space.choices(trial.built), f"-t{trial.number}")

    # -- time ----------------------------------------------------------------------------------------------------------

    @property
    def _budget(self) -> float:
        return 60 * self._asked.minutes

    @property
    def _seconds(self) -> float:
        return sum(trial.seconds for trial in self._trials)

    @property
    def _left(self) -> float:
        return self._budget - self._seconds

    def _fitting(self, trials: Sequence[Trial]) -> list[Trial]:
        """Those whose next rung is expected to end in time: the last one's seconds, times the effort."""
        return [t for t in trials if t.results[t.rung].seconds * SHARES[t.rung + 1] / SHARES[t.rung] <= self._left]

    def _expected(self, candidate: Candidate, rung: int) -> float:
        """Seconds of a new candidate: the longest that its steps took on that rung, or any steps, or any candidate."""
        there = [trial for trial in self._trials if rung in trial.results]
        same = [trial for trial in there if trial.candidate.names == candidate.names]
        if there:
            return max(trial.results[rung].seconds for trial in same or there)
        return max(trial.seconds for trial in self._trials)

    # -- words ---------------------------------------------------------------------------------------------------------

    def _told(self, trial: Trial, result: Result) -> str:
        place = f"search {self._seconds:.0f}/{self._budget:.0f} s: {trial.number}, rung {trial.rung + 1} of {TOP + 1}, "
        if result.figures is None:
            return f"{place}{trial.built}: failed: {result.failed}"
        return f"{place}{trial.built}: {in_words(result.figures)}"

    def _further(self) -> Iterator[Suggestion]:
        for trial in waiting(self._trials, self._target, closing=True)[:_NEXT]:
            assert trial.figures is not None  # noqa: S101  (those that wait have been measured)
            yield Suggestion(
                trial.candidate,
                f"trial {trial.number}, with the next share of its training: {in_words(trial.figures)} with "
                f"{SHARES[trial.rung]:.0%} of it",
            )
        for candidate in islice(self._suggestions(), _NEXT):
            yield Suggestion(candidate, "the sampler's next")


class _Within:
    """Shows candidates' work beside the search's own bar, and keeps to itself what they say."""

    def __init__(self) -> None:
        self.bar: Bar | None = None
        self.title = ""

    @contextmanager
    def work(self, title: str, total: float) -> Iterator[Bar]:
        """A piece of a candidate's work."""
        yield _Note(self, title, total)

    def say(self, text: str) -> None:
        """Nothing: a line for each candidate is enough."""


class _Note:
    def __init__(self, within: _Within, title: str, total: float) -> None:
        self._within, self._title, self._total, self._done = within, title, total, 0.0

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Show how far the piece of work is."""
        self._done += amount
        if self._within.bar is not None:
            share = self._done / self._total if self._total else 1.0
            self._within.bar.advance(0, f"{self._within.title}: {self._title} {share:.0%}")


def open_space(recipe: Recipe) -> Space:
    """What may be tried, and that a search can be made at all; looked at before any work.

    Raises:
        ConfigError: nothing may be tried.
        MissingDependencyError: Optuna is not installed.
    """
    if find_spec("optuna") is None:
        raise plugins.missing("optuna", needed_by="steps: auto")
    return Space(recipe)
