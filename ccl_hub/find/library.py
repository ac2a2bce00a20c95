"""A library of videos on disk, which knows where in them something is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from .._util.files import absolute_path, make_folder
from .._util.folder_lock import FolderInUseError, only_writer, reader
from ..embed.embeddings import Embeddings
from ..errors import InputError, OutputError
from ..job.options import JobInputs, JobOptions
from ..registry import DEFAULT_MODEL, REGISTRY
from . import cycle
from . import overlaps as overlapping
from .answers import hits_of, matcher_of
from .asking import Asked, Question, question_of
from .engine import FRAME_SECONDS, LibraryEngine
from .files import FORMAT, READERS, VERSION, WRITER, Facts, LibraryFiles
from .results import Alike, Doubt, Hit, Overlap, Results
from .store import Store
from .writing import Writer, is_gone

if TYPE_CHECKING:
    from ..backends.engine import Engine
    from ..batch.options import BatchOptions
    from ..embed.stream import Progress
    from ..job.events import JobSummary, VideoEvent

DEFAULT_MAX_E = 0.01


class Library:
    """Videos in a folder of vectors, to be asked where something is.

    One process at a time may add and remove; any number may ask at the same time. Threads that
    share one object take turns; with an object each they ask side by side. Made by
    :meth:`create` or :meth:`open`.

    Example:
        >>> library = Library.create("library", "ccl_lite0")  # doctest: +SKIP
        >>> library.add(["my_videos"])  # doctest: +SKIP
        >>> for hit in library.where("screenshot.png"):  # doctest: +SKIP
        ...     print(hit.video, hit.start, hit.e_value)
    """

    def __init__(self, files: LibraryFiles, engines: list[Engine] | None, device: str) -> None:
        self._files, self._engines, self._device = files, engines, device
        self._store = Store(files.database, files.facts.generation)
        self._turn, self._depth = threading.RLock(), 0
        if engines is not None:
            self._check(engines)

    @classmethod
    def create(
        cls,
        folder: str | Path,
        model: str | Path | list[Engine] = DEFAULT_MODEL,
        *,
        frame_seconds: float = FRAME_SECONDS,
        key_frames_only: bool = False,
        device: str = "auto",
    ) -> Self:
        """Make a library, or open the one that is there if it was made in the same way.

        Args:
            folder: Made if missing; must not hold a library of another model.
            model: Name, folder or Hub id; or engines of one model, as
                :func:`ccl_hub.batch.engines_for` makes them.
            frame_seconds: Time between frames, 0.1 to 10.
            key_frames_only: Take key frames alone: faster to index, coarser in time.
            device: See :func:`ccl_hub.batch.engines_for`.

        Raises:
            InputError: An argument is not allowed, or there is a library of another kind.
            ModelError: The model cannot be loaded.
            OutputError: The folder cannot be written, or lancedb is not installed.
        """
        if not 0.1 <= frame_seconds <= 10:
            raise InputError(f"frame_seconds is {frame_seconds}; allowed: 0.1 to 10 seconds.")
        engines = model if isinstance(model, list) else _engines(str(model), device)
        name = engines[0].model.name if isinstance(model, list) else str(model)
        if name and name not in REGISTRY and Path(name).is_dir():
            name = absolute_path(name)  # the library may be opened from elsewhere
        facts = _facts(engines[0], name, frame_seconds, key_frames_only)
        path = make_folder(Path(absolute_path(folder)))
        if LibraryFiles.are_at(path):
            return cls(LibraryFiles.read(path), engines, device)._as_made(facts)
        files = LibraryFiles(path, facts)
        library = cls(files, engines, device)
        with only_writer(path, WRITER, lambda: None):
            if LibraryFiles.are_at(path):  # made by another process just now
                return cls(LibraryFiles.read(path), engines, device)._as_made(facts)
            library._store.create(facts.dim)
            files.write(facts)
        return library

    @classmethod
    def open(
        cls, folder: str | Path, engines: list[Engine] | None = None, device: str = "auto"
    ) -> Self:
        """Open a library; its model is loaded when it is needed first.

        Args:
            folder: The folder of the library.
            engines: Engines of its model, if they are loaded already.
            device: Where the model is put.

        Raises:
            InputError: There is no library, or a model other than its own was given.
            OutputError: lancedb is not installed.
        """
        return cls(LibraryFiles.read(folder), engines, device)

    @property
    def folder(self) -> Path:
        """Absolute path of the library."""
        return self._files.folder

    @property
    def engines(self) -> list[Engine]:
        """Engines of the library's model, loaded when first asked for."""
        if self._engines is None:
            if not self._files.facts.model:
                raise InputError(
                    f"{self.folder}: made by a model without a name; give its engines to "
                    "Library.open."
                )
            engines = _engines(self._files.facts.model, self._device)
            self._check(engines)
            self._engines = engines
        return self._engines

    def _check(self, engines: list[Engine]) -> None:
        facts = self._files.facts
        name = engines[0].model.name
        self._as_made(_facts(engines[0], name, facts.frame_seconds, facts.key_frames_only))

    def _as_made(self, facts: Facts) -> Self:
        """Return this library, unless it was made otherwise."""
        difference = self._files.facts.difference(facts)
        if difference:
            raise InputError(
                f"{self.folder}: holds a library made otherwise ({difference}); vectors of two "
                "kinds cannot be compared. Give another folder, or the model and settings of "
                f"this one: model {self._files.facts.model!r}."
            )
        return self

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """See the library as it is now, and let no writer drop what is read until it is done.

        What is asked meanwhile, by a function that is told of progress, sees the same.
        """
        with self._turn, reader(self.folder, READERS):
            if not self._depth:
                self._refresh()
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1

    def _refresh(self) -> None:
        """See what writers have done since."""
        if LibraryFiles.are_at(self.folder):
            now = LibraryFiles.read(self.folder)
            if now.facts.generation != self._files.facts.generation:
                self._files = now
                self._store = Store(now.database, now.facts.generation)
        self._store.refresh()

    def __len__(self) -> int:
        """Return the number of videos."""
        return len(self.videos)

    @property
    def videos(self) -> dict[str, str]:
        """The file of each video, by its name."""
        with self._reading():
            return {video.id: video.path for video in self._store.videos.values()}

    @property
    def frame_count(self) -> int:
        """Number of frames; flat ones are left out."""
        with self._reading():
            return self._store.frame_count

    @property
    def is_whitened(self) -> bool:
        """Whether vectors are whitened by what was learnt on the library."""
        with self._reading():
            return self._files.space().is_whitened

    # Writing -----------------------------------------------------------------------------------

    def add(
        self,
        videos: Sequence[str | Path] = (),
        *,
        inputs: JobInputs | None = None,
        options: JobOptions | None = None,
        batch: BatchOptions | None = None,
        listen: Callable[[VideoEvent], None] = lambda event: None,
        tell_total: Callable[[int], None] | None = None,
        forget_gone: bool = True,
        whiten: bool = False,
        tell_stage: Callable[[str], None] = lambda stage: None,
    ) -> JobSummary:
        """Add videos, or do what is missing, changed or gone since they were added.

        This is a batch job (:func:`ccl_hub.job.run_job`): run again after any interruption, it
        goes on where it was.

        Args:
            videos: Files, folders and patterns.
            inputs: Instead: which videos, in full.
            options: How the job is done: retry, checksums, fail fast.
            batch: How the batch is run.
            listen: Called for each video as it is done.
            tell_total: Called with the number of videos once it is known.
            forget_gone: Remove videos of these inputs whose files are no longer there.
            whiten: Whiten the library once all is added, unless it is.
            tell_stage: Called with the name of each stage after the videos that takes a while.

        Returns:
            What was done; videos that failed are in ``failures.csv``.

        Raises:
            InputError: An argument is not allowed, or an input gives no video.
            OutputError: The library cannot be written, or another process writes it.
        """
        if options is not None and (options.overwrite or options.shard.count > 1):
            raise InputError(
                "a library is neither overwritten nor made in shards; leave options.overwrite and "
                "options.shard out, and remove videos with remove()."
            )
        which, engines = inputs or JobInputs(list(videos)), self.engines
        with self._only_writer() as writer:
            summary = writer.embed(which, engines, options, batch, listen, tell_total)
            if forget_gone and not summary.stopped:
                writer.take_away(lambda id, path: is_gone(path, which))
            if whiten and not self.is_whitened:
                tell_stage("whitening the vectors")
                writer.whiten()
            writer.settle(tell_stage)
        return summary

    def remove(self, videos: Iterable[str]) -> int:
        """Remove videos from the library, by name or path; no video file is touched.

        Returns:
            How many were in it.

        Raises:
            InputError: One of them is not in the library.
            OutputError: The library cannot be written, or another process writes it.
        """
        with self._only_writer() as writer:
            ids, there = set[str](), self.videos
            for name in videos:
                path = absolute_path(name)
                found = {id for id, file in there.items() if id == name or file == path}
                if not found:
                    raise InputError(
                        f"{name}: no video of the library {self.folder} is called so."
                    )
                ids |= found
            writer.take_away(lambda id, path: id in ids)
            writer.settle(lambda stage: None)
        return len(ids)

    @contextmanager
    def _only_writer(self) -> Iterator[Writer]:
        """Hold the library for writing.

        Raises:
            OutputError: Another process does.
        """
        try:
            with only_writer(self.folder, WRITER):
                yield Writer(LibraryFiles.read(self.folder))
        except FolderInUseError as error:
            raise OutputError(
                f"{self.folder}: another process is writing this library; wait for it to end."
            ) from error

    # Asking ------------------------------------------------------------------------------------

    def where(
        self,
        asked: Asked,
        *,
        max_e: float = DEFAULT_MAX_E,
        seconds: np.ndarray | None = None,
        mirrored: bool = True,
        progress: Progress | None = None,
    ) -> Results[Hit]:
        """Return where in the library a picture or video is, best first.

        Args:
            asked: A file; an array of one picture (H, W, 3) or of frames (N, H, W, 3), uint8 RGB;
                a PIL image; or :class:`ccl_hub.Embeddings` of the library's model.
            max_e: Largest E-value: hits this good that chance gives for one query.
            seconds: (N,) times of an array of frames; as far apart as the library's if None.
            mirrored: Also look for it mirrored. Embeddings are not.
            progress: Called with (clips done, clips in all).

        Raises:
            InputError: An argument is not allowed.
            MediaError: The file cannot be read.
        """
        _check_e(max_e)
        with self._reading():
            question = self._question(asked, seconds, progress)
            hits = hits_of(self._store, self._files, question, max_e, mirrored)
            hits = [replace(hit, cycle=cycle.opinion(self._store, question, hit)) for hit in hits]
        return Results(Hit, tuple(hits), question.name, question.look.duration_seconds)

    def similar(
        self,
        asked: Asked,
        *,
        most: int = 10,
        seconds: np.ndarray | None = None,
        max_e: float = DEFAULT_MAX_E,
        progress: Progress | None = None,
    ) -> Results[Alike]:
        """Return videos with content like the query's, without its own footage, best first.

        Args:
            asked: See :meth:`where`.
            most: Videos, at most.
            seconds: See :meth:`where`.
            max_e: Videos that :meth:`where` finds with it are left out: they are the same footage.
            progress: Called with (clips done, clips in all).
        """
        _check_e(max_e)
        with self._reading():
            question = self._question(asked, seconds, progress)
            hits = hits_of(self._store, self._files, question, max_e, mirrored=True)
            same = {hit.video for hit in hits}
            found = cycle.alike(self._store, question.clips, same)[:most]
        return Results(Alike, tuple(found), question.name, question.look.duration_seconds)

    def overlaps(
        self,
        *,
        max_e: float = DEFAULT_MAX_E,
        progress: Callable[[int, int], None] | None = None,
    ) -> Results[Overlap]:
        """Return all pairs of stretches of two videos that show the same, in groups.

        Mirrored copies are not found, as the library holds no mirrored frames; ask for a video
        with :meth:`where` to find those of it.

        Args:
            max_e: Largest E-value, for one video asked for.
            progress: Called with (videos done, videos in all).
        """
        _check_e(max_e)
        with self._reading():
            matcher, chance = matcher_of(self._store, self._files)
            step = self._files.facts.frame_seconds
            found = overlapping.overlaps(self._store, matcher, chance, step, max_e, progress)
        return Results(Overlap, tuple(found), str(self.folder))

    def check(self, *, progress: Callable[[int, int], None] | None = None) -> Results[Doubt]:
        """Return the videos whose own clips and frames do not find each other, worst first.

        Args:
            progress: Called with (clips done, clips in all).
        """
        with self._reading():
            found = cycle.doubts(self._store, progress)
        return Results(Doubt, tuple(found), str(self.folder))

    def _question(
        self, asked: Asked, seconds: np.ndarray | None, progress: Progress | None
    ) -> Question:
        """Look at a query."""
        facts = self._files.facts
        engine = None if isinstance(asked, Embeddings) else self.engines[0]
        if isinstance(asked, Embeddings):
            made_by = asked.provenance.weights_sha256
            if asked.frames.shape[2] != facts.dim or made_by != facts.weights_sha256:
                raise InputError(
                    f"the embeddings have {asked.frames.shape[2]} dimensions and are of weights "
                    f"{made_by[:12]!r}, the library {facts.dim} and {facts.weights_sha256[:12]!r};"
                    f" embed with its model, {facts.model!r}."
                )
        space = self._files.space()
        return question_of(asked, engine, space, facts.frame_seconds, seconds, progress)


def _facts(engine: Engine, name: str, frame_seconds: float, key_frames_only: bool) -> Facts:
    """Return what a library of a model is."""
    model = LibraryEngine(engine, frame_seconds, key_frames_only).model
    return Facts(
        format=FORMAT,
        version=VERSION,
        model=name,
        config_fingerprint=model.config.fingerprint(),
        weights_sha256=model.weights_sha256,
        dim=model.config.architecture.feature_dim,
        frame_seconds=frame_seconds,
        key_frames_only=key_frames_only,
    )


def _engines(model: str, device: str) -> list[Engine]:
    from ..batch.options import BatchOptions
    from ..batch.run import engines_for

    # On a CPU a runtime, as ccl-embed does: its numbers are those of torch, to 1e-4.
    return engines_for(model, None, device, None, "auto", BatchOptions())


def _check_e(max_e: float) -> None:
    if not max_e > 0:
        raise InputError(f"max_e is {max_e}; allowed: more than 0.")
