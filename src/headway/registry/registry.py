"""The registry: bundles by name, version and alias, on SQLite and a folder."""

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import func, select
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session as Database

from headway.bundles.bundle import Bundle
from headway.core.errors import BundleError, BusyError, StorageError, UsageError, storage_errors
from headway.core.files import home, make_folder
from headway.registry.entry import Entry, entry_of, row_of
from headway.registry.store import Store
from headway.registry.tables import BUSY_SECONDS, AliasRow, ModelRow, VersionRow, connect, create

LATEST = "latest"
_REFERENCE = re.compile(
    r"(?P<name>[A-Za-z0-9._-]{1,100})(?::(?P<number>[1-9][0-9]{0,8})|@(?P<alias>[A-Za-z0-9._-]{1,100}))?"
)
_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,99}")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


class Registry:
    """Bundles by name, version and alias. Several processes may use one registry at the same time.

    Args:
        root: its folder; by default `registry` under `HEADWAY_HOME`.
        files: where bundles are kept, as a folder or fsspec URL; by default `bundles` under `root`.
    """

    def __init__(self, root: Path | None = None, *, files: str | None = None) -> None:
        self.root = Path(root) if root is not None else home() / "registry"
        make_folder(self.root, mode=0o700)
        self._store = Store(files or str(self.root / "bundles"))
        self._engine = connect(self.root / "registry.db")
        with self._writing():
            create(self._engine)

    def add(self, bundle: Bundle, *, version: str | None = None, public_key: Path | None = None) -> Entry:
        """Register a copy of `bundle`; the same bundle again gives the entry that is there.

        Args:
            version: to register it under; by default the manifest's.
            public_key: PEM file of the only signer to accept; see `Bundle.verify`.

        Raises:
            TamperedError: the bundle is not what was sealed.
            BundleError: its signer is not trusted, or the version is taken by another bundle.
        """
        name, wanted = bundle.manifest.name, _number(version or bundle.manifest.version)
        with self._writing():
            with self._database() as database:
                known = database.scalar(select(VersionRow).filter_by(name=name, digest=bundle.digest))
                if known is not None and version is not None and known.number != wanted:
                    raise BundleError(f"this bundle is already registered as {name}:{known.number}", where=name)
                if known is None and database.get(VersionRow, (name, wanted)) is not None:
                    free = _next(database, name)
                    raise BundleError(
                        f"version {wanted} of {name!r} is taken by another bundle",
                        where=str(bundle.path),
                        remedy=f"Seal it as version {free}, or: headway registry add {bundle.path} --version {free}",
                    )
                digests = set(database.scalars(select(VersionRow.digest)))
            if known is not None and bundle.digest in self._store:
                bundle.verify(public_key=public_key)
                return self.resolve(f"{name}:{known.number}")

            def check(copy: Path) -> None:
                copied = Bundle.open(copy)
                copied.verify(public_key=public_key)
                if copied.digest != bundle.digest:
                    raise BundleError("the bundle changed while it was being registered", where=str(bundle.path))

            self._store.sweep(digests)
            self._store.put(bundle.path, bundle.digest, check)
            if known is None:
                with self._database() as database:
                    model = database.get(ModelRow, name) or ModelRow(name=name, latest=0)
                    model.latest = max(model.latest, wanted)
                    database.add(model)
                    database.flush()
                    database.add(row_of(bundle, wanted))
        return self.resolve(f"{name}:{known.number if known else wanted}")

    def next_version(self, name: str) -> str:
        """The number that the next version of `name` should take; a removed version's number is not given again."""
        with self._database() as database:
            return str(_next(database, name))

    def list(self) -> tuple[Entry, ...]:
        """Every version of every model, by name, newest version first."""
        with self._database() as database:
            rows = database.scalars(select(VersionRow).order_by(VersionRow.name, VersionRow.number.desc())).all()
            return tuple(entry_of(row) for row in rows)

    def show(self, name: str) -> tuple[Entry, ...]:
        """Every version of one model, newest first. Raises `UsageError` where there is none."""
        with self._database() as database:
            _known(database, name)
            rows = database.scalars(select(VersionRow).filter_by(name=name).order_by(VersionRow.number.desc())).all()
            return tuple(entry_of(row) for row in rows)

    def resolve(self, ref: str) -> Entry:
        """The entry that `name`, `name:3` or `name@alias` means; `name` and `name@latest` are the highest version.

        Raises:
            UsageError: nothing is registered under it; the nearest known name is given.
        """
        match = _REFERENCE.fullmatch(ref)
        if match is None:
            raise UsageError(f"{ref!r} is not of the form name, name:3 or name@alias")
        name, number, alias = match["name"], match["number"], match["alias"]
        with self._database() as database:
            _known(database, name)
            if number is not None:
                wanted = int(number)
            elif alias is None or alias == LATEST:
                wanted = database.scalar(select(func.max(VersionRow.number)).filter_by(name=name)) or 0
            else:
                wanted = _aliased(database, name, alias)
            row = database.get(VersionRow, (name, wanted))
            if row is None:
                have = database.scalars(select(VersionRow.number).filter_by(name=name).order_by(VersionRow.number))
                raise UsageError(f"{name!r} has no version {wanted}; it has {', '.join(map(str, have))}")
            return entry_of(row)

    def open(self, ref: str) -> Bundle:
        """The bundle that `ref` means. It is not verified again: its files are this user's alone."""
        return Bundle.open(self._store.folder(self.resolve(ref).digest))

    def alias(self, name: str, alias: str, version: str) -> Entry:
        """Point `alias` at a version, moving it if it points elsewhere."""
        if alias == LATEST or not _ALIAS.fullmatch(alias):
            raise UsageError(f"{alias!r} cannot be an alias", remedy="Letters, digits, '.', '_', '-'; not 'latest'.")
        entry = self.resolve(f"{name}:{_number(version)}")
        with self._writing(), self._database() as database:
            database.merge(AliasRow(name=name, alias=alias, number=int(entry.version)))
        return self.resolve(f"{name}@{alias}")

    def unalias(self, name: str, alias: str) -> None:
        """Forget an alias."""
        with self._writing(), self._database() as database:
            _known(database, name)
            _aliased(database, name, alias)
            database.delete(database.get_one(AliasRow, (name, alias)))

    def remove(self, ref: str) -> Entry:
        """Forget a version and delete its files.

        Raises:
            UsageError: nothing is registered under `ref`, or an alias points at it.
        """
        with self._writing():
            entry = self.resolve(ref)
            if entry.aliases:
                raise UsageError(
                    f"{entry.name}:{entry.version} is {', '.join(entry.aliases)}",
                    remedy=f"Move the alias first: headway registry alias {entry.name} {entry.aliases[0]} VERSION",
                )
            with self._database() as database:
                database.delete(database.get_one(VersionRow, (entry.name, int(entry.version))))
            with storage_errors():
                self._store.remove(entry.digest)
        return entry

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One process writes at a time; the database's own constraints hold besides."""
        lock = FileLock(self.root / ".lock", timeout=BUSY_SECONDS)
        with storage_errors():
            try:
                lock.acquire()
            except Timeout as error:
                raise BusyError("another process is writing to the registry", where=str(self.root)) from error
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _database(self) -> Iterator[Database]:
        try:
            with Database(self._engine, expire_on_commit=False) as database, database.begin():
                yield database
        except DatabaseError as error:
            raise StorageError(
                f"the registry's database fails: {error.orig}",
                where=str(self.root / "registry.db"),
                remedy="Is the disk full or read-only? If the file is damaged, restore it from a backup.",
            ) from error


def _next(database: Database, name: str) -> int:
    model = database.get(ModelRow, name)
    return model.latest + 1 if model else 1


def _number(version: str) -> int:
    if not _NUMBER.fullmatch(version):
        raise UsageError(f"{version!r} is not a version; versions are whole numbers from 1")
    return int(version)


def _known(database: Database, name: str) -> None:
    names = database.scalars(select(VersionRow.name).distinct().order_by(VersionRow.name)).all()
    if name not in names:
        raise UsageError(f"no model called {name!r} in the registry", remedy=_nearest(name, names))


def _aliased(database: Database, name: str, alias: str) -> int:
    row = database.get(AliasRow, (name, alias))
    if row is None:
        have = database.scalars(select(AliasRow.alias).filter_by(name=name).order_by(AliasRow.alias)).all()
        raise UsageError(f"{name!r} has no alias {alias!r}", remedy=_nearest(alias, [*have, LATEST]))
    return row.number


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]!r}?"
    return (
        f"Known: {', '.join(known[:10])}"
        if known
        else "The registry is empty; add a bundle: headway registry add BUNDLE"
    )
