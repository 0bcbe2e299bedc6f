"""What to try next, from what was seen: Optuna's tree-structured Parzen estimator.

Several objectives and constraints as in Ozaki et al., *Multiobjective Tree-structured Parzen Estimator* (JAIR 73,
2022), and Watanabe and Hutter, *c-TPE* (IJCAI 2023).

The study is made anew for each question, from the trials as they stand: each counts with the figures of its highest
rung, the answer depends on the seed and the figures alone, and a search that was interrupted goes on as it would have.
"""

import json
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from headway.compress.searchable import Between, Domain, Value
from headway.core import plugins
from headway.shipping.search.space import Candidate, Space

if TYPE_CHECKING:
    import optuna

_STEPS = "steps"
_ASKED, _DRAWN = 20, 200  # suggestions that may be illegal or known before it is left to chance, and then given up


@dataclass(frozen=True)
class Seen:
    """What came of a candidate.

    Attributes:
        values: to be made as great as can be.
        excess: of each demand, by name; above 0 where it is not met.
    """

    candidate: Candidate
    values: tuple[float, ...]
    excess: Mapping[str, float]


def suggestions(space: Space, seen: Sequence[Seen], known: set[str], seed: int, least: float) -> Iterator[Candidate]:
    """Legal candidates that are not known, the likeliest to be good first; ends where there seem to be none.

    Args:
        space: what may be tried.
        seen: what came of candidates so far.
        known: their keys, and those of failed ones; each suggestion's is added.
        seed: of what is left to chance; the count of known candidates is mixed in.
        least: the smallest share of effort, for which a suggestion must be legal too.
    """
    draw = random.Random(f"{seed} {len(known)}")  # noqa: S311  (settings, no secrets)
    study = _study(space, seen, draw.getrandbits(32))
    while True:
        asked = (suggested(space, study.ask()) for _ in range(_ASKED))
        by_chance = (space.drawn(draw) for _ in range(_DRAWN))
        for candidate in chain(asked, by_chance):
            if candidate.key() not in known and space.admits(candidate, least):
                break
        else:
            return
        known.add(candidate.key())
        yield candidate


def suggested(space: Space, trial: "optuna.trial.BaseTrial") -> Candidate:
    """What a trial of Optuna's stands for, legal or not."""
    names = json.loads(str(trial.suggest_categorical(_STEPS, [json.dumps(order) for order in space.sequences])))
    return Candidate(
        tuple(
            (name, {key: _ask(trial, f"{name}.{key}", domain) for key, domain in space.domains(name).items()})
            for name in names
        )
    )


def _ask(trial: "optuna.trial.BaseTrial", name: str, domain: Domain) -> Value:
    if isinstance(domain, Between) and domain.whole:
        return trial.suggest_int(name, int(domain.low), int(domain.high), log=domain.log)
    if isinstance(domain, Between):
        return trial.suggest_float(name, domain.low, domain.high, log=domain.log)
    return json.loads(str(trial.suggest_categorical(name, [json.dumps(value) for value in domain.values])))


def _study(space: Space, seen: Sequence[Seen], seed: int) -> "optuna.Study":
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise plugins.missing("optuna", needed_by="steps: auto") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # Parameters of one step are looked at together, and apart from those of steps that were not taken with it.
        sampler = optuna.samplers.TPESampler(multivariate=True, group=True, seed=seed)
    study = optuna.create_study(sampler=sampler, directions=["maximize"] * 3)
    for one in seen:
        study.add_trial(_told(space, one))
    return study


def _told(space: Space, seen: Seen) -> "optuna.trial.FrozenTrial":
    import optuna

    domains = {
        f"{name}.{key}": (space.domains(name)[key], v) for name, vs in seen.candidate.steps for key, v in vs.items()
    }
    texts = {name: value if isinstance(d, Between) else json.dumps(value) for name, (d, value) in domains.items()}
    recorder = optuna.trial.FixedTrial({_STEPS: json.dumps(seen.candidate.names), **texts})
    suggested(space, recorder)  # asks for the same again, and so notes every distribution
    return optuna.trial.create_trial(
        values=seen.values,
        params=recorder.params,
        distributions=recorder.distributions,
        constraints=dict(seen.excess),
    )
