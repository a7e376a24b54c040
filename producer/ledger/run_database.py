"""A run's database: opened as its files allow, written by one producer at a time, facts of the run, queries."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn, Self, TypeVar

from backlog.errors import BacklogError, ServiceUnavailable, StorageFull, UsageError
from backlog.files import named_when_whole
from producer.ledger.schema import ARRIVAL, DEFERRAL, EVICTION, LABELS, MATCHES, SCHEMA, TAKEN, VERSION

#: How long one access waits for a lock of another program's, in seconds; the program then says so and
#: waits on. Nothing can interrupt SQLite while it waits.
LOCK_SECONDS: Final = 5.0

_Row = TypeVar("_Row")

#: What a ledger knows of its run, by name: each value is what `json.dumps` takes.
Facts = dict[str, object]


class LedgerFenced(BacklogError):
    """Another producer has opened this run since; this one must stop without another word."""


class GivenUp(BacklogError):
    """Reading or writing was given up before its end, as its caller asked. What was to be written is as it was."""


#: Steps of SQLite's machine between two looks whether to give up a query: some milliseconds.
_STEPS_A_LOOK: Final = 100_000


class RunDatabase:
    """The database of one run. Every writing transaction checks that no other producer has taken over."""

    def __init__(self, path: Path, *, write: bool) -> None:
        self.path = path
        try:
            self._db = _open(path, "mode=rw" if write else "mode=ro")
            if write:
                _write_ahead(self._db, path)
                self._db.execute("PRAGMA synchronous = FULL")
            try:
                version = self._db.execute("PRAGMA user_version").fetchone()[0]
            except sqlite3.OperationalError:
                # A reader too makes files beside the ledger, where it may: not in an archived run, or in another
                # person's. Without a log of what was written last, which a producer leaves when it is killed, the
                # ledger is whole by itself.
                if write or path.with_name(f"{path.name}-wal").exists():
                    raise
                self._db.close()
                self._db = _open(path, "immutable=1")
                version = self._db.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.Error as error:
            with _translated(path):
                if "locked" in str(error):
                    raise
            raise UsageError(f"{path}: the run's ledger can't be opened ({error})") from error
        if version != VERSION:
            self._db.close()
            raise UsageError(
                f"{path}: written by another version of this program (ledger {version}, not {VERSION})"
            )
        self._db.row_factory = sqlite3.Row
        if write:
            with _translated(path):
                for table in (DEFERRAL, LABELS, MATCHES, EVICTION, ARRIVAL, TAKEN):
                    self._db.execute(table)
        self._epoch: int | None = None

    @classmethod
    def create(cls, path: Path, facts: Mapping[str, object], taken: Iterable[bytes] = ()) -> Self:
        """Make the ledger of a new run.

        Parameters
        ----------
        path
            The ledger's file, in an existing folder.
        facts
            What is fixed for the run: its source, its settings, its start.
        taken
            Digests of a followed folder's files that earlier days have.

        Raises
        ------
        UsageError
            There is one already. It is left alone.
        """
        try:
            with (
                _translated(path),
                named_when_whole(path) as temporary,
                closing(sqlite3.connect(temporary)) as db,
            ):
                db.executescript(SCHEMA)
                db.executemany(
                    "INSERT INTO run VALUES (?, ?)",
                    [(key, json.dumps(value)) for key, value in facts.items()],
                )
                db.executemany("INSERT INTO taken VALUES (?)", ((digest,) for digest in taken))
                db.commit()
                _write_ahead(db, path)
        except FileExistsError as error:
            raise UsageError(f"{path.parent}: holds a run already") from error
        return cls(path, write=True)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    # -- the run -------------------------------------------------------------------------------------------------

    def acquire(self) -> None:
        """Become the run's only producer: every earlier one fails at its next write."""
        with self._transaction():
            epoch = int(self._get("epoch", 0)) + 1
            self._set("epoch", epoch)
        self._epoch = epoch

    def get(self, key: str, default: object = None) -> Any:
        """Return something fixed or known of the run."""
        return self._get(key, default)

    def set(self, key: str, value: object) -> None:
        """Keep something about the run."""
        with self._transaction():
            self._set(key, value)

    def _get(self, key: str, default: object = None) -> Any:
        row = self._execute("SELECT value FROM run WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else default

    def _set(self, key: str, value: object) -> None:
        self._execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (key, json.dumps(value)))

    def _drop(self, key: str) -> None:
        self._execute("DELETE FROM run WHERE key = ?", (key,))

    def select(self, kind: Callable[..., _Row], query: str, *values: object) -> Iterator[_Row]:
        """Stream the rows of a query that only reads, each as a type that takes its columns in their order.

        Parameters
        ----------
        kind
            A NamedTuple; ``int`` or ``str`` where there is one column.
        query
            Names its columns in the order of the type's fields.
        values
            Of the query's question marks.
        """
        with _translated(self.path):
            cursor = self._db.cursor()
            cursor.row_factory = None  # plain tuples
            for row in cursor.execute(query, values):
                yield kind(*row)

    def select_batches(self, query: str, size: int) -> Iterator[list[tuple[Any, ...]]]:
        """Stream the rows of a query that only reads, many at a time and as plain tuples.

        Parameters
        ----------
        query
            What to read.
        size
            Most rows of one batch.
        """
        with _translated(self.path):
            cursor = self._db.cursor()
            cursor.row_factory = None
            cursor.execute(query)
            while rows := cursor.fetchmany(size):
                yield rows

    @contextmanager
    def giving_up(self, give_up: Callable[[], bool]) -> Iterator[None]:
        """End what reads the ledger within, however long it takes, when it is asked to.

        Parameters
        ----------
        give_up
            Asked now and then, also in the middle of a query, whether to.

        Raises
        ------
        GivenUp
            It said so.
        """
        if give_up():
            raise GivenUp("given up")
        self._db.set_progress_handler(give_up, _STEPS_A_LOOK)
        try:
            yield
        finally:
            self._db.set_progress_handler(None, 0)

    def _execute(self, query: str, values: Sequence[object] | Mapping[str, object] = ()) -> sqlite3.Cursor:
        try:  # not `with`: an item takes five of these, and entering and leaving cost as much as a query
            return self._db.execute(query, values)
        except sqlite3.OperationalError as error:
            _raise_translated(self.path, error)

    def _check_epoch(self) -> None:
        if self._epoch is not None and int(self._get("epoch", 0)) != self._epoch:
            raise LedgerFenced(f"{self.path}: another producer has resumed this run; this one stops")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _translated(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._check_epoch()
                yield
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def _open(path: Path, how: str) -> sqlite3.Connection:
    # By URI, whose special characters a folder's name may hold.
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{how}", uri=True, isolation_level=None, timeout=LOCK_SECONDS
    )


def _write_ahead(db: sqlite3.Connection, path: Path) -> None:
    """Let readers look at the ledger while it is written, which needs memory that processes share through its file.

    Raises
    ------
    UsageError
        The file system has none, as most network ones. SQLite would go on with locks that it can't trust there.
    """
    try:
        mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    except sqlite3.OperationalError as error:
        if "locking protocol" not in str(error) and "disk I/O" not in str(error):
            raise
        mode = str(error)
    if mode != "wal":
        raise UsageError(
            f"{path}: this file system can't hold a run's ledger: it lacks the shared memory or the locks of SQLite's"
            f" write-ahead log, as network file systems do ({mode}). Take --out on a local disk"
        )


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        _raise_translated(path, error)


def _raise_translated(path: Path, error: sqlite3.OperationalError) -> NoReturn:
    text = str(error)
    if text == "interrupted":
        raise GivenUp("given up") from error
    if "locked" in text:
        raise ServiceUnavailable(
            f"{path}: another program holds the run's ledger locked; is it a backup, or a database browser?"
        ) from error
    if "full" in text or "disk I/O" in text or "readonly" in text or "unable to open" in text:
        raise StorageFull(f"{path}: the run's ledger can't be written ({text})") from error
    raise error
