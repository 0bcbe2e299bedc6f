"""Mistakes in a recipe are reported where they were made."""

import math
from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from headway.core.config import Config, read_yaml, validate
from headway.core.errors import ConfigError


class Inner(Config):
    epochs: int = Field(8, ge=1)
    lr: float = 1e-3


class Outer(Config):
    name: str
    train: Inner = Inner()
    steps: tuple[Inner, ...] = ()


def parse(folder: Path, text: str, *overrides: str) -> Outer:
    path = folder / "recipe.yaml"
    path.write_text(text)
    data, source = read_yaml(path, overrides)
    return validate(Outer, data, source)


def test_values_and_overrides(tmp_path: Path) -> None:
    found = parse(tmp_path, "name: x\ntrain: {lr: 1e-2}\nsteps: [{epochs: 3}]\n", "train.epochs=2", "steps.0.epochs=5")
    assert (found.train.lr, found.train.epochs, found.steps[0].epochs) == (0.01, 2, 5)


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ("name: x\ntrain:\n  epocs: 3\n", "recipe.yaml:3", "train: unknown key 'epocs'; did you mean 'epochs'?"),
        ("name: x\nzzz: 3\n", "recipe.yaml:2", "unknown key 'zzz'; known keys: name, steps, train"),
        ("name: x\ntrain:\n  epochs: many\n", "recipe.yaml:3", "train.epochs: Input should be a valid integer"),
        ("name: x\nsteps:\n  - {epochs: 1}\n  - {epochs: 0}\n", "recipe.yaml:4", "greater than or equal to 1, got 0"),
        ("train: {}\n", "recipe.yaml:1", "name: Field required"),
        ("name: x\nname: y\n", "recipe.yaml:2", "stands twice"),
        ("name: [x\n", "recipe.yaml:2", "not valid YAML"),
        ("- a\n", "recipe.yaml", "must be a mapping"),
        ("1: a\n", "recipe.yaml:1", "must be text"),
        ("name: !!python/object/apply:os.system [ls]\n", "recipe.yaml:1", "plain data"),
        ("name: x\ntrain: {lr: true}\n", "recipe.yaml:2", "train.lr: must be a number, got true"),
        ("name: on\ntrain: {lr: no}\n", "recipe.yaml:2", "got 'no'"),
        ("a: &a [*a]\n", "recipe.yaml", ""),
        ("name: x\ntrain: {lr: .inf}\n", "recipe.yaml:2", "not a finite number"),
        ("name: x\nargs: {a: .nan}\n", "recipe.yaml:2", "not a finite number"),
        ("name: x\nargs: {a: 1e999}\n", "recipe.yaml:2", "not a finite number"),
        ("name: x\nargs: {a: " + "9" * 5001 + "}\n", "recipe.yaml:2", "cannot be read as int"),
        ("name: x\nargs: {a: 0x" + "f" * 5001 + "}\n", "recipe.yaml:2", "more than 64 bits"),
        ("name: x\nargs: !!int x\n", "recipe.yaml:2", "cannot be read as int"),
        ("name: !!timestamp x\n", "recipe.yaml:1", "plain data"),
        ("name: x\nother: a\0b\n", "recipe.yaml:2", "not valid YAML"),
        ("name: " + "[" * 20_000 + "\n", "recipe.yaml:1", "levels"),
        ("a: &a {x: 1}\nb:\n  <<: *a\n", "recipe.yaml:3", "merge keys"),
        ("? [a]\n: b\n", "recipe.yaml:1", "must be text"),
    ],
)
def test_mistakes_name_their_line(tmp_path: Path, text: str, where: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(tmp_path, text)
    assert str(caught.value.where).endswith(where) or where in str(caught.value.where)
    assert says in caught.value.message


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(tmp_path, "train: {epochs: 0}\nsteps: [{lr: no}]\n")
    assert all(word in str(caught.value) for word in ("name", "train.epochs", "steps.0.lr"))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.epocs=3", "did you mean 'epochs'"),
        ("train.epochs", "not of the form"),
        ("name.first=3", "holds a value"),
        ("steps.4.lr=3", "no item '4'"),
        ("train.epochs=.nan", "not a finite number"),
        ("train.epochs=" + "[" * 20_000, "levels"),
        ("steps.²=1", "no item"),
        ("others.0=1", "there is no list 'others'"),
        ("train.epochs=[", "not valid YAML"),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, override: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(tmp_path, "name: x\nsteps: [{epochs: 1}]\n", override)
    assert override in str(caught.value.where)
    assert says in caught.value.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path)
    (tmp_path / "base.yaml").write_text("name: x")
    for path in (tmp_path / "base.yaml" / "x", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_yaml(path)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / "latin.yaml")


def test_multiplying_aliases_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="aliases"):
        read_yaml(path)


def test_only_plain_scalars_become_numbers(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "a: 2020-01-01\nb: 1:30\nc: 1:30.5\nd: no\ne: =\nf: [~, true, 0x10, -1.5, 1e-3, 2E3, 3., .5, 1_000]\n"
    )
    data, _ = read_yaml(path, ["g=2020-01-01"])
    assert data.pop("f") == [None, True, 16, -1.5, 1e-3, 2000.0, 3.0, 0.5, 1000]
    assert data == {"a": "2020-01-01", "b": "1:30", "c": "1:30.5", "d": "no", "e": "=", "g": "2020-01-01"}


def test_numbers_given_from_python_are_finite() -> None:
    with pytest.raises(ValidationError, match="finite"):
        Inner(lr=math.inf)
