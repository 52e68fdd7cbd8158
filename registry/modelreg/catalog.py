"""``.registry/catalog.db``: the whole registry as SQL, for questions across many versions.

A projection and nothing else: it is brought up to the logs before each question, and may be deleted at any time.
SQLite in WAL mode; one writer at a time (BEGIN IMMEDIATE), which waits for the one before it.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from modelreg.catalogtables import LAYOUT, channels, metrics, models, tables, tags, versions
from modelreg.errors import NotFoundError, StoreUnavailableError
from modelreg.metrics import canonical, flatten

if TYPE_CHECKING:
    from modelreg.core import Core
    from modelreg.state import ModelState

CATALOG_FILE = "catalog.db"

#: How long a writer waits for another one, in milliseconds.
BUSY_TIMEOUT_MS = 10_000


class Catalog:
    """The catalog of one registry. Thread-safe."""

    def __init__(self, registry: Core) -> None:
        self._registry = registry
        self.path = registry.root / ".registry" / CATALOG_FILE
        self._engine: sa.Engine | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None

    def rebuild(self) -> int:
        """Throw the tables away and make them from the logs; returns how many versions there are.

        Raises:
            StoreUnavailableError: the file can't be written.
        """
        try:
            self.sync()
        except StoreUnavailableError:
            self.close()
            for suffix in ("", "-wal", "-shm"):
                self.path.with_name(CATALOG_FILE + suffix).unlink(missing_ok=True)
        with self.read() as connection, _transaction(connection):
            tables.drop_all(connection)
            tables.create_all(connection)
            for name in self._registry.models():
                self._take(connection, name)
            found = connection.execute(sa.select(sa.func.count()).select_from(versions)).scalar_one()
            return int(found)

    def sync(
        self, name: str | None = None, *, present: Sequence[str] | None = None, thorough: bool = False
    ) -> None:
        """Bring the tables up to the logs: of one model, or of all.

        Args:
            present: all the models that there are, where the caller has looked.
            thorough: look at every record's file, so that damage to an old one shows.

        Raises:
            StoreUnavailableError: the file can't be read or written, or a model can't be read.
        """
        with self.current(name, present=present, thorough=thorough):
            pass

    @contextmanager
    def current(
        self, name: str | None = None, *, present: Sequence[str] | None = None, thorough: bool = False
    ) -> Iterator[sa.Connection]:
        """``sync``, and a connection that only reads what it made.

        Raises:
            StoreUnavailableError: as ``sync`` and ``read``.
        """
        with self.read() as connection:
            self._catch_up(connection, name, present, thorough)
            yield connection

    def broken(self) -> dict[str, str]:
        """Model → what is wrong with its log, as of the last ``sync``; raises StoreUnavailableError."""
        with self.read() as connection:
            found = connection.execute(sa.select(models).where(models.c.broken.is_not(None)))
            return {row.name: row.broken for row in found}

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection that only reads.

        Raises:
            StoreUnavailableError: the file can't be read.
        """
        try:
            with self._open().connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StoreUnavailableError(
                f"{self.path}: {getattr(error, 'orig', None) or error}; the catalog can be deleted, it is made again"
            ) from error

    def _catch_up(
        self, connection: sa.Connection, name: str | None, present: Sequence[str] | None, thorough: bool
    ) -> None:
        asked = sa.select(models.c.name, models.c.seq, models.c.broken, models.c.mark, models.c.marks)
        rows = connection.execute(asked if name is None else asked.where(models.c.name == name))
        known = {row.name: row for row in rows.all()}
        current = {model for model, row in known.items() if self._is_current(row)}
        if name is not None:
            present = [name]
        elif present is None:
            present = self._registry.models(current)
        stale = [model for model in present if model not in current]
        for model in [model for model in present if model in current] if thorough else ():
            if known[model].marks != self._registry.log_marks(model):
                self._registry.forget(model)
                stale.append(model)
        gone = known.keys() - set(present)
        if not stale and not gone:
            return
        with _transaction(connection):
            for model in gone:
                self._forget(connection, model)
            for model in stale:
                self._take(connection, model)

    def _open(self) -> sa.Engine:
        with self._lock:
            if self._engine is None or not self.path.exists():
                # SQLite itself would ask for 0644: then a shared registry's group couldn't write.
                with contextlib.suppress(OSError):
                    self.path.touch()
                self._engine = _engine(self.path)
                with self._engine.connect() as connection:
                    if connection.exec_driver_sql("PRAGMA user_version").scalar() != LAYOUT:
                        # The file remembers this.
                        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                        connection.exec_driver_sql("BEGIN IMMEDIATE")
                        tables.drop_all(connection)
                        tables.create_all(connection)
                        connection.exec_driver_sql(f"PRAGMA user_version={LAYOUT}")
                        connection.exec_driver_sql("COMMIT")
            return self._engine

    def _is_current(self, known: Any) -> bool:
        try:
            return known.broken is None and known.mark == self._registry.log_mark(known.name, known.seq)
        except StoreUnavailableError:
            return False  # whether it is still a model is for the one to say who lists them

    def _take(self, connection: sa.Connection, name: str) -> None:
        """Bring one model up to its log. Facts are sealed, so only new versions' are read."""
        from modelreg.listing import describe

        try:
            marks = self._registry.log_marks(name)
            state = self._registry.state(name)
        except NotFoundError:
            return self._forget(connection, name)  # its log has no valid record
        known = {
            row.version: (row.digest, json.loads(row.row)["metadata"])
            for row in connection.execute(
                sa.select(versions.c.version, versions.c.digest, versions.c.row).where(
                    versions.c.name == name
                )
            )
        }
        self._forget(connection, name)
        sound = True
        for version, found in state.versions.items():
            before = known.get(version)
            facts = before[1] if before is not None and before[0] == found.digest else None
            row = describe(self._registry, state, version, facts)
            self._insert(connection, state, version, row)
            sound = sound and "problem" not in row
        _insert_all(connection, channels, [
            {
                "name": name, "channel": c.channel, "version": c.version, "seq": c.seq, "at": c.at,
                "actor": c.actor, "reason": c.reason,
            }
            for c in state.channels.values()
        ])  # fmt: skip
        told = {"name": name, "seq": state.seq, "head": state.head, "broken": state.broken, "marks": marks}
        # Overtaken meanwhile, or a version's facts couldn't be read: taken again next time.
        mark = (self._registry.log_mark(name, state.seq) if sound else None) or ""
        connection.execute(sa.insert(models).values(**told, mark=mark))
        return None

    def _insert(
        self, connection: sa.Connection, state: ModelState, version: str, row: dict[str, Any]
    ) -> None:
        facts = row["metadata"] or {}
        columns = {
            key: row[key]
            for key in ("name", "version", "ref", "digest", "status", "stage", "lifecycle", "seq", "at")
        }
        columns.update({key: row.get(key) for key in ("actor", "reason", "problem")})
        columns.update(
            {
                key: facts.get(key)
                for key in ("task_type", "model_type", "config_hash", "parent", "size_bytes")
            }
        )
        stored = {key: value for key, value in row.items() if key != "path"}
        connection.execute(sa.insert(versions).values({**columns, "row": json.dumps(stored)}))
        if row["status"] == "deleted":
            facts = {}
        values: dict[str, float] = {}
        for metric, value in flatten(facts.get("metrics") or {}).items():
            values.setdefault(canonical(metric), value)
        key = {"name": state.name, "version": version}
        _insert_all(connection, metrics, [{**key, "metric": m, "value": v} for m, v in values.items()])
        _insert_all(connection, tags, [{**key, "tag": tag} for tag in row["tags"]])

    @staticmethod
    def _forget(connection: sa.Connection, name: str) -> None:
        for table in (versions, metrics, channels, tags, models):
            connection.execute(sa.delete(table).where(table.c.name == name))


