"""Many videos on a cluster, by Ray Data: paths or URLs in, rows of embeddings out.

    paths, a parquet of paths or a Dataset -> blocks -> CCLEmbedder actors -> Dataset

    from ccl_hub.ray import embed_paths  # needs pip install 'ccl-hub[ray]'

    rows = embed_paths("s3://bucket/videos.parquet", level="video", gpus_per_actor=0.5)
    rows.write_parquet("s3://bucket/features")

Every video gives rows: a bad one gives one with ``status`` "failed", its ``code`` and no
embedding. An actor decodes in processes of its own, so that a video that crashes or hangs the
decoder costs its rows alone. If an actor itself dies, for lack of memory or with its machine,
Ray starts it again and gives it the same block of videos.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from .._util.checks import whole_number
from .._util.files import absolute_path
from ..embed.embeddings import FACTS
from ..errors import InputError, MediaError
from ..registry import DEFAULT_MODEL, list_models
from ..sampling import Sampling
from .remote_files import LocalCopies, is_url, open_filesystem, remove_copies
from .rows import Table, VideoRows, as_table, check_columns, import_package, join, paths_of

if TYPE_CHECKING:
    from ..batch.options import BatchItem, BatchOptions
    from ..hub_options import HubOptions

Dataset: TypeAlias = Any  # ray.data.Dataset; ray, too, is imported where it is used
LEVELS = ("clip", "video")
VIDEOS_PER_WORKER = 16
"""Videos of a block for each decoding process. Each block starts new processes, and with so
many that costs a few hundredths of the time even where nothing but decoding takes any."""


class CCLEmbedder:
    """An actor of ``Dataset.map_batches``: loads the model once, then embeds batches of paths.

    :func:`embed_paths` sets up the pool of actors; use the class itself in your own pipeline.

    Args:
        model: A name of ``ccl_hub.list_models()``, a Hub id, or a folder that every node sees.
        revision: See :func:`ccl_hub.embed_many`.
        device: Likewise; "cuda" for actors with ``num_gpus``, all of whose GPUs are used.
        dtype: Likewise.
        backend: Likewise.
        clips: Likewise.
        every_seconds: Likewise.
        level: "clip" for a row for each clip, "video" for one for each video.
        options: How an actor embeds its batches: deadlines, limits, memory. Where it leaves the
            number of decoding processes or threads open, an actor has one for each of its CPUs.
        path_column: Column of the batch with local paths or URLs.
        storage_options: fsspec's, for the URLs: credentials, endpoints.
        retries: How often reading a remote file is tried again, after 0.5 s, 1 s, 2 s, ... and at
            most 10 s.
        hub: How each actor fetches the model's files from the Hub.

    Raises:
        InputError: An argument is not allowed.
        ModelError: The model cannot be loaded.
        ImportError: pyarrow is not installed.

    Example:
        >>> import numpy as np
        >>> embedder = CCLEmbedder("ccl_lite0", clips=2)  # doctest: +SKIP
        >>> embedder({"path": np.array(["a.mp4"])}).num_rows  # doctest: +SKIP
        2
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str | None = None,
        backend: str = "torch",
        clips: int | None = None,
        every_seconds: float | None = None,
        level: str = "clip",
        options: BatchOptions | None = None,
        path_column: str = "path",
        storage_options: Mapping[str, Any] | None = None,
        retries: int = 3,
        hub: HubOptions | None = None,
    ) -> None:
        import_package("pyarrow")
        from ..batch.options import BatchOptions
        from ..batch.run import engines_for

        self.sampling = Sampling(clips, every_seconds)
        self.level = _checked_level(level)
        whole_number("retries", retries, 0)
        self.path_column, self.retries = path_column, retries
        self.storage_options = storage_options
        cpus = _actor_cpus()
        remove_copies()  # of actors that were killed, such as this one before
        options = options or BatchOptions()
        self.options = replace(
            options,
            workers=options.workers or cpus,
            threads=options.threads or cpus,
            # A share as if the whole machine decoded, for other actors are there too.
            memory_bytes=options.memory_bytes or BatchOptions().worker_bytes,
            frames=False,
        )
        self.engines = engines_for(model, revision, device, dtype, backend, self.options, hub=hub)

    def __call__(self, batch: Any) -> Table:
        """Embed the videos of one batch.

        Args:
            batch: A dictionary of arrays, or a pyarrow table; a column of paths, and others.

        Returns:
            A table of the columns of the batch and :data:`COLUMNS`, where ``embedding`` is a list
            of fixed size of float32. ``status`` is "ok", "incomplete" (a part could not be read)
            or "failed", with a null embedding and a ``code`` of :class:`ccl_hub.BatchItem`;
            ``clip_index`` is null for whole videos.

        Raises:
            InputError: There is no column of paths, it is not text, or a name is taken.
            OutputError: There is no space for copies of remote files.
        """
        from ..embed.results import make_provenance

        table = as_table(batch)
        videos = self._embed(paths_of(table, self.path_column))
        provenance = make_provenance(self.engines[0], self.sampling)
        facts = {name: getattr(provenance, name) for name in FACTS}
        dim = self.engines[0].model.config.architecture.feature_dim
        return join(table, videos, dim, facts)

    def _embed(self, paths: Sequence[str | None]) -> list[VideoRows]:
        """Embed each path, or say why it cannot be embedded; in the order of the paths."""
        from ..batch.run import embed_batch

        videos = [VideoRows()] * len(paths)
        under_way: list[tuple[int, Path]] = []  # by the number that embed_batch gives a path

        def local_paths(copies: LocalCopies) -> Iterator[Path]:
            for position, local in copies.fetch(paths):
                if isinstance(local, MediaError):
                    videos[position] = VideoRows(code=local.code, reason=local.reason)
                else:
                    under_way.append((position, local))
                    yield local

        limits = self.options.limits
        with (
            LocalCopies(
                max_bytes=None if limits is None else limits.max_bytes,
                retries=self.retries,
                options=self.storage_options,
            ) as copies,
            closing(
                embed_batch(local_paths(copies), self.engines, self.sampling, self.options)
            ) as items,
        ):
            for item in items:
                position, local = under_way[item.index]
                copies.drop(local)
                videos[position] = self._rows_of(item)
        return videos

    def _rows_of(self, item: BatchItem) -> VideoRows:
        """Return the rows of one result."""
        result = item.embeddings
        if result is None:
            return VideoRows(code=item.code, reason=item.reason)
        facts = result.provenance
        status = "incomplete" if result.incomplete else "ok"
        rows = VideoRows(completeness=facts.completeness, status=status, reason=facts.note)
        if self.level == "video":
            whole = (None, 0.0, facts.duration_seconds)
            return rows._replace(vectors=result.video[None], times=[whole])  # (1,D)
        spans = enumerate(result.clip_seconds.tolist())
        return rows._replace(vectors=result.clips, times=[(i, *span) for i, span in spans])


