"""One shard of a cache: a SQLite database in diskcache's format, and its values' files.

diskcache itself would apply the settings that it finds in a database, expand `$NAME` in its path, write at opening and
create what was deleted. Here a database is checked before it is used, and only writing creates one.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from augment.errors import CorruptEntry
from augment.store.disk import BytesDisk

COUNT = 8
DATABASE = "cache.db"

_MIN_FILE_SIZE = 2**15  # smaller values are kept in the database (diskcache's default)
# Of a damaged database even the words of an error may be in no encoding.
_FAULTS = (sqlite3.DatabaseError, UnicodeDecodeError)
_SECONDS = 60.0  # to wait for another writer
_PAGE = 1000  # rows per query of a listing

_SCHEMA = [  # as diskcache 5.6.3 creates it
    "CREATE TABLE Settings ( key TEXT NOT NULL UNIQUE, value)",
    "CREATE TABLE Cache ( rowid INTEGER PRIMARY KEY, key BLOB, raw INTEGER, store_time REAL, expire_time REAL,"
    " access_time REAL, access_count INTEGER DEFAULT 0, tag BLOB, size INTEGER DEFAULT 0, mode INTEGER DEFAULT 0,"
    " filename TEXT, value BLOB)",
    "CREATE UNIQUE INDEX Cache_key_raw ON Cache(key, raw)",
    "CREATE INDEX Cache_expire_time ON Cache (expire_time)",
    *(
        f"CREATE TRIGGER Settings_{setting}_{event.lower()} AFTER {event} ON Cache FOR EACH ROW BEGIN"
        f' UPDATE Settings SET value = value {change} WHERE key = "{setting}"; END'
        for setting, event, change in (
            ("count", "INSERT", "+ 1"),
            ("count", "DELETE", "- 1"),
            ("size", "INSERT", "+ NEW.size"),
            ("size", "UPDATE", "+ NEW.size - OLD.size"),
            ("size", "DELETE", "- OLD.size"),
        )
    ),
]
_MAY_BE_THERE = {"CREATE INDEX Cache_store_time ON Cache (store_time)"}  # in caches of earlier versions
_SETTINGS = {  # what diskcache's own tools would use; this class reads `size` alone
    "statistics": 0,
    "tag_index": 0,
    "eviction_policy": "none",
    "size_limit": 2**62,
    "cull_limit": 0,
    "sqlite_auto_vacuum": 1,
    "sqlite_cache_size": 2**13,
    "sqlite_journal_mode": "wal",
    "sqlite_mmap_size": 2**26,
    "sqlite_synchronous": 1,
    "disk_min_file_size": _MIN_FILE_SIZE,
    "disk_pickle_protocol": 5,
    "count": 0,
    "size": 0,
    "hits": 0,
    "misses": 0,
}


_STATEMENTS = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"
_LISTING = """
    SELECT rowid, CAST(key AS BLOB), store_time, size + COALESCE(LENGTH(value), 0) FROM Cache
    WHERE rowid > ? AND raw = 1 AND TYPEOF(key) = 'text' ORDER BY rowid LIMIT ?
