"""What configurations say of themselves: ranges, choices, where to start, and what effort is."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from headway.compress.searchable import Between, OneOf, domains, starts, with_effort
from headway.core import plugins
from headway.core.config import Config


class Example(Config):
    """A step of somebody else's."""

    rounds: Annotated[int, Between(1, 9, effort=True)] = Field(4)
    rate: Annotated[float, Between(0.01, 1, log=True)] = Field(5)
    way: Annotated[Literal["a", "b"], OneOf()] = Field("a")
    inner: Annotated[int | None, OneOf(1, None)] = Field(7)
    fixed: int = 3


def test_what_is_declared_is_found() -> None:
    assert domains(Example) == {
        "rounds": Between(1, 9, effort=True),
        "rate": Between(0.01, 1, log=True),
        "way": OneOf("a", "b"),
        "inner": OneOf(1, None),
    }


def test_a_search_starts_at_the_defaults_where_they_may_be_searched() -> None:
    assert starts(Example) == {"rounds": 4, "rate": pytest.approx(0.1), "way": "a", "inner": 1}


def test_effort_is_shared_and_nothing_else() -> None:
    values = {"rounds": 9, "rate": 0.5, "way": "b", "inner": None}
    assert with_effort(Example, values, 1 / 3) == {**values, "rounds": 3}
    assert with_effort(Example, values, 0.01)["rounds"] == 1
    assert with_effort(Example, values, 1) == values


@pytest.mark.parametrize("name", sorted(plugins.names("headway.steps")))
def test_our_steps_start_at_their_defaults(name: str) -> None:
    config = plugins.load("headway.steps", name).Config
    assert domains(config)
    assert config.model_validate(starts(config)) == config(), "a default lies outside of what may be searched"
