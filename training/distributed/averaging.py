"""Averages over processes: gradients while backward still runs, and BatchNorm statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

# Large enough to use the link well, small enough that the first is on its way early in backward.
BUCKET_BYTES = 8 << 20


class GradientMean:
    """Averages gradients over ranks, bucket after bucket, while backward still computes others.

    Buckets are filled from the last layer on, and sent in that order on every rank.
    DistributedDataParallel would wrap the model, change the names of its weights and tie the
    averaging to its own forward.

    Args:
        parameters: In the order of the network, the same on every rank.
        size: Processes in all; a single one averages nothing.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], size: int) -> None:
        self.size = size
        self.handles: list[torch.utils.hooks.RemovableHandle] = []
        self.sent: list[tuple[Tensor, dist.Work]] = []
        self.buckets: list[list[nn.Parameter]] = [[]]
        for parameter in reversed([p for p in parameters if p.requires_grad]):
            if sum(p.nbytes for p in self.buckets[-1]) >= BUCKET_BYTES:
                self.buckets.append([])
            self.buckets[-1].append(parameter)
        self.missing = [len(bucket) for bucket in self.buckets]

    def __enter__(self) -> GradientMean:
        return self

    def start(self) -> None:
        """Send buckets from now on: the next backward pass completes the gradients."""
        if self.size == 1:
            return
        for i, bucket in enumerate(self.buckets):
            for parameter in bucket:
                hook = parameter.register_post_accumulate_grad_hook(self._on_ready(i))
                self.handles.append(hook)

    def _on_ready(self, i: int) -> Callable[[Tensor], None]:
        def hook(_: Tensor) -> None:
            self.missing[i] -= 1
            while len(self.sent) < len(self.buckets) and self.missing[len(self.sent)] == 0:
                self._send()

        return hook

    def _send(self) -> None:
        bucket = self.buckets[len(self.sent)]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        self.sent.append((flat, dist.all_reduce(flat, async_op=True)))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for handle in self.handles:
            handle.remove()
        if self.size == 1 or kind is not None:
            return
        while len(self.sent) < len(self.buckets):  # some weights took no part in the loss
            self._send()
        for bucket, (flat, work) in zip(self.buckets, self.sent, strict=True):
            work.wait()
            parts = flat.div_(self.size).split([p.numel() for p in bucket])
            for parameter, part in zip(bucket, parts, strict=True):
                if parameter.grad is not None:
                    parameter.grad.copy_(part.view_as(parameter))


def average_buffers(model: nn.Module, size: int) -> None:
    """Average running statistics over ranks, so that all are equal and of the whole batch."""
    buffers = [b for b in model.buffers() if b.is_floating_point()]
    if size == 1 or not buffers:
        return
    flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
    dist.all_reduce(flat)
    parts = flat.div_(size).split([buffer.numel() for buffer in buffers])
    for buffer, part in zip(buffers, parts, strict=True):
        buffer.copy_(part.view_as(buffer))
