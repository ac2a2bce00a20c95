"""Many videos on a cluster, by Ray Data: paths or URLs in, rows of embeddings out.

    paths, a parquet of paths or a Dataset -> small blocks -> CCLEmbedder actors -> Dataset

    from ccl_hub.ray import embed_paths  # needs pip install 'ccl-hub[ray]'

    rows = embed_paths("s3://bucket/videos.parquet", level="video", gpus_per_actor=0.5)
    rows.write_parquet("s3://bucket/features")

Every video gives rows: a bad one gives one with ``status`` "failed", its ``code`` and no
embedding. Ray starts a process that died again, and gives it the same block of a few videos; a
video that crashed it ``crash_attempts`` times is then passed over, as failed with code "crashed".
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from .errors import InputError, MediaError, MediaNotFoundError, ModelError
from .ray_rows import COLUMNS, Found, as_table, check_columns, join, paths_of, require
from .registry import list_models
from .remote_files import is_url, local_copy, open_filesystem, remove_copies
from .sampling import Sampling

if TYPE_CHECKING:
    from .embed import Embeddings
    from .model import CCLModel
    from .video import MediaLimits

__all__ = ["COLUMNS", "LEVELS", "CCLEmbedder", "embed_paths", "new_attempts"]

Table: TypeAlias = Any  # pyarrow.Table
Dataset: TypeAlias = Any  # ray.data.Dataset; ray, too, is imported where it is used
LEVELS = ("clip", "video")


class _CrashedError(MediaError):
    """The process died each time that it came to this video."""

    code = "crashed"


class CCLEmbedder:
    """An actor of ``Dataset.map_batches``: loads the model once, then embeds batches of paths.

    :func:`embed_paths` sets up the pool of actors; use the class itself for a pipeline of yours.

    Args:
        model: A name of ``ccl_hub.list_models()``, a Hub id, or a folder that every node sees.
        revision: See :meth:`ccl_hub.CCLModel.from_pretrained`.
        device: Likewise; "cuda" for actors with ``num_gpus``.
        dtype: Likewise.
        clips: See :func:`ccl_hub.embed.embed_video`.
        every_seconds: Likewise.
        level: "clip" for a row for each clip, "video" for one for each video.
        batch_size: Clips that go through the model at once; that of ``embed_video`` by default.
        limits: Largest media accepted; ``max_bytes`` also bounds what is copied.
        path_column: Column of the batch with local paths or URLs.
        storage_options: fsspec's, for the URLs: credentials, endpoints.
        retries: How often reading a remote file is tried again; see
            :func:`ccl_hub.remote_files.local_copy`.
        threads: Of torch; None leaves them to Ray, which gives as many as ``num_cpus``.
        attempts: Where crashes are counted, of :func:`new_attempts`. With None a video that always
            crashes its process is tried for ever, for so does Ray Data.
        crash_attempts: Crashes of the process after which a video is passed over.

    Raises:
        InputError: An argument is not allowed.
        ModelError: The model cannot be had.
        ImportError: pyarrow is not installed.

    Example:
        >>> import numpy as np
        >>> embedder = CCLEmbedder("ccl_r18_mini", clips=2)  # doctest: +SKIP
        >>> embedder({"path": np.array(["a.mp4"])}).num_rows  # doctest: +SKIP
        2
    """

    def __init__(
        self,
        model: str | Path = "ccl_r18_mini",
        *,
        revision: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        clips: int | None = None,
        every_seconds: float | None = None,
        level: str = "clip",
        batch_size: int | None = None,
        limits: MediaLimits | None = None,
        path_column: str = "path",
        storage_options: Mapping[str, Any] | None = None,
        retries: int = 3,
        threads: int | None = None,
        attempts: Any = None,
        crash_attempts: int = 2,
    ) -> None:
        require("pyarrow")
        self.sampling = Sampling(clips, every_seconds)
        self.level = _checked_level(level)
        _check_at_least(0, retries=retries)
        self.limits, self.batch_size, self.path_column = limits, batch_size, path_column
        self.retries, self.storage_options = retries, storage_options
        self.attempts, self.crash_attempts = attempts, crash_attempts
        self.actor_id = _actor_id()
        if self.actor_id:  # a restarted actor keeps its id
            remove_copies(self.actor_id)
        crashed = ModelError(
            f"the process died each of the {crash_attempts} times that it loaded {str(model)!r}; "
            "give the actors more memory."
        )
        with self._counted("", crashed):
            self.model = _load(model, revision, device, dtype, threads)

    def __call__(self, batch: Any) -> Table:
        """Embed the videos of one batch.

        Args:
            batch: A dictionary of arrays, or a pyarrow table; a column of paths, and others.

        Returns:
            A table of the columns of the batch and :data:`COLUMNS`, where ``embedding`` is a list
            of fixed size of float32. ``status`` is "ok", "incomplete" (a part could not be read)
            or "failed", with a null embedding; ``clip_index`` is null for whole videos.

        Raises:
            InputError: No column of paths, one that is not text, or a name that is taken.
            ModelError: The model gives NaN or infinity.
        """
        table = as_table(batch)
        paths = paths_of(table, self.path_column)
        same = {
            "model": self.model.name,
            "weights_sha256": self.model.weights_sha256,
            "config_fingerprint": self.model.config.fingerprint(),
            "sampling": str(self.sampling),
        }
        dim = self.model.config.architecture.feature_dim
        return join(table, [self._embed_safely(path) for path in paths], dim, same)

    def _embed_one(self, path: str) -> Embeddings:
        """Embed one local path or URL. To embed in another way, replace this method alone."""
        from .embed import embed_video

        with local_copy(
            path,
            max_bytes=None if self.limits is None else self.limits.max_bytes,
            retries=self.retries,
            options=self.storage_options,
            owner=self.actor_id,
        ) as local:
            result = embed_video(
                self.model,
                local,
                clips=self.sampling.clips,
                every_seconds=self.sampling.every_seconds,
                batch_size=self.batch_size,
                limits=self.limits,
            )
        provenance = dataclasses.replace(result.provenance, source=path)
        return dataclasses.replace(result, provenance=provenance)

    def _embed_safely(self, path: str | None) -> Found:
        """Embed one video, or say why it cannot be embedded."""
        try:
            if not path:
                raise MediaNotFoundError("the row has no path; give each row one.")
            crashed = _CrashedError(
                f"the process died each of the {self.crash_attempts} times that it came to this "
                "video: a fault of the decoder, or too little memory; try it alone."
            )
            with self._counted(path, crashed):
                result = self._embed_one(path)
        except MediaError as error:
            return Found(code=error.code, reason=error.reason)
        provenance = result.provenance
        status = "incomplete" if result.incomplete else "ok"
        found = Found(completeness=provenance.completeness, status=status, reason=provenance.note)
        if self.level == "video":
            whole = (None, 0.0, provenance.duration_seconds)
            return found._replace(vectors=result.video[None], times=[whole])  # (1,D)
        spans = enumerate(result.clip_seconds.tolist())
        return found._replace(vectors=result.clips, times=[(i, *span) for i, span in spans])

    @contextlib.contextmanager
    def _counted(self, path: str, too_often: Exception) -> Iterator[None]:
        """Count, in another process, that ``path`` was begun; forget it if the process lives."""
        if self.attempts is None:
            yield
            return
        ray = require("ray")
        if ray.get(self.attempts.begin.remote(self.actor_id, path)) > self.crash_attempts:
            raise too_often  # and not forgotten: its block may come again for another video
        try:
            yield
        finally:
            self.attempts.end.remote(self.actor_id, path)


class _Attempts:
    """How often each actor began a video and did not come to its end.

    A small actor of its own, which outlives those that crash.
    """

    def __init__(self) -> None:
        self.begun: Counter[tuple[str, str]] = Counter()

    def begin(self, actor_id: str, path: str) -> int:
        """Return how often it was begun without an end, this time included."""
        self.begun[actor_id, path] += 1
        return self.begun[actor_id, path]

    def end(self, actor_id: str, path: str) -> None:
        """Forget it."""
        self.begun.pop((actor_id, path), None)


def new_attempts() -> Any:
    """Start the small actor in which :class:`CCLEmbedder` counts crashes, and return its handle.

    It lives as long as the handle, which a Dataset made with it keeps.
    """
    lasting = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
    return require("ray").remote(**lasting)(_Attempts).remote()


def embed_paths(
    paths: Iterable[str | Path] | str | Path | Dataset,
    model: str | Path = "ccl_r18_mini",
    *,
    clips: int | None = None,
    every_seconds: float | None = None,
    level: str = "clip",
    batch_size: int | None = None,
    revision: str | None = None,
    dtype: str | None = None,
    limits: MediaLimits | None = None,
    path_column: str = "path",
    storage_options: Mapping[str, Any] | None = None,
    cpus_per_actor: float = 1.0,
    gpus_per_actor: float = 0.0,
    concurrency: int | tuple[int, int] | None = None,
    videos_per_task: int = 4,
    retries: int = 3,
    crash_attempts: int = 2,
    actor_options: Mapping[str, Any] | None = None,
    embedder: type[CCLEmbedder] = CCLEmbedder,
) -> Dataset:
    """Embed many videos on a Ray cluster; lazily, as every Dataset.

    Args:
        paths: A list of local paths (which every node must see) or URLs; one path or URL of a
            parquet file, or of a folder of them; or a Dataset. Other columns are kept. Only in a
            list may local paths be relative.
        model: See :class:`CCLEmbedder`, also for what is not described here.
        clips: See :class:`CCLEmbedder`.
        every_seconds: See :class:`CCLEmbedder`.
        level: See :class:`CCLEmbedder`.
        batch_size: See :class:`CCLEmbedder`.
        revision: See :class:`CCLEmbedder`.
        dtype: See :class:`CCLEmbedder`.
        limits: See :class:`CCLEmbedder`.
        path_column: See :class:`CCLEmbedder`.
        storage_options: fsspec's, for the parquet and for the videos.
        cpus_per_actor: CPUs that Ray sets aside for an actor, and threads of torch (at least 1).
        gpus_per_actor: Likewise GPUs; 0.25 lets four actors share one. Above 0 they use CUDA.
        concurrency: The most actors, or the fewest and the most. By default, and between the two,
            Ray starts what fits, leaving CPUs for reading and writing. A fewest that takes every
            CPU of the cluster leaves none for these, and Ray then waits for ever.
        videos_per_task: Videos in a block: what is done again when a process dies.
        retries: See :class:`CCLEmbedder`.
        crash_attempts: See :class:`CCLEmbedder`.
        actor_options: Other options of ``map_batches``: ``accelerator_type``, ``memory``,
            ``runtime_env``.
        embedder: The class of the actors; a subclass may embed in a way of its own.

    Returns:
        A Dataset of the rows that :meth:`CCLEmbedder.__call__` describes, in no certain order.

    Raises:
        InputError: An argument is not allowed, or there is no such parquet.
        ImportError: Ray is not installed.

    Example:
        >>> rows = embed_paths(["a.mp4", "s3://bucket/b.mp4"], clips=4)  # doctest: +SKIP
        >>> rows.write_parquet("features")  # doctest: +SKIP
    """
    require("ray")
    data = require("ray.data")
    # Refused here rather than in an actor:
    Sampling(clips, every_seconds)
    _checked_level(level)
    _check_at_least(1, videos_per_task=videos_per_task, crash_attempts=crash_attempts)
    _check_at_least(0, retries=retries)
    dataset = _dataset(paths, path_column, storage_options)
    fewest, most = concurrency if isinstance(concurrency, tuple) else (1, concurrency)
    # What is tried again when a process dies is a whole block: keep it small.
    return dataset.repartition(target_num_rows_per_block=videos_per_task).map_batches(
        embedder,
        fn_constructor_kwargs={
            "model": _found_anywhere(model),
            "revision": revision,
            "device": "cuda" if gpus_per_actor else "cpu",
            "dtype": dtype,
            "clips": clips,
            "every_seconds": every_seconds,
            "level": level,
            "batch_size": batch_size,
            "limits": limits,
            "path_column": path_column,
            "storage_options": storage_options,
            "retries": retries,
            "threads": max(1, int(cpus_per_actor)),
            "attempts": new_attempts(),
            "crash_attempts": crash_attempts,
        },
        batch_format="pyarrow",
        batch_size=videos_per_task,
        compute=data.ActorPoolStrategy(min_size=fewest, max_size=most),
        num_cpus=cpus_per_actor,
        num_gpus=gpus_per_actor,
        **(actor_options or {}),
    )


def _dataset(paths: Any, path_column: str, storage_options: Mapping[str, Any] | None) -> Any:
    """Read whatever names the videos as a Dataset."""
    data = require("ray.data")
    if isinstance(paths, data.Dataset):
        return paths
    if not isinstance(paths, (str, Path)):
        items = [{path_column: _absolute(path)} for path in paths]
        if not items:
            raise InputError("paths is empty; give at least one path or URL.")
        return data.from_items(items)
    source, filesystem = _absolute(paths), None
    if is_url(source):
        opened, source = open_filesystem(source, storage_options)
        arrow = require("pyarrow.fs")
        filesystem = arrow.PyFileSystem(arrow.FSSpecHandler(opened))
    try:
        dataset = data.read_parquet(source, filesystem=filesystem)
        names = dataset.schema().names
    except (OSError, ValueError) as error:
        raise InputError(
            f"{paths}: cannot be read as parquet ({error}); give a parquet file, a folder of "
            "them, or a list of the paths of videos."
        ) from error
    check_columns(names, path_column)
    return dataset


def _absolute(path: str | Path) -> str:
    """Return a URL as it is, and a local path so that it means the same in every process."""
    text = os.fspath(path)
    return text if is_url(text) else os.path.abspath(text)  # noqa: PTH100 - keeps links


def _found_anywhere(model: str | Path) -> str | Path:
    """Return a name as it is, and a folder so that it means the same in every process."""
    if isinstance(model, str) and (model in list_models() or not Path(model).is_dir()):
        return model
    return Path(model).absolute()


def _load(
    model: str | Path,
    revision: str | None,
    device: str | None,
    dtype: str | None,
    threads: int | None,
) -> CCLModel:
    import torch

    from .model import CCLModel

    if threads is not None:
        torch.set_num_threads(threads)
    return CCLModel.from_pretrained(model, revision=revision, device=device, dtype=dtype)


def _actor_id() -> str:
    """Return the id of the Ray actor that this is, or "" outside of one."""
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        return ""
    return (ray.is_initialized() and ray.get_runtime_context().get_actor_id()) or ""


def _checked_level(level: str) -> str:
    if level not in LEVELS:
        raise InputError(f"level is {level!r}; allowed: {', '.join(LEVELS)}.")
    return level


def _check_at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise InputError(f"{name} is {value}; allowed: a whole number >= {least}.")