@contextmanager
def _transaction(connection: sa.Connection) -> Iterator[None]:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        yield
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        connection.exec_driver_sql("ROLLBACK")
        raise


def _insert_all(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(sa.insert(table), rows)


def _engine(path: Path) -> sa.Engine:
    # No pool: a registry may be forgotten, or forked, without anybody closing it.
    engine = sa.create_engine(f"sqlite:///{path}", isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool)

    @sa.event.listens_for(engine, "connect")
    def settle(connection: Any, _: Any) -> None:
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA synchronous=NORMAL")

    return engine


def query(path: Path, statement: str, *, limit: int | None = None) -> tuple[list[str], list[list[Any]]]:
    """Run one SELECT over the catalog; the file is opened read-only, and nothing can be attached.

    Raises:
        UsageError: the statement is wrong, changes something, or gives no rows.
    """
    import sqlite3

    from modelreg.errors import UsageError

    allowed = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}

    def authorise(action: int, *_: Any) -> int:
        return sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY

    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            connection.set_authorizer(authorise)
            cursor = connection.execute(statement)
            if cursor.description is None:
                raise UsageError("query: the statement gives no rows; only SELECT is allowed")
            rows = cursor.fetchall() if limit is None else cursor.fetchmany(limit)
            return [column[0] for column in cursor.description], [list(row) for row in rows]
        finally:
            connection.close()
    except (sqlite3.Error, sqlite3.Warning) as error:
        more = "; only SELECT is allowed" if "authorized" in str(error) else ""
        raise UsageError(f"query: {error}{more}") from error