"""


class DamagedShardError(CorruptEntry):
    """A shard that cannot be used. `shard` says which."""

    def __init__(self, shard: Shard, reason: object) -> None:
        super().__init__(str(reason))
        self.shard = shard


class Row(NamedTuple):
    """An entry as a listing shows it: its name, when it was stored (seconds since the epoch), its bytes."""

    name: str
    stored: float
    nbytes: int


class Shard:
    """Values by name. Threads may share it; after a fork it must not be used.

    Every method may raise DamagedShardError, sqlite3.OperationalError and OSError; FileNotFoundError if there is no
    database yet (only `set` creates one).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._disk = BytesDisk(str(folder), _MIN_FILE_SIZE)
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []  # of all threads: a fork must not close any in the child
        self._opened: tuple[int, int] | None = None  # device and inode of the database
        self._pid = os.getpid()

    def get(self, name: str) -> bytes | memoryview | None:
        """A value, or None. Raises CorruptEntry for one that must not be read."""
        try:
            row = (
                self._connection()
                .execute("SELECT mode, filename, value FROM Cache WHERE key = ? AND raw = 1", (name,))
                .fetchone()
            )
        except _FAULTS as error:
            raise self._told(error) from error
        return None if row is None else self._disk.fetch(row[0], row[1], row[2], False)

    def set(self, name: str, value: bytes) -> None:
        """Keep a value in place of an older one. Its file is written inside the transaction: whoever holds one may
        take a file without a row for an orphan."""
        filename = None
        try:
            with self._transaction() as connection:
                size, mode, filename, stored = self._disk.store(value, False, key=name)
                now = time.time()
                found = connection.execute(
                    "SELECT rowid, filename FROM Cache WHERE key = ? AND raw = 1", (name,)
                ).fetchone()
                columns = (now, now, size, mode, filename, stored)
                if found is None:
                    connection.execute(
                        "INSERT INTO Cache(store_time, access_time, size, mode, filename, value, key, raw)"
                        " VALUES (?, ?, ?, ?, ?, ?, ?, 1)",
                        (*columns, name),
                    )
                else:
                    connection.execute(
                        "UPDATE Cache SET store_time = ?, expire_time = NULL, access_time = ?, size = ?, mode = ?,"
                        " filename = ?, value = ? WHERE rowid = ?",
                        (*columns, found[0]),
                    )
        except BaseException:
            self._disk.remove(filename)
            raise
        if found is not None and found[1] != filename:
            self._disk.remove(found[1])

    def delete(self, name: str) -> None:
        """Drop a value, if it is there."""
        with self._transaction() as connection:
            found = connection.execute("SELECT filename FROM Cache WHERE key = ? AND raw = 1", (name,)).fetchone()
            connection.execute("DELETE FROM Cache WHERE key = ? AND raw = 1", (name,))
        if found is not None:
            self._disk.remove(found[0])

    def rows(self) -> Iterator[Row]:
        """Every entry, the oldest row first; a row that no entry of ours can be is left out."""
        last = -(2**63)
        while True:
            try:
                page = self._connection().execute(_LISTING, (last, _PAGE)).fetchall()
            except _FAULTS as error:
                raise self._told(error) from error
            if not page:
                return
            last = page[-1][0]
            for _, name, stored, nbytes in page:
                try:
                    row = Row(name.decode(), float(stored or 0), int(nbytes or 0))
                except (ValueError, TypeError, OverflowError):
                    continue
                yield row

    def nbytes(self) -> int:
        """Bytes on disk: the database, its write-ahead log, and the values' files."""
        total = sum(os.stat(path).st_size for path in self._files()[:2] if os.path.lexists(path))
        try:
            found = self._connection().execute("SELECT value FROM Settings WHERE key = 'size'").fetchone()
        except _FAULTS as error:
            raise self._told(error) from error
        return total + (found[0] if found and isinstance(found[0], int) else 0)

    def checkpoint(self) -> None:
        """Move what the write-ahead log holds to the database, and empty it."""
        self._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def check(self, thorough: bool) -> None:
        """Raise DamagedShardError if a page of the database is not in order; `thorough` checks the indexes too."""
        try:
            found = self._connection().execute(f"PRAGMA {'integrity' if thorough else 'quick'}_check(1)").fetchall()
        except _FAULTS as error:
            raise self._told(error) from error
        if found != [("ok",)]:
            raise DamagedShardError(self, "; ".join(str(row[0]) for row in found))

    def strangers(self, remove: bool) -> int:
        """How many rows are nothing that `set` writes: other keys than text, pickles, names of files elsewhere."""
        stranger = "raw IS NOT 1 OR TYPEOF(key) IS NOT 'text' OR expire_time IS NOT NULL OR mode NOT IN (1, 2)"
        with self._transaction() as connection:
            (count,) = connection.execute(f"SELECT COUNT(*) FROM Cache WHERE {stranger}").fetchone()
            if remove:
                connection.execute(f"DELETE FROM Cache WHERE {stranger}")
        return int(count)

    def orphans(self, remove: bool) -> list[Path]:
        """Files below the folder that no entry has: left by a kill or a full disk, or put there by others."""
        found = []
        with self._transaction() as connection:
            names = {row[0] for row in connection.execute("SELECT filename FROM Cache WHERE filename IS NOT NULL")}
            for parent, folders, files in os.walk(self.folder):
                for name in files + [name for name in folders if os.path.islink(os.path.join(parent, name))]:
                    path = Path(parent, name)
                    if str(path.relative_to(self.folder)) in names or str(path) in self._files():
                        continue
                    found.append(path)
                    if remove:
                        path.unlink()
        return found

    def is_open_elsewhere(self) -> bool:
        """Whether the database at its place is another one than was opened."""
        try:
            return self._opened is not None and _identity(self.folder / DATABASE) != self._opened
        except OSError:
            return True

    def close(self) -> None:
        """Close this thread's connection, and those of other threads once they no longer use them; the next use opens
        new ones. Closing a connection under a thread that uses it would crash the process."""
        own = getattr(self._local, "connection", None)
        self._local, self._connections, self._opened = threading.local(), [], None
        if own is not None:
            own.close()

    def __del__(self) -> None:
        # A sqlite3.Connection refers to itself: without this its files stay open until the garbage collector runs. No
        # thread uses one any more, since it would hold this shard.
        if self._pid == os.getpid():
            for connection in self._connections:
                connection.close()

    def create(self) -> None:
        """Make an empty database, whole or not at all. The caller holds the cache's lock."""
        path = self.folder / DATABASE
        if os.path.lexists(path):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.folder.is_symlink():
            raise OSError(f"{self.folder} is a link: remove it")
        new = self.folder / "new.db"
        for left in self.folder.glob("new.db*"):  # of a process that was killed here
            left.unlink()
        with closing(sqlite3.connect(new, isolation_level=None)) as connection:
            connection.execute("PRAGMA auto_vacuum = 1")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN")
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.executemany("INSERT INTO Settings VALUES (?, ?)", _SETTINGS.items())
            connection.execute("COMMIT")
        new.replace(path)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection()
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
        except _FAULTS as error:
            raise self._told(error) from error

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            self._check_files()
            try:
                connection = self._connect()
            except _FAULTS as error:
                raise self._told(error) from error
            self._local.connection = connection
            self._connections.append(connection)
        return connection

    def _connect(self) -> sqlite3.Connection:
        path = self.folder / DATABASE
        connection = sqlite3.connect(
            f"{path.as_uri()}?mode=rw", uri=True, timeout=_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            found = {" ".join(str(row[0]).split()) for row in connection.execute(_STATEMENTS)}
            if missing := set(_SCHEMA) - found:
                raise DamagedShardError(self, f"it lacks {len(missing)} parts of a cache's database")
            if foreign := found - set(_SCHEMA) - _MAY_BE_THERE:
                raise DamagedShardError(self, f"its database holds what no cache holds: {min(foreign)[:60]!r}")
            if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                raise DamagedShardError(self, "its database has no write-ahead log")
            for name in ("cache_size", "mmap_size", "synchronous"):
                connection.execute(f"PRAGMA {name} = {_SETTINGS['sqlite_' + name]}").fetchall()
        except BaseException:
            connection.close()
            raise
        self._opened = _identity(path)
        return connection

    def _check_files(self) -> None:
        """SQLite follows links and opens pipes, and a planted journal may name any file: nothing of that is opened."""
        if not stat.S_ISDIR(os.lstat(self.folder).st_mode):
            raise DamagedShardError(self, f"{self.folder} is not a folder")
        for path in self._files():
            try:
                regular = stat.S_ISREG(os.lstat(path).st_mode)
            except FileNotFoundError:
                if path.endswith(DATABASE):
                    raise
                continue
            if not regular or path.endswith("-journal"):
                raise DamagedShardError(self, f"{os.path.basename(path)} is not a file of a cache")

    def _files(self) -> list[str]:
        return [f"{self.folder / DATABASE}{suffix}" for suffix in ("", "-wal", "-shm", "-journal")]

    def _told(self, error: Exception) -> Exception:
        """DamagedShardError for a damaged database; the error itself for a full disk, a missing right, a busy one."""
        environment = (sqlite3.OperationalError, sqlite3.ProgrammingError, sqlite3.NotSupportedError)
        decoding = "decode" in str(error)
        return error if isinstance(error, environment) and not decoding else DamagedShardError(self, error)


class Shards:
    """The shards of a cache, and which of them has a name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.all = [Shard(folder / f"{number:03d}") for number in range(COUNT)]

    def of(self, name: str) -> Shard:
        """The shard that has a name, as diskcache's FanoutCache shares names out."""
        return self.all[zlib.adler32(name.encode(errors="surrogatepass")) % COUNT]

    def get(self, name: str) -> bytes | memoryview | None:
        """See `Shard.get`."""
        return self.of(name).get(name)

    def set(self, name: str, value: bytes) -> None:
        """See `Shard.set`."""
        self.of(name).set(name, value)

    def close(self) -> None:
        """Close every shard."""
        for shard in self.all:
            shard.close()


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino
