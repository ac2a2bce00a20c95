"""What became of every video of a batch job, kept so that the job can go on after anything.

One SQLite file for each shard, written by one process alone: transactional, and as small in memory
for a million videos as for ten. A video counts as done only if it is in here. For a dataset the
file also holds the rows that are not yet enough for a part, so that no finished video is lost.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from ..errors import OutputError

VERSION = 1
COMMIT_SECONDS = 1.0
DONE, INCOMPLETE, FAILED = "done", "incomplete", "failed"


@dataclass(frozen=True)
class Row:
    """One video; the columns of the table.

    Args:
        id: Its name; see :mod:`ccl_hub.inputs`.
        path: Where it was.
        size_bytes: Size of the file when it was embedded; -1 if there was none.
        mtime_ns: Time of its change, likewise.
        source_sha256: Hash of the file, or "" if it was not asked for.
        state: "done", "incomplete" or "failed".
        code: "" or a reason code; "incomplete" for what is incomplete.
        reason: The same in words.
        output: Output relative to the destination, or the part of a dataset; "" if there is none.
        output_bytes: Its size; 0 for a part, which has its own row.
        output_sha256: Its hash; "" for a part.
        duration_seconds: Length of the video.
        finished: When, in seconds since 1970.
    """

    id: str
    path: str
    size_bytes: int
    mtime_ns: int
    source_sha256: str
    state: str
    code: str
    reason: str
    output: str
    output_bytes: int
    output_sha256: str
    duration_seconds: float
    finished: float


@dataclass(frozen=True)
class Part:
    """One file of a dataset."""

    name: str
    size_bytes: int
    sha256: str


_COLUMNS = ", ".join(field.name for field in fields(Row))
_MARKS = ", ".join("?" for _ in fields(Row))
_values = attrgetter(*(field.name for field in fields(Row)))  # astuple copies deeply, and slowly
_SCHEMA = """
CREATE TABLE IF NOT EXISTS videos (
    id TEXT PRIMARY KEY, path TEXT, size_bytes INTEGER, mtime_ns INTEGER, source_sha256 TEXT,
    state TEXT, code TEXT, reason TEXT, output TEXT, output_bytes INTEGER, output_sha256 TEXT,
    duration_seconds REAL, finished REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS videos_by_output ON videos (output);
CREATE TABLE IF NOT EXISTS parts (
    name TEXT PRIMARY KEY, size_bytes INTEGER, sha256 TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spool (id TEXT PRIMARY KEY, rows INTEGER, data BLOB);
CREATE TABLE IF NOT EXISTS stale (part TEXT, id TEXT, PRIMARY KEY (part, id)) WITHOUT ROWID;
"""


class Manifest:
    """The manifest of one shard; commits at least every second while it is written to.

    Args:
        path: The SQLite file; made if missing.

    Raises:
        OutputError: It is damaged, of a newer version, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._whole = True
        with self._guarded():
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None)
        try:
            self._open()
        except BaseException:
            self._db.close()
            raise
        self._committed = time.monotonic()

    def _open(self) -> None:
        with self._guarded():
            self._db.execute("PRAGMA journal_mode = TRUNCATE")  # no shared memory: network disks
            self._db.execute("PRAGMA synchronous = NORMAL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, VERSION):
                raise OutputError(
                    f"{self._path}: a manifest of version {version}; this version of ccl_hub "
                    f"reads {VERSION}. Upgrade ccl-hub, or choose another destination."
                )
            self._db.executescript(_SCHEMA + f"PRAGMA user_version = {VERSION};")
            self._db.execute(
                "CREATE TEMP TABLE open (id TEXT PRIMARY KEY, path TEXT, state TEXT, code TEXT, "
                "reason TEXT) WITHOUT ROWID"
            )
            self._db.execute("BEGIN IMMEDIATE")

    def _execute(self, query: str, *values: object) -> list[Any]:
        """Run one statement, and return what it selects."""
        with self._guarded():
            return self._db.execute(query, values).fetchall()

    def find(self, id: str) -> Row | None:
        """Return what is known of a video."""
        with self._guarded():
            return _find(self._db, id)

    def record(self, row: Row) -> None:
        """Keep what became of a video, in place of what was known."""
        self._execute(f"INSERT OR REPLACE INTO videos VALUES ({_MARKS})", *_values(row))  # noqa: S608
        self._commit_sometimes()

    def rows(self, *states: str) -> Iterator[Row]:
        """Yield the videos in some states, by id."""
        marks = ", ".join("?" * len(states))
        query = f"SELECT {_COLUMNS} FROM videos WHERE state IN ({marks}) ORDER BY id"  # noqa: S608
        with self._guarded():
            yield from (Row(*values) for values in self._db.execute(query, states))

    def forget(self, id: str) -> None:
        """Know nothing of a video any more."""
        self._execute("DELETE FROM videos WHERE id = ?", id)
        self._commit_sometimes()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let changes count together or not at all, whatever interrupts them."""
        # Interrupted twice it stays False: nothing is committed from then on.
        before = self._whole
        try:
            self._whole = False
            self._execute("SAVEPOINT together")
            yield
            self._execute("RELEASE together")
        except BaseException:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK TO together")
                self._db.execute("RELEASE together")
                self._whole = before
            raise
        self._whole = before
        self._commit_sometimes()

    def note_open(self, id: str, path: str, state: str, code: str, reason: str) -> None:
        """Keep for this run alone that a video is not done; see :meth:`open_videos`."""
        query = "INSERT OR REPLACE INTO temp.open VALUES (?, ?, ?, ?, ?)"
        self._execute(query, id, path, state, code, reason)

    def open_videos(self) -> Iterator[tuple[str, str, str, str, str]]:
        """Yield id, path, state, code and reason of what was noted, by id."""
        with self._guarded():
            yield from self._db.execute("SELECT * FROM temp.open ORDER BY id")

    # The spool and the parts of a dataset --------------------------------------------------------

    def add_to_spool(self, id: str, rows: int, data: bytes | memoryview) -> None:
        """Keep the rows of a video until there are enough for a part."""
        self._execute("INSERT OR REPLACE INTO spool VALUES (?, ?, ?)", id, rows, data)

    def remove_from_spool(self, id: str) -> None:
        """Drop what was spooled of a video."""
        self._execute("DELETE FROM spool WHERE id = ?", id)

    def spooled_rows(self) -> int:
        """Return how many rows wait."""
        return int(self._execute("SELECT COALESCE(SUM(rows), 0) FROM spool")[0][0])

    def spool(self) -> list[tuple[str, bytes]]:
        """Return the videos that wait, by id, and their rows."""
        return self._execute("SELECT id, data FROM spool ORDER BY id")

    def parts(self) -> list[Part]:
        """Return every part."""
        query = "SELECT name, size_bytes, sha256 FROM parts ORDER BY name"
        return [Part(*values) for values in self._execute(query)]

    def mark_stale(self, part: str, id: str) -> None:
        """Note that a part holds rows of a video that no longer count."""
        query = "INSERT OR IGNORE INTO stale SELECT name, ? FROM parts WHERE name = ?"
        self._execute(query, id, part)

    def drop_unknown(self) -> None:
        """Forget videos that are in no part and not in the spool, and what is stale in no part."""
        with self.together():
            parts = "(SELECT name FROM parts)"
            self._execute(f"DELETE FROM stale WHERE part NOT IN {parts}")  # noqa: S608
            self._execute(f"DELETE FROM videos WHERE output != '' AND output NOT IN {parts}")  # noqa: S608
            self._execute(
                "DELETE FROM videos WHERE output = '' AND state IN (?, ?) "
                "AND id NOT IN (SELECT id FROM spool)",
                *(DONE, INCOMPLETE),
            )

    def add_part(self, part: Part) -> None:
        """Let a part count, with every row in it: its name tells its content."""
        self._execute("INSERT OR REPLACE INTO parts VALUES (?, ?, ?)", *astuple(part))
        self._execute("DELETE FROM stale WHERE part = ?", part.name)

    def stale(self) -> dict[str, set[str]]:
        """Return the videos that no longer count in each part."""
        ids: dict[str, set[str]] = {}
        for part, id in self._execute("SELECT part, id FROM stale"):
            ids.setdefault(part, set()).add(id)
        return ids

    def drop_part(self, name: str) -> None:
        """Forget a part and every video in it."""
        with self.together():
            self._execute("DELETE FROM videos WHERE output = ?", name)
            self._execute("DELETE FROM parts WHERE name = ?", name)
            self._execute("DELETE FROM stale WHERE part = ?", name)

    def replace_parts(
        self, new: Part | None, spooled: Sequence[str], rewritten: dict[str, Part | None]
    ) -> None:
        """Let new parts count instead of old ones, all in one transaction.

        Args:
            new: Holds what was spooled, or None if nothing was.
            spooled: The videos in it.
            rewritten: Old part -> the one that replaces it, None if nothing of it is left.
        """
        if not self._whole:
            raise OutputError(f"{self._path}: a change was interrupted; run the command again.")
        move = "UPDATE videos SET output = ? WHERE output = ?"
        with self.together():
            # In two steps: a new part may have the name of another one that goes.
            for old, part in rewritten.items():
                self._execute("DELETE FROM parts WHERE name = ?", old)
                self._execute("DELETE FROM stale WHERE part = ?", old)
                if part is not None:
                    self._execute(move, f"to {part.name}", old)
            for part in filter(None, rewritten.values()):
                self.add_part(part)
                self._execute(move, part.name, f"to {part.name}")
            if new is not None:
                self.add_part(new)
                for id in spooled:
                    self._execute("UPDATE videos SET output = ? WHERE id = ?", new.name, id)
                    self.remove_from_spool(id)
        self.commit()

    def _commit_sometimes(self) -> None:
        if time.monotonic() - self._committed > COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Make everything so far durable, unless changes that belong together are under way."""
        if not self._whole:
            return
        self._execute("COMMIT")
        self._execute("BEGIN IMMEDIATE")
        self._committed = time.monotonic()

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Commit, unless changes that belong together were interrupted, and close."""
        try:
            if self._whole:
                self._execute("COMMIT")
        except OutputError:
            if kind is None:
                raise
        finally:
            self._db.close()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise OutputError(
                f"{self._path}: the manifest cannot be read or written ({error}); check that the "
                "disk is writable and has space, and run again. If it is damaged, remove it: the "
                "videos in it are then embedded again."
            ) from error


def read_row(path: Path, id: str) -> Row | None:
    """Look a video up in the manifest of another shard, which no run has open."""
    try:
        # Writable, for what SQLite has to undo after a run that was killed.
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=60)) as db:
            is_made = db.execute("PRAGMA user_version").fetchone()[0]  # 0 if its run was killed
            return _find(db, id) if is_made else None
    except sqlite3.Error as error:
        raise OutputError(
            f"{path}: the manifest of another shard cannot be read ({error}); run that shard "
            "again, or remove the file if it is damaged."
        ) from error


def _find(db: sqlite3.Connection, id: str) -> Row | None:
    query = f"SELECT {_COLUMNS} FROM videos WHERE id = ?"  # noqa: S608
    values = db.execute(query, (id,)).fetchone()
    return None if values is None else Row(*values)
