"""What the doctor finds."""

from enum import StrEnum
from typing import NamedTuple


class Severity(StrEnum):
    """`WARN`: it works, but worse than it could, or not everywhere. `FAIL`: something that is needed is missing."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        area: what it belongs to, such as "memory".
        what: it is about.
        found: in words.
        fix: what to do about it; "" where all is well.
        source: who says that it must be otherwise: a URL, or a package's own metadata.
    """

    area: str
    what: str
    severity: Severity
    found: str
    fix: str = ""
    source: str = ""


def ok(area: str, what: str, found: str, source: str = "") -> Finding:
    """All is well."""
    return Finding(area, what, Severity.OK, found, source=source)


def warn(area: str, what: str, found: str, fix: str, source: str = "") -> Finding:
    """It works, but worse than it could."""
    return Finding(area, what, Severity.WARN, found, fix, source)


def fail(area: str, what: str, found: str, fix: str, source: str = "") -> Finding:
    """Something that is needed is missing."""
    return Finding(area, what, Severity.FAIL, found, fix, source)


def verdict(findings: list[Finding]) -> Severity:
    """The worst of them."""
    order = list(Severity)
    return max((finding.severity for finding in findings), key=order.index, default=Severity.OK)


def megabytes(count: float) -> str:
    """Bytes for people, in units of 10^6 or 10^9."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e7 else f"{count / 1e6:.3g} MB"
