"""One program for one process and for many: the world, gathering with gradient, the update.

``python -m ...`` is a world of one; ``torchrun --nproc-per-node K -m ...`` is one of K processes,
with NCCL between GPUs and gloo between CPUs. Several machines meet by the rendezvous of torchrun,
with the same command on each of them:

    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29400 -m ...

The batch is global: every process compares its videos with those of all others, so loss, gradients
and weights are the same for any K (except by BatchNorm, whose statistics are those of each process
alone unless SyncBatchNorm is used).
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ccl_hub.errors import TrainingError

from ..objective import CycleContrast, Objective
from .averaging import GradientMean, average_buffers

Chunk = Tensor | tuple[Tensor, Tensor]
VARIANCE_FLOOR = 1e-5


@dataclass(frozen=True)
class World:
    """This process among its peers.

    Args:
        rank: Number of this process, 0 to ``size - 1``.
        size: Processes in all.
        local_rank: Number of this process on its machine.
        device: Where it computes.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process is rank 0, which writes files and logs."""
        return self.rank == 0


@contextlib.contextmanager
def start_world(device: str = "auto", timeout_seconds: float = 1800.0) -> Iterator[World]:
    """Join the processes that torchrun started, or be a world of one.

    Args:
        device: ``"auto"`` (CUDA if there is any), ``"cpu"`` or ``"cuda"``.
        timeout_seconds: How long a process waits for the others before it fails; longer than any
            work that one process does alone, such as a validation.

    Yields:
        This process's :class:`World`; the process group lives as long as the context.

    Raises:
        TrainingError: The device is missing, or there are more processes than GPUs.

    Example:
        >>> with start_world("cpu") as world:
        ...     world.rank, world.size
        (0, 1)
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    own_device = _device(device, local_rank)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World(device=own_device)
        return
    # Tensors on the CPU go through gloo even beside NCCL: agreeing on sizes needs no GPU.
    backend = "gloo" if own_device.type == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout_seconds))
    try:
        yield World(dist.get_rank(), dist.get_world_size(), local_rank, own_device)
    finally:
        dist.destroy_process_group()


def _device(device: str, local_rank: int) -> torch.device:
    """Return this process's device and make a GPU the current one."""
    if device not in ("auto", "cpu", "cuda"):
        raise TrainingError(f"device is {device!r}; allowed: 'auto', 'cpu' or 'cuda'.")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cpu" or (device == "auto" and gpus == 0):
        return torch.device("cpu")
    if local_rank >= gpus:
        raise TrainingError(
            f"process {local_rank} of this machine has no GPU of its own, as there are {gpus}; "
            "start at most as many processes as GPUs (torchrun --nproc-per-node), or use the CPU."
        )
    gpu = torch.device("cuda", local_rank)
    torch.cuda.set_device(gpu)
    return gpu


def local_batch(global_batch: int, world: World) -> int:
    """Return this process's share of the global batch.

    Raises:
        TrainingError: The world size does not divide the batch.
    """
    if global_batch < 1 or global_batch % world.size:
        raise TrainingError(
            f"batch is {global_batch}, which {world.size} processes cannot share equally; "
            f"allowed: a multiple of {world.size}."
        )
    return global_batch // world.size


def barrier(world: World) -> None:
    """Wait until every process has come this far; a world of one goes on."""
    if world.size > 1:
        dist.all_reduce(torch.zeros(1))  # on the CPU, so through gloo


def broadcast_model(model: nn.Module, world: World) -> None:
    """Replace the weights and buffers of every process by those of rank 0."""
    if world.size > 1:
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                same = tensor.contiguous()
                dist.broadcast(same, src=0)
                tensor.copy_(same)


def synchronise_batchnorm(model: nn.Module, world: World) -> None:
    """Let BatchNorm use the statistics of all processes (SyncBatchNorm), in place.

    Args:
        model: Its BatchNorm layers are replaced; names of weights stay.
        world: A world of one keeps its BatchNorm.

    Raises:
        TrainingError: The processes compute on CPUs, for which PyTorch has no SyncBatchNorm.
    """
    if world.size == 1:
        return
    if world.device.type != "cuda":
        raise TrainingError(
            f"SyncBatchNorm needs CUDA, but this process computes on {world.device.type}; "
            "set optim.sync_batchnorm = false, or train on GPUs."
        )
    nn.SyncBatchNorm.convert_sync_batchnorm(model)


