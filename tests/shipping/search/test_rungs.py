"""Who goes to the next rung, and who to the gate."""

from hypothesis import given
from hypothesis import strategies as st

from headway.bundles.manifest import Accuracy
from headway.measure.accuracy import Pairs
from headway.shipping.recipe import Target
from headway.shipping.search.rungs import TOP, Trial, dominates, finalists, missed, ranked, waiting
from headway.shipping.search.space import Candidate
from headway.shipping.search.trial import Figures, Result

TARGET = Target(keep_accuracy=0.98, max_size_mb=5)
ROWS = 1000


def figures(lost: int, speed: float, size: float = 1.0, *, wide: float = 1.05, file: str = "") -> Figures:
    """Of a variant that loses so many of 900 right answers."""
    pairs = Pairs(900 - lost, lost, 0, ROWS)
    accuracy = Accuracy(
        metric="accuracy",
        value=(900 - lost) / ROWS,
        interval=(0, 1),
        kept=(900 - lost) / 900,
        kept_interval=pairs.limits(0.95),
        confidence=0.95,
        rows=ROWS,
        lost=lost,
        gained=0,
    )
    return Figures(
        accuracy=accuracy,
        speedup=(speed / wide, speed, speed * wide),
        p99_ms=1,
        size_mb=size,
        size_ratio=size / 10,
        precision="int8",
        runtime="onnxruntime",
        sha256=file or f"{lost} {speed} {size}",
    )


any_figures = st.builds(figures, st.integers(0, 300), st.floats(0.3, 20), st.floats(0.1, 9))
many = st.lists(any_figures, max_size=25).map(lambda found: dict(enumerate(found, 1)))


@given(many)
def test_ranks(found: dict[int, Figures]) -> None:
    order = ranked(found, TARGET)
    assert sorted(number for _, number in order) == sorted(found)
    fronts = [front for front, _ in order]
    assert fronts == sorted(fronts)
    for front, number in order:
        better = [other for level, other in order if level < front and dominates(found[other], found[number])]
        assert bool(better) == (front > 0), "somebody of an earlier front is better, unless this is the first"
    first = [missed(found[number], TARGET) for front, number in order if front == 0]
    assert first == sorted(first), "within a front, who is nearer to the target comes first"


@given(st.lists(st.tuples(any_figures, st.integers(0, TOP)), max_size=25))
def test_the_best_third_of_a_rung_goes_on(reached: list[tuple[Figures, int]]) -> None:
    trials = [
        Trial(i, Candidate(()), Candidate(()), {rung: Result(figures=found) for rung in range(top + 1)})
        for i, (found, top) in enumerate(reached, 1)
    ]
    going = waiting(trials, TARGET)
    assert all(trial.rung < TOP for trial in going)
    assert [trial.rung for trial in going] == sorted((trial.rung for trial in going), reverse=True)
    for rung in range(TOP):
        here = [trial for trial in trials if trial.rung >= rung]
        assert len([trial for trial in going if trial.rung == rung]) <= len(here) // 3
    assert {t.number for t in waiting(trials[:1], TARGET, closing=True)} == {
        t.number for t in trials[:1] if t.rung < TOP
    }


def test_a_failed_trial_goes_nowhere() -> None:
    trials = [Trial(i, Candidate(()), Candidate(()), {0: Result(failed="no")}) for i in range(1, 7)]
    assert waiting(trials, TARGET) == waiting(trials, TARGET, closing=True) == []


@given(many, st.integers(1, 6))
def test_finalists_are_few_and_different(found: dict[int, Figures], most: int) -> None:
    chosen = finalists(found, TARGET, ROWS, most)
    assert bool(chosen) == bool(found)
    assert len(chosen) == len(set(chosen)) <= most
    assert len({found[number].sha256 for number in chosen}) == len(chosen)


def test_finalists_are_the_safest_of_each_speed_that_can_be_proven_and_a_bolder_one() -> None:
    found = {
        1: figures(0, 2.0),  # the safest of all
        2: figures(2, 6.0),
        3: figures(1, 5.9),  # no slower than 2 as far as one can tell, and safer
        4: figures(3, 4.0),
        5: figures(17, 9.0),  # keeps 98.1%: 1,000 rows would not prove 98
        6: figures(200, 15.0),
        7: figures(3, 4.0, file=figures(3, 4.0).sha256),  # the same file as 4
    }
    assert finalists(found, TARGET, ROWS, 4) == [3, 4, 1, 5]
    assert finalists(found, TARGET, ROWS, 2) == [3, 5]
    assert finalists({5: found[5], 6: found[6]}, TARGET, ROWS, 4) == [5, 6], "with nothing better, what comes near"
