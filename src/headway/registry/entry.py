"""A registered bundle, as callers see it and as the tables keep it."""

from dataclasses import dataclass
from datetime import UTC, datetime

from headway.bundles.bundle import Bundle
from headway.bundles.signing import fingerprint
from headway.registry.tables import VersionRow


@dataclass(frozen=True)
class Entry:
    """A registered bundle.

    Attributes:
        digest: of the bundle: SHA-256 of its manifest.
        chosen: id of the variant that serves.
        accuracy: of the chosen variant on test data; None for a model that was packed as it stands.
        signer: SHA-256 of the signer's public key.
        created: when it was sealed.
        added: when it was registered.
    """

    name: str
    version: str
    aliases: tuple[str, ...]
    digest: str
    chosen: str
    metric: str | None
    accuracy: float | None
    task: str
    data_sha256: str
    source_sha256: str
    git_commit: str
    signer: str
    created: datetime
    added: datetime


def row_of(bundle: Bundle, number: int) -> VersionRow:
    """The row of `bundle` under version `number`."""
    manifest = bundle.manifest
    scorecard = manifest.variant().scorecard
    return VersionRow(
        name=manifest.name,
        number=number,
        digest=bundle.digest,
        chosen=manifest.chosen,
        metric=scorecard.accuracy.metric if scorecard else None,
        accuracy=scorecard.accuracy.value if scorecard else None,
        task=manifest.lineage.task,
        data_sha256=manifest.lineage.data_sha256,
        source_sha256=manifest.lineage.source_sha256,
        git_commit=manifest.lineage.git_commit,
        signer=fingerprint(manifest.signer),
        created=manifest.created.astimezone(UTC),
        added=datetime.now(UTC),
    )


def entry_of(row: VersionRow) -> Entry:
    """What callers see of a row."""
    return Entry(
        name=row.name,
        version=str(row.number),
        aliases=tuple(alias.alias for alias in row.aliases),
        digest=row.digest,
        chosen=row.chosen,
        metric=row.metric,
        accuracy=row.accuracy,
        task=row.task,
        data_sha256=row.data_sha256,
        source_sha256=row.source_sha256,
        git_commit=row.git_commit,
        signer=row.signer,
        # SQLite keeps no time zone; what was written was UTC.
        created=row.created.replace(tzinfo=UTC),
        added=row.added.replace(tzinfo=UTC),
    )