class _Gather(torch.autograd.Function):
    """Concatenation over ranks; the gradient of a rank's rows is summed over all ranks."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def gather_with_grad(x: Tensor) -> Tensor:
    """Concatenate the rows of all ranks, in rank order, as a differentiable operation.

    If each of K ranks computes the same global loss from the result, the gradient that arrives at
    ``x`` is K times that of the loss, as the losses of the ranks add up. The average of parameter
    gradients over ranks, as data-parallel training takes it, divides by K again: the result is the
    gradient of a single process.

    Args:
        x: (n, ...) rows of this rank; the same shape on every rank.

    Returns:
        (K*n, ...); ``x`` itself without a process group.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return x
    return _Gather.apply(x)


FrameLoss = Callable[[int, Tensor], Tensor]
"""Takes the number of a chunk and its frame features (views*b, T, D); returns their mean loss."""


def backward_step(
    model: nn.Module,
    objective: Objective,
    chunks: Sequence[Chunk],
    world: World,
    autocast_dtype: torch.dtype | None = None,
    frame_loss: FrameLoss | None = None,
    features_weight: float = 0.0,
) -> dict[str, Tensor]:
    """Leave in ``.grad`` the gradient of the objective over the global batch.

    Up to floating-point rounding (and BatchNorm's statistics in training mode) the result is the
    same however the batch is spread over processes and chunks. With one chunk the graph of the
    features is kept. With several, features are computed without a graph, the objective gives
    their gradient, and each chunk is run again to carry it on to the weights, so that memory is
    that of one chunk and negatives are still those of the whole batch.

    Args:
        model: A ``CCLModel``, not wrapped; ``model(clips, project=True)`` is called. Gradients
            that it has are dropped first.
        objective: Compares projections; see :class:`training.objective.Objective`.
        chunks: This process's share of the batch, of as many clips as on any other process. A
            chunk is (b, 3, T, H, W) float clips, or a pair of these for two views of the videos.
        world: This process among its peers.
        autocast_dtype: ``torch.bfloat16`` to run the network in mixed precision, or None.
        frame_loss: A further loss, of frames by themselves; it is added to the total.
        features_weight: Weight of the same objective on the features that users get, besides that
            on their projections; each dimension standardised over the batch.

    Returns:
        The fields of :class:`training.objective.CycleContrast` by name, and ``frame_loss`` and
        ``features`` (the objective on features) where they are asked for: 0-d tensors without
        gradient, of the global batch, equal on all ranks.

    Raises:
        TrainingError: The shares of the processes differ, or autocast is in another type.
    """
    if autocast_dtype not in (None, torch.bfloat16):
        raise TrainingError(
            f"autocast_dtype is {autocast_dtype}; allowed: torch.bfloat16 or None."
        )
    chunks = list(chunks)
    _check_shares(chunks, world)
    model.zero_grad(set_to_none=True)
    run = _Forward(model, world.device, autocast_dtype, features_weight > 0)
    if len(chunks) == 1:
        features = [run(chunks[0])]
    else:
        features = run.without_graph(chunks)
    local = torch.cat([part.detach() for part in features]).requires_grad_()  # (n,V,T+1,P+D)
    spaces = gather_with_grad(local).split(run.widths, dim=-1)  # (N,V,T+1,P), (N,V,T+1,D)
    result = _compare(objective, spaces[0])
    total = result.total
    if features_weight:
        direct = _compare(objective, _standardised(spaces[1])).total
        total = total + features_weight * direct
    total.backward()
    gradients = local.grad.split([len(part) for part in features])
    extra = torch.zeros((), device=world.device)
    with GradientMean(model.parameters(), world.size) as mean:
        for i, chunk in enumerate(chunks):
            part = features[0] if len(chunks) == 1 else run.again(i, chunk)
            if i == len(chunks) - 1:
                mean.start()
            ends, gradient = [part], [gradients[i]]
            if frame_loss is not None:
                ends.append(frame_loss(i, run.frames) * (len(part) / len(local)))
                gradient.append(torch.ones_like(ends[1]))
                extra += ends[1].detach()
            torch.autograd.backward(ends, gradient)
    if model.training:
        average_buffers(model, world.size)
    terms = {name: value.detach() for name, value in result._asdict().items()}
    terms["total"] = total.detach()
    if features_weight:
        terms["features"] = direct.detach()
    if frame_loss is not None:
        if world.size > 1:
            dist.all_reduce(extra)
        terms["frame_loss"] = extra / world.size
        terms["total"] = terms["total"] + terms["frame_loss"]
    return terms


