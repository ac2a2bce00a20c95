"""An indexing that is killed, or stopped by Ctrl-C, goes on: nothing is lost, nothing is twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from project import ROOT
from scenes import footage

from ccl_hub.errors import OutputError
from ccl_hub.find.sink import LibrarySink
from ccl_hub.find.space import Space
from ccl_hub.find.store import Store
from ccl_hub.job.manifest import Manifest, Row

PROGRAM = """
import sys
from tiny_models import tiny_model
from ccl_hub.batch import BatchOptions, engines_for
from ccl_hub.find import Library, sink

sink.BATCH_ROWS = 8
one = BatchOptions(workers=1, threads=1)
library = Library.create(sys.argv[2], engines_for(tiny_model(), None, "cpu", None, "torch", one))
library.add([sys.argv[1]], batch=one, listen=lambda event: print(event.id, flush=True))
print("end", flush=True)
"""


def started(videos: Path, library: Path) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), *(str(ROOT / "tests" / "support"),), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(videos), str(library)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for number in range(8):
        footage(folder / f"{number}.mp4", number, seconds=2.0)
    return folder


def rows_of(library: Path) -> dict[str, int]:
    return {id: len(vectors) for id, vectors in vectors_of(library).items()}


def vectors_of(library: Path) -> dict[str, np.ndarray]:
    store = Store(library / "lance")
    return {video.id: store.of(video.key).vectors for video in store.videos.values()}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_indexing_goes_on_where_it_ended(how: signal.Signals, many: Path, tmp_path) -> None:
    run = started(many, tmp_path / "library")
    assert run.stdout is not None
    for _ in range(3):
        assert run.stdout.readline().strip().endswith(".mp4")
    os.killpg(run.pid, how)
    run.communicate(timeout=300)
    assert run.returncode != 0
    if how == signal.SIGINT:
        assert len(rows_of(tmp_path / "library")) >= 3  # what is done can be found at once
    again = started(many, tmp_path / "library")
    out, err = again.communicate(timeout=300)
    assert out.endswith("end\n"), err
    rows = vectors_of(tmp_path / "library")
    whole = started(many, tmp_path / "undisturbed")
    whole.communicate(timeout=300)
    assert whole.returncode == 0
    undisturbed = vectors_of(tmp_path / "undisturbed")
    assert rows.keys() == undisturbed.keys() and len(rows) == 8
    assert all(np.array_equal(vectors, undisturbed[id]) for id, vectors in rows.items())


def embeddings(number: int):
    from ccl_hub.embed.embeddings import EmbeddingProvenance, Embeddings

    vectors = np.random.default_rng(number).standard_normal((2, 8, 16)).astype(np.float32)
    spans = np.array([[0.0, 4.0], [4.0, 8.0]])
    seconds = np.arange(16).reshape(2, 8) * 0.5
    facts = {"source": f"/{number}.mp4", "duration_seconds": 8.0}
    names = ("model", "weights_sha256", "config_fingerprint", "dtype", "device", "sampling")
    provenance = EmbeddingProvenance(**dict.fromkeys(names, "x"), ccl_hub="0", torch="0", **facts)
    return Embeddings(vectors.mean(1), spans, vectors, seconds, vectors[0, 0], provenance)


def row(id: str, state: str = "done") -> Row:
    return Row(id, f"/{id}", 1, 1, "", state, "", "", "", 0, "", 8.0, time.time())


@pytest.mark.parametrize("step", ["remove", "frames", "clips", "videos", "spool"])
def test_a_move_that_is_interrupted_anywhere_is_done_again(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "lance")
    store.create(16)

    def stop(*_: object) -> None:
        raise OutputError("stopped here")

    def interrupted(sink: LibrarySink) -> None:
        with monkeypatch.context() as patch:
            if step == "remove":
                patch.setattr(Store, "remove", stop)
            elif step == "spool":
                patch.setattr(Manifest, "remove_from_spool", stop)
            else:
                opened = store._table(step)
                patch.setattr(type(opened), "add", _adding(opened, stop))
            with pytest.raises(OutputError):
                sink.finish()

    for id, number in (("a", 1), ("b", 2), ("a", 3)):  # "a" changes the second time
        with Manifest(tmp_path / "manifest") as manifest:
            sink = LibrarySink(manifest, store, Space())
            sink.keep(row(id), sink.prepare(id, embeddings(number)))
            interrupted(sink)
        with Manifest(tmp_path / "manifest") as manifest:
            LibrarySink(manifest, store, Space()).finish()
            assert manifest.spool() == []
    assert sorted(rows_of(tmp_path).values()) == [16, 16]
    assert {video.path for video in store.videos.values()} == {"/2.mp4", "/3.mp4"}
    with Manifest(tmp_path / "manifest") as manifest:  # now it fails
        sink = LibrarySink(manifest, store, Space())
        assert sink.intact(row("a")) and not sink.intact(row("c"))
        sink.keep(row("a", "failed"), None)
        sink.finish()
    assert set(rows_of(tmp_path)) == {"b"}


def _adding(table, stop):
    """Return an ``add`` that stops for one table and works for the others."""
    name, add = table.name, type(table).add

    def adding(self, *arguments, **named):
        return stop() if self.name == name else add(self, *arguments, **named)

    return adding
