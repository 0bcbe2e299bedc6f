"""Which versions go together: `rules.yaml`, read and applied. Versions and ranges are those of PEP 440."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, Field

from headway.core.config import Config, read_yaml, validate
from headway.doctor.facts import Facts
from headway.doctor.finding import Finding, Severity, ok

RULES = Path(__file__).with_name("rules.yaml")


def _is_range(value: str) -> str:
    try:
        SpecifierSet(value)
    except InvalidSpecifier as error:
        raise ValueError(f"not a range of versions: {value!r}") from error
    return value


Range = Annotated[str, AfterValidator(_is_range)]


class Rule(Config):
    """Where every fact of `when` is there and in its range, every fact of `needs` must be, too."""

    about: str = Field(description="What it is about.")
    area: Literal["gpu", "packages"] = Field(description="Where it is shown.")
    when: dict[str, Range] = Field(min_length=1, description="Facts that make it apply; an empty range is any version.")
    needs: dict[str, Range] = Field({}, description="What they need; with none, what `when` says must not be.")
    missing: Severity = Field(Severity.OK, description="How bad it is if a fact of `needs` is not there at all.")
    severity: Severity = Field(description="How bad it is if it is there in another version.")
    says: str = Field(description="Why.")
    fix: str = Field(description="What to do.")
    source: str = Field(pattern="^https://", description="Who says so.")


class Rules(Config):
    """The whole file."""

    brings: dict[str, tuple[str, ...]] = Field(description="By package, others that bring the same module.")
    rules: tuple[Rule, ...] = Field(description="In the order in which they are shown.")


@cache
def load(path: Path = RULES) -> Rules:
    """Read a file of rules. Raises `ConfigError` with `file:line`."""
    data, source = read_yaml(path)
    return validate(Rules, data, source)


def apply(rules: Rules, facts: Facts) -> Iterator[Finding]:
    """What each rule that applies here finds."""
    for rule in rules.rules:
        if all(_any_within(facts.get(name, ()), range_) for name, range_ in rule.when.items()):
            yield _judge(rule, facts)


def within(version: str, range_: str) -> bool:
    """Whether a version is in a range; one that nobody can read is in none but the empty one."""
    try:
        return not range_ or SpecifierSet(range_).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def _any_within(versions: tuple[str, ...], range_: str) -> bool:
    return any(within(version, range_) for version in versions)


def _judge(rule: Rule, facts: Facts) -> Finding:
    have = _versions(rule.when, facts)
    if not rule.needs:
        return Finding(rule.area, rule.about, rule.severity, f"{have}: {rule.says}", rule.fix, rule.source)
    worst, wanted = Severity.OK, []
    for name, range_ in rule.needs.items():
        if _any_within(facts.get(name, ()), range_):
            continue
        wanted.append(f"{name} {range_}".strip())
        worst = max(worst, rule.severity if name in facts else rule.missing, key=list(Severity).index)
    if worst is Severity.OK:
        return ok(rule.area, rule.about, f"{have}; {_versions(rule.needs, facts)}", rule.source)
    found = f"{have}; {_versions(rule.needs, facts)}, where {' and '.join(wanted)} is needed: {rule.says}"
    return Finding(rule.area, rule.about, worst, found, rule.fix, rule.source)


def _versions(names: Mapping[str, str], facts: Facts) -> str:
    return ", ".join(f"{name} {' and '.join(facts.get(name, ('missing',)))}" for name in names)