class _Forward:
    """Runs chunks through the network: (b,V,T+1,P) projections, frames first and the video last.

    Args:
        model: Of :func:`backward_step`, as the next two.
        device: Where it computes.
        autocast_dtype: Of mixed precision.
        with_features: Append the features themselves: (b,V,T+1,P+D).
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        autocast_dtype: torch.dtype | None,
        with_features: bool = False,
    ) -> None:
        self.model, self.device, self.dtype = model, device, autocast_dtype
        self.with_features = with_features
        self.widths: list[int] = []  # of projections, and of features
        self.random_states: list[list[Tensor]] = []
        self.frames = torch.empty(0)  # features of the latest chunk (V*b,T,D)

    def __call__(self, chunk: Chunk) -> Tensor:
        views = (chunk,) if isinstance(chunk, Tensor) else chunk
        clips = views[0] if len(views) == 1 else torch.cat(views)  # (V*b,3,T,H,W)
        # Each pass has its own context: weights that autocast has cached without a graph would
        # cut the graph of the next pass.
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            output = self.model(clips, project=True)
        self.frames = output.frames
        frames, video = output.frame_projections, output.video_projections
        spaces = [torch.cat([frames, video[:, None]], dim=1)]  # (V*b,T+1,P)
        if self.with_features:
            spaces.append(torch.cat([output.frames, output.video[:, None]], dim=1))  # (V*b,T+1,D)
        self.widths = [space.shape[-1] for space in spaces]
        features = torch.cat(spaces, dim=-1)
        return features.unflatten(0, (len(views), -1)).transpose(0, 1)  # (b,V,T+1,P+D)

    def without_graph(self, chunks: Iterable[Chunk]) -> list[Tensor]:
        """First pass: features alone; buffers such as running statistics stay as they were."""
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        features = []
        with torch.no_grad():
            for chunk in chunks:
                self.random_states.append(_random_states(self.device))
                features.append(self(chunk))
            for buffer, before in buffers:
                buffer.copy_(before)
        return features

    def again(self, i: int, chunk: Chunk) -> Tensor:
        """Second pass: chunk ``i`` with a graph, drawing the same random numbers."""
        torch.set_rng_state(self.random_states[i][0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(self.random_states[i][1], self.device)
        return self(chunk)


def _random_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def _standardised(features: Tensor) -> Tensor:
    """(N,V,T+1,D), each dimension of mean 0 and variance 1 over the whole batch."""
    rows = features.flatten(0, -2)
    variance, mean = torch.var_mean(rows, 0, correction=0)  # (D,), (D,)
    return (features - mean) * (variance + VARIANCE_FLOOR).rsqrt()


def _compare(objective: Objective, features: Tensor) -> CycleContrast:
    """Apply the objective to features (N,V,T+1,D) of V = 1 or 2 views."""
    by_view = features.transpose(0, 1)  # (V,N,T+1,D)
    videos, frames = by_view[:, :, -1], by_view[:, :, :-1]  # (V,N,D), (V,N,T,D)
    if len(by_view) == 1:
        return objective(videos[0], frames[0])
    return objective.two_views(videos, frames)


def _check_shares(chunks: Sequence[Chunk], world: World) -> None:
    """Refuse a step whose processes would wait for each other forever, or mix up their rows."""
    tensors = [c if isinstance(c, Tensor) else c[0] for c in chunks]
    views = {1 if isinstance(c, Tensor) else len(c) for c in chunks}
    if not chunks or len(views) != 1 or not views <= {1, 2}:
        raise TrainingError(
            f"a step got {len(chunks)} chunks of {sorted(views)} views; "
            "allowed: at least one chunk, all of 1 or all of 2 views."
        )
    if world.size == 1:
        return
    clips = sum(len(tensor) for tensor in tensors)
    share = torch.tensor([clips, len(chunks), views.pop(), tensors[0].shape[2]])
    shares = [torch.empty_like(share) for _ in range(world.size)]
    dist.all_gather(shares, share)  # on the CPU, so through gloo
    if any(not torch.equal(other, share) for other in shares):
        seen = ", ".join(f"rank {r}: {s.tolist()}" for r, s in enumerate(shares))
        raise TrainingError(
            f"processes got unequal shares, as [clips, chunks, views, frames]: {seen}; use a "
            "batch that the number of processes divides, and drop a last, smaller batch."
        )