def embed_paths(
    paths: Iterable[str | Path] | str | Path | Dataset,
    model: str | Path = DEFAULT_MODEL,
    *,
    clips: int | None = None,
    every_seconds: float | None = None,
    level: str = "clip",
    revision: str | None = None,
    dtype: str | None = None,
    backend: str = "torch",
    options: BatchOptions | None = None,
    path_column: str = "path",
    storage_options: Mapping[str, Any] | None = None,
    retries: int = 3,
    hub: HubOptions | None = None,
    cpus_per_actor: float = 1.0,
    gpus_per_actor: float = 0.0,
    concurrency: int | tuple[int, int] | None = None,
    videos_per_task: int | None = None,
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
        revision: See :class:`CCLEmbedder`.
        dtype: See :class:`CCLEmbedder`.
        backend: See :class:`CCLEmbedder`.
        options: See :class:`CCLEmbedder`.
        path_column: See :class:`CCLEmbedder`.
        storage_options: fsspec's, for the parquet and for the videos.
        retries: See :class:`CCLEmbedder`.
        hub: See :class:`CCLEmbedder`. A token in it travels with the job to its actors.
        cpus_per_actor: CPUs that Ray sets aside for an actor: decoding processes that it starts,
            and threads of a network on the CPU (at least 1 each).
        gpus_per_actor: Likewise GPUs; 0.25 lets four actors share one. Above 0 they use CUDA.
        concurrency: The most actors, or the fewest and the most. By default, and between the two,
            Ray starts what fits, leaving CPUs for reading and writing. A fewest that takes every
            CPU of the cluster leaves none for these, and Ray then waits forever.
        videos_per_task: Videos in a block: what an actor embeds at once, and what is done again
            if the actor dies. By default 16 for each decoding process; with fewer, more of the
            time goes into starting processes.
        actor_options: Other options of ``map_batches``: ``memory``, ``accelerator_type``,
            ``runtime_env``.
        embedder: The class of the actors; a subclass may prepare more.

    Returns:
        A Dataset of the rows that :meth:`CCLEmbedder.__call__` describes, in any order.

    Raises:
        InputError: An argument is not allowed, or there is no such parquet.
        ImportError: Ray is not installed.

    Example:
        >>> rows = embed_paths(["a.mp4", "s3://bucket/b.mp4"], clips=4)  # doctest: +SKIP
        >>> rows.write_parquet("features")  # doctest: +SKIP
    """
    import_package("ray")
    data = import_package("ray.data")
    # These are refused here rather than in an actor:
    Sampling(clips, every_seconds)
    _checked_level(level)
    _check_backend(backend, gpus_per_actor)
    cpus = max(1, int(cpus_per_actor))
    if videos_per_task is None:
        workers = cpus if options is None else options.workers or cpus
        videos_per_task = VIDEOS_PER_WORKER * workers
    whole_number("videos_per_task", videos_per_task)
    whole_number("retries", retries, 0)
    dataset = _dataset(paths, path_column, storage_options)
    fewest, most = concurrency if isinstance(concurrency, tuple) else (1, concurrency)
    return dataset.repartition(target_num_rows_per_block=videos_per_task).map_batches(
        embedder,
        fn_constructor_kwargs={
            "model": _model_anywhere(model),
            "revision": revision,
            "device": "cuda" if gpus_per_actor else "cpu",
            "dtype": dtype,
            "backend": backend,
            "clips": clips,
            "every_seconds": every_seconds,
            "level": level,
            "options": options,
            "path_column": path_column,
            "storage_options": storage_options,
            "retries": retries,
            "hub": _cached_anywhere(hub),
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
    data = import_package("ray.data")
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
        arrow = import_package("pyarrow.fs")
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
    return text if is_url(text) else absolute_path(text)


def _model_anywhere(model: str | Path) -> str | Path:
    """Return a name as it is, and a folder so that it means the same in every process."""
    if isinstance(model, str) and (model in list_models() or not Path(model).is_dir()):
        return model
    return Path(model).absolute()


def _cached_anywhere(hub: HubOptions | None) -> HubOptions | None:
    """Return options whose cache folder means the same in every process."""
    if hub is None or hub.cache_dir is None:
        return hub
    home = os.path.expanduser(hub.cache_dir)  # noqa: PTH111 - Path.expanduser may raise
    return replace(hub, cache_dir=absolute_path(home))


def _actor_cpus() -> int | None:
    """Return the CPUs of the Ray actor that this is; None outside of one."""
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError:
        return None
    if not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    if not context.get_actor_id():
        return None
    return max(1, int(context.get_assigned_resources().get("CPU", 1)))


def _checked_level(level: str) -> str:
    if level not in LEVELS:
        raise InputError(f"level is {level!r}; allowed: {', '.join(LEVELS)}.")
    return level


def _check_backend(backend: str, gpus_per_actor: float) -> None:
    if backend in ("torch", "auto"):
        return
    from ..backends.make import BACKENDS, TORCH_BACKENDS

    if backend not in BACKENDS:
        raise InputError(f"backend is {backend!r}; allowed: auto, {', '.join(BACKENDS)}.")
    if gpus_per_actor and backend not in TORCH_BACKENDS:
        raise InputError(
            f"backend is {backend!r} with gpus_per_actor={gpus_per_actor:g}; allowed: "
            f"{', '.join(TORCH_BACKENDS)}, which alone run on GPUs."
        )
