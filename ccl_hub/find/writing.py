"""What changes a library: the batch job, what goes, whitening, and what follows each change.

All of it happens while the library's lock is held, so that there is one writer at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._util.files import absolute_path
from .._util.folder_lock import no_reader
from ..inputs.names import from_text
from ..inputs.shards import Shard
from ..job.destination import Destination
from ..job.manifest import DONE, FAILED, INCOMPLETE, Manifest
from ..job.run import run_job
from ..job.sinks import SinkMaker
from .engine import LibraryEngine
from .files import READERS, LibraryFiles
from .matching.evidence import Background
from .matching.match import Matcher, calibrate
from .sink import LibrarySink
from .space import Space
from .store import Store

if TYPE_CHECKING:
    from ..backends.engine import Engine
    from ..batch.options import BatchOptions
    from ..job.events import JobSummary, VideoEvent
    from ..job.options import JobInputs, JobOptions

STALE_SHARE = 0.1
"""Of the frames or videos; when more have come or gone, the library is calibrated again."""


class Writer:
    """Changes a library whose lock is held.

    Args:
        files: The files of the library.
    """

    def __init__(self, files: LibraryFiles) -> None:
        self._files = files
        generation = files.facts.generation
        self._store = Store(files.database, generation)
        if generation:
            with no_reader(files.folder, READERS) as alone:
                if alone:
                    Store(files.database, generation - 1).drop()

    def embed(
        self,
        inputs: JobInputs,
        engines: list[Engine],
        options: JobOptions | None,
        batch: BatchOptions | None,
        listen: Callable[[VideoEvent], None],
        tell_total: Callable[[int], None] | None,
    ) -> JobSummary:
        """Run the batch job; whatever ends it, what is done can be found from then on."""
        facts = self._files.facts
        looking: list[Engine] = [
            LibraryEngine(engine, facts.frame_seconds, facts.key_frames_only) for engine in engines
        ]
        clips = LibraryEngine.sampling_of(looking[0].model.preprocessing)
        maker = SinkMaker("library", lambda state: self._sink(state.manifest), one_backend=False)
        try:
            return run_job(
                *(inputs, self._files.folder, looking, clips, options, batch),
                *(listen, tell_total, maker),
            )
        except BaseException:
            self.take_away(lambda id, path: False)
            raise

    def _sink(self, manifest: Manifest) -> LibrarySink:
        return LibrarySink(manifest, self._store, self._files.space())

    def take_away(self, goes: Callable[[str, str], bool]) -> None:
        """Take away the videos of which (id, path) is to go, and move what is in the spool."""
        path = Destination.at(self._files.folder).manifest(Shard())
        if not path.is_file():
            return
        with Manifest(path) as manifest:
            sink = self._sink(manifest)
            for row in list(manifest.rows(DONE, INCOMPLETE, FAILED)):
                if goes(row.id, row.path):
                    with manifest.together():
                        sink.take_away(row.id)
                        manifest.forget(row.id)
            sink.finish()

    def whiten(self) -> None:
        """Learn a space on the library, and write its vectors anew in it, if there are any."""
        facts, store = self._files.facts, self._store
        if not store.frame_count:
            return
        frames, clips = (
            (block.vectors for block in store.blocks(name)) for name in ("frames", "clips")
        )
        space = Space.learnt(frames, clips)
        new = Store(self._files.database, facts.generation + 1)
        new.drop()  # what a killed run has left
        new.create(facts.dim)
        new.fill(store, space)
        self._files.write_space(space, facts.generation + 1)
        self._files.write(replace(facts, generation=facts.generation + 1))
        self._store = new  # readers may still look at the one before, which goes with the next run

    def settle(self, tell_stage: Callable[[str], None]) -> None:
        """Bring the index up to date, and calibrate if the library has changed enough.

        Args:
            tell_stage: Called with the name of each stage that takes a while.
        """
        tell_stage("bringing the index up to date")
        self._store.optimize()
        with no_reader(self._files.folder, READERS) as alone:  # for a moment: readers wait
            if alone:
                self._store.forget_versions()
        self._store.refresh()
        if not self._is_stale():
            return
        tell_stage("asking the library for its own videos, for E-values")
        background = Background.of(self._store)
        matcher = Matcher(self._store, background, self._files.facts.frame_seconds)
        chance = calibrate(matcher, self._store)
        self._files.write_background(background, self._store.fingerprints())
        self._files.write_chance(chance)

    def _is_stale(self) -> bool:
        """Whether too many frames or videos are others than when it was calibrated, if it was."""
        chance = self._files.chance()
        if chance is None:
            return True
        then, now = self._files.calibrated_on(), self._store.fingerprints()
        others = len(np.setxor1d(then, now)) > STALE_SHARE * len(np.union1d(then, now))
        more = abs(self._store.frame_count - chance.rows) > STALE_SHARE * chance.rows
        return others or more


def is_gone(path: str, inputs: JobInputs) -> bool:
    """Whether a video of these inputs is no longer there, while the folder it was found in is."""
    if os.path.lexists(from_text(path)):
        return False
    folders = [Path(absolute_path(name)) for name in inputs.inputs]
    return any(folder.is_dir() and Path(path).is_relative_to(folder) for folder in folders)
