"""The registry's tables: models, their versions, and aliases that point at versions; and how they are reached."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import (
    URL,
    DateTime,
    Engine,
    ForeignKey,
    ForeignKeyConstraint,
    UniqueConstraint,
    create_engine,
    event,
)
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.pool import NullPool

from headway.core.errors import StorageError

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

SCHEMA = 1
BUSY_SECONDS = 60.0


class Base(DeclarativeBase):
    """Base of the tables."""


class ModelRow(Base):
    """A name. `latest` is the highest version ever given, so that a removed version's number is not given again."""

    __tablename__ = "models"
    name: Mapped[str] = mapped_column(primary_key=True)
    latest: Mapped[int]


class VersionRow(Base):
    """A bundle under a name and number, with what is asked of lineage most often; the manifest holds the rest."""

    __tablename__ = "versions"
    __table_args__ = (UniqueConstraint("name", "digest"),)
    name: Mapped[str] = mapped_column(ForeignKey("models.name"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str]
    chosen: Mapped[str]
    metric: Mapped[str | None]
    accuracy: Mapped[float | None]
    task: Mapped[str]
    data_sha256: Mapped[str]
    source_sha256: Mapped[str]
    git_commit: Mapped[str]
    signer: Mapped[str]
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    added: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    aliases: Mapped[list["AliasRow"]] = relationship(lazy="selectin", order_by="AliasRow.alias", viewonly=True)


class AliasRow(Base):
    """A second name for one version, which can be moved."""

    __tablename__ = "aliases"
    __table_args__ = (ForeignKeyConstraint(["name", "number"], ["versions.name", "versions.number"]),)
    name: Mapped[str] = mapped_column(primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int]


def connect(path: Path) -> Engine:
    """The database in the SQLite file `path`."""
    # A connection an operation, closed at its end: nothing is left open, and a fork shares nothing.
    url = URL.create("sqlite", database=str(path))
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def _prepare(connection: "DBAPIConnection", record: "ConnectionPoolEntry") -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    return engine


def create(engine: Engine) -> None:
    """Make the tables at first use; refuse those of a newer Headway."""
    try:
        with engine.begin() as connection:
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if version == SCHEMA:
                return
            if version > SCHEMA:
                raise StorageError(
                    f"the registry was made by a newer Headway (schema {version}; this one reads {SCHEMA})",
                    where=str(engine.url.database),
                    remedy="Install a newer Headway: pip install --upgrade headway",
                )
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            Base.metadata.create_all(connection)
            connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA}")
    except DatabaseError as error:
        raise StorageError(f"cannot be used: {error.orig}", where=str(engine.url.database)) from error
