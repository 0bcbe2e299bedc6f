"""Whether what packages say that they require is installed: Headway's own requirements, and theirs in turn."""

from collections.abc import Iterator

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from headway.doctor.facts import Facts
from headway.doctor.finding import Finding, fail, ok, warn
from headway.doctor.probe import Probe
from headway.doctor.rules import Rules, within

_AREA = "packages"
_SHOWN = ("numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "onnx", "protobuf", "grpcio")
EXTRAS = ("images", "text", "ship", "otel", "gpu")


def check(probe: Probe, rules: Rules, facts: Facts) -> list[Finding]:
    """The base install, what each extra lacks, and versions that other packages do not want."""
    versions = ", ".join(f"{name} {facts[name][0]}" for name in ("python", *_SHOWN) if name in facts)
    found = [ok(_AREA, "versions", versions)]
    if "headway" not in probe.packages:
        words = "Headway is not installed as a package: its requirements and runtimes are unknown"
        return [*found, fail(_AREA, "headway", words, "pip install headway")]
    missing, wrong = unmet(probe, rules)
    if missing or wrong:
        found.append(fail(_AREA, "headway", _said(missing, wrong), "pip install --upgrade headway", "its metadata"))
    else:
        found.append(ok(_AREA, "headway", f"{probe.packages['headway'].version}, with all that it requires"))
    for extra in EXTRAS:
        found += _extra(probe, rules, extra)
    return found + _others(probe, rules)


def unmet(probe: Probe, rules: Rules, extra: str = "") -> tuple[list[str], list[str]]:
    """What `headway[extra]` requires and is not here at all, and what is here in another version.

    Args:
        extra: only what it adds; "" for what the base install requires.
    """
    missing, wrong = [], []
    for asked in required(probe, "headway", extra):
        have = _version(probe, rules, asked.name)
        if have is None:
            missing.append(asked.name)
        elif not within(have, str(asked.specifier)):
            wrong.append(f"{asked.name} {have} is not {asked.specifier}")
    return missing, wrong


def required(probe: Probe, name: str, extra: str = "") -> Iterator[Requirement]:
    """The requirements of an installed package that hold in this environment; see `unmet`."""
    for text in probe.packages[name].requires:
        try:
            asked = Requirement(text)
        except InvalidRequirement:  # old metadata may hold anything
            continue
        mine = asked.marker is None or asked.marker.evaluate({"extra": extra})
        base = asked.marker is None or asked.marker.evaluate({"extra": ""})
        if mine and not (extra and base):
            yield asked


def _extra(probe: Probe, rules: Rules, extra: str) -> list[Finding]:
    missing, wrong = unmet(probe, rules, extra)
    name = f"headway[{extra}]"
    if wrong:
        return [warn(_AREA, name, _said([], wrong), f"pip install --upgrade '{name}'", "Headway's metadata")]
    return [ok(_AREA, name, f"not installed: {', '.join(missing)}" if missing else "installed")]


def _others(probe: Probe, rules: Rules) -> list[Finding]:
    """What the packages that Headway uses require in turn, and theirs."""
    found: list[Finding] = []
    seen: set[str] = set()
    waiting = {canonicalize_name(asked.name) for extra in ("", *EXTRAS) for asked in required(probe, "headway", extra)}
    while waiting := (waiting & set(probe.packages)) - seen:
        name = min(waiting)
        seen.add(name)
        for asked in required(probe, name):
            waiting.add(canonicalize_name(asked.name))
            have, source = _version(probe, rules, asked.name), f"{name}'s metadata"
            if have is None:
                words = f"requires {asked.name}, which is not installed"
                found.append(fail(_AREA, name, words, f"pip install '{asked}'", source))
            elif not within(have, str(asked.specifier)):
                words = f"requires {asked.name} {asked.specifier}, and {have} is installed"
                found.append(warn(_AREA, name, words, f"pip install '{asked}'", source))
    return found


def _version(probe: Probe, rules: Rules, name: str) -> str | None:
    """Of the package, or of another that brings the same module."""
    names = (canonicalize_name(name), *rules.brings.get(canonicalize_name(name), ()))
    return next((probe.packages[known].version for known in names if known in probe.packages), None)


def _said(missing: list[str], wrong: list[str]) -> str:
    return "; ".join([f"not installed: {', '.join(missing)}"] * bool(missing) + wrong)


def installed(probe: Probe, rules: Rules, name: str) -> bool:
    """Whether a package, or one that brings the same module, is installed."""
    return _version(probe, rules, name) is not None
