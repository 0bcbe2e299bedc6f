"""What is tried is what a recipe could ask for: legal orders, settings in range, steps of others included."""

from importlib.metadata import EntryPoint
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headway.compress.searchable import Between
from headway.core import plugins
from headway.core.config import Source
from headway.core.errors import ConfigError
from headway.shipping.recipe import Recipe, check_order
from headway.shipping.search.rungs import SHARES
from headway.shipping.search.sampler import Seen, suggestions
from headway.shipping.search.space import Candidate, Space

TEXT = "name: x\ntask: {use: a:b}\nsteps: auto\n"


def load(folder: Path, text: str = TEXT, *overrides: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return Recipe.load(path, overrides)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Space:
    return Space(load(tmp_path_factory.mktemp("recipe")))


def suggested(space: Space, seed: int, count: int, seen: tuple[Seen, ...] = ()) -> list[Candidate]:
    return list(islice(suggestions(space, seen, {one.candidate.key() for one in seen}, seed, SHARES[0]), count))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), figures=st.lists(st.floats(0, 2), max_size=12), good=st.booleans())
def test_only_what_a_recipe_could_ask_for_is_suggested(
    space: Space, seed: int, figures: list[float], good: bool
) -> None:
    """Whatever was seen: legal in order and settings, at every share of the effort, in range, and each but once."""
    seen = tuple(
        Seen(one, (value, 1 + value, -value), {"accuracy": -1.0 if good else value})
        for one, value in zip(suggested(space, seed + 1, len(figures)), figures, strict=True)
    )
    found = suggested(space, seed, 4, seen)
    assert found == suggested(space, seed, 4, seen), "the seed decides"
    assert len({one.key() for one in (*found, *(s.candidate for s in seen))}) == len(found) + len(seen)
    for candidate in found:
        for name, values in candidate.steps:
            assert values.keys() == space.domains(name).keys()
            assert all(space.domains(name)[key].admits(value) for key, value in values.items())
        for share in SHARES:
            steps = space.choices(space.reduced(candidate, share))
            assert tuple(step.name for step in steps) == candidate.names
            check_order(space.recipe.config, steps, Source("test"))


def test_known_orders(space: Space) -> None:
    assert {("quantize",), ("prune", "quantize"), ("prune", "distill"), ("prune", "qat", "quantize")} <= {
        *space.sequences
    }
    assert not {("qat",), ("quantize", "prune"), ("qat", "prune", "quantize")} & {*space.sequences}
    assert [one.names for one in space.first()][:2] == [("quantize",), ("prune", "quantize")]


def test_a_function_of_the_users_is_not_called_without_being_named(space: Space) -> None:
    assert all(step.uses is None for one in suggested(space, 3, 40) for step in space.choices(one))


def test_of_a_graph_only_graph_steps_are_tried(tmp_path: Path, linear_onnx: Path) -> None:
    space = Space(load(tmp_path, TEXT + f"model: {{onnx: {linear_onnx}}}\n"))
    assert space.sequences == (("quantize",),)
    every = suggested(space, 0, 1000)
    assert len(every) == 2 * 3 * 2 * 2, "all settings, each once, and then an end"


def test_only_what_is_allowed_is_tried(tmp_path: Path) -> None:
    space = Space(load(tmp_path, TEXT, "steps={auto: {allow: [qat, quantize]}}"))
    assert space.sequences == (("quantize",), ("qat", "quantize"))


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ("{auto: {allow: [qat]}}", "nothing can be searched"),
        ("{auto: {allow: [prun]}}", "did you mean 'prune'"),
        ("{auto: {minuts: 3}}", "did you mean 'minutes'"),
        ("{auto: {minutes: 0}}", "greater than 0"),
        ("automatic", "steps"),
    ],
)
def test_mistakes(tmp_path: Path, steps: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Space(load(tmp_path, TEXT, f"steps={steps}"))


STEP = """
from typing import Annotated, ClassVar
from pydantic import Field
from headway.compress.searchable import Between
from headway.core.config import Config

class Settings(Config):
    strength: Annotated[float, Between(2, 3)] = Field(2.5)
    {needed}

class Theirs:
    stage: ClassVar[str] = "graph"
    Config: ClassVar[type[Config]] = Settings
"""


@pytest.mark.parametrize("needed", ["", "folder: str"])
def test_a_step_of_others_takes_part_if_it_needs_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needed: str
) -> None:
    module = f"theirs_{len(needed)}"
    (tmp_path / f"{module}.py").write_text(STEP.format(needed=needed))
    monkeypatch.syspath_prepend(tmp_path)
    ours = plugins.names("headway.steps")
    point = EntryPoint("theirs", f"{module}:Theirs", "headway.steps")
    monkeypatch.setattr(plugins, "names", lambda group: {**ours, "theirs": point})
    space = Space(load(tmp_path))
    assert any("theirs" in order for order in space.sequences) == (not needed)
    if not needed:
        assert space.domains("theirs") == {"strength": Between(2, 3)}
        assert ("prune", "theirs", "quantize") in space.sequences
