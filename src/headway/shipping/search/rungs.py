"""Who goes on: successive halving over three rungs of effort, by a rule for several objectives.

Asynchronous, as in Li et al., *A System for Massively Parallel Hyperparameter Tuning* (MLSys 2020): whoever is among
the best third of those seen on a rung goes to the next, at any time; so there is something to ship at any time. Better
is whom fewer fronts dominate (Deb et al., NSGA-II, 2002), and within a front who is nearer to the recipe's target.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from headway.shipping import gate
from headway.shipping.recipe import Target
from headway.shipping.search.space import Candidate
from headway.shipping.search.trial import Figures, Result

SHARES = (1 / 9, 1 / 3, 1.0)  # of the effort, by rung
TOP = len(SHARES) - 1
_REDUCTION = 3  # one of so many goes on


@dataclass
class Trial:
    """A candidate on its way.

    Attributes:
        number: from 1, in the order of beginning.
        candidate: with its whole effort.
        built: with the effort of the highest rung.
        results: by rung; what takes no effort that could be reduced is on the last rung at once.
    """

    number: int
    candidate: Candidate
    built: Candidate
    results: dict[int, Result] = field(default_factory=dict)

    @property
    def rung(self) -> int:
        """The highest reached; -1 before any."""
        return max(self.results, default=-1)

    @property
    def figures(self) -> Figures | None:
        """Of the highest rung; None if it failed there."""
        return self.results[self.rung].figures

    @property
    def seconds(self) -> float:
        """Spent on it."""
        return sum(result.seconds for result in self.results.values())


def values(figures: Figures) -> tuple[float, float, float]:
    """What is to be great: the share of the metric that is kept, speed, and smallness."""
    return figures.accuracy.kept, figures.speedup[1], -figures.size_ratio


def excess(figures: Figures, target: Target) -> dict[str, float]:
    """How far each demand is missed, as a share of it; 0 or less where it is met."""
    found = {"accuracy": 1 - figures.accuracy.kept / target.keep_accuracy, "speed": 1 - figures.speedup[1]}
    if target.p99_ms is not None:
        found["p99"] = figures.p99_ms / target.p99_ms - 1
    if target.max_size_mb is not None:
        found["size"] = figures.size_mb / target.max_size_mb - 1
    return found


def missed(figures: Figures, target: Target) -> float:
    """What all demands are missed by; 0 where all are met."""
    return sum(max(0.0, share) for share in excess(figures, target).values())


def dominates(one: Figures, other: Figures) -> bool:
    """As good in everything, and better in something."""
    pairs = list(zip(values(one), values(other), strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def ranked(figures: Mapping[int, Figures], target: Target) -> list[tuple[int, int]]:
    """(front from 0, number), the best first."""
    fronts: dict[int, int] = {}
    left, level = dict(figures), 0
    while left:
        front = [n for n, f in left.items() if not any(dominates(other, f) for other in left.values())]
        fronts |= dict.fromkeys(front, level)
        left = {n: f for n, f in left.items() if n not in fronts}
        level += 1
    order = sorted(figures, key=lambda n: (fronts[n], missed(figures[n], target), -figures[n].speedup[1], n))
    return [(fronts[n], n) for n in order]


def waiting(trials: Sequence[Trial], target: Target, *, closing: bool = False) -> list[Trial]:
    """Who goes to the next rung, the first of these first: those on high rungs, and of these the best.

    Args:
        trials: so far.
        target: what they are ranked by.
        closing: nothing new is begun, so everybody on a rung's front may go on, and not only the best third.
    """
    found = []
    for rung in range(TOP - 1, -1, -1):
        here = {t.number: f for t in trials if (r := t.results.get(rung)) and (f := r.figures)}
        order = ranked(here, target)
        best = [n for front, n in order if front == 0] if closing else [n for _, n in order[: len(order) // _REDUCTION]]
        by_number = {t.number: t for t in trials}
        found += [by_number[n] for n in best if by_number[n].rung == rung]
    return found


def finalists(front: Mapping[int, Figures], target: Target, test_rows: int, most: int) -> list[int]:
    """Numbers of those that go to the gate.

    Of those whose rates, if they hold on test data, would prove enough: the safest of the fastest, the safest of those
    next in speed, and so on. Last a bolder one, the fastest that meets the target at all, or if there is none, the one
    that keeps most of what is left. Few, as they share the confidence.

    Args:
        front: figures by number.
        target: the recipe's.
        test_rows: that they will be judged on.
        most: how many at most.
    """
    once = {figures.sha256: n for n, figures in reversed(list(front.items()))}  # one of those with the same file
    left = {n: front[n] for n in sorted(once.values())}
    met = {n: f for n, f in left.items() if missed(f, target) == 0}
    good = {
        n: f for n, f in met.items() if (gate.rows_needed(f.accuracy, target.keep_accuracy) or inf) <= test_rows
    } or met
    chosen: list[int] = []
    while good and len(chosen) < most - 1:
        fastest = max(good.values(), key=lambda f: f.speedup[1])
        level = [n for n, f in good.items() if f.speedup[2] >= fastest.speedup[0]]
        chosen.append(max(level, key=lambda n: left[n].accuracy.kept_interval[0]))
        good = {n: f for n, f in good.items() if n not in level}
    rest = sorted(left.keys() - chosen, key=lambda n: (missed(left[n], target), -left[n].accuracy.kept_interval[0], n))
    bound = max((left[n].speedup[1] for n in chosen), default=inf)
    bolder = [n for n in rest if n in met and left[n].speedup[1] > bound]
    return [*chosen, *([max(bolder, key=lambda n: left[n].speedup[1])] if bolder else rest[:1])]
