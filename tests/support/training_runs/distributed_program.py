"""Run by the distributed tests in every process: one update of a tiny model for each case.

Usage: distributed_program.py OUT [uneven]; writes OUT/rank<r>.safetensors and OUT/rank<r>.json.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ccl_hub.config import Architecture, CCLConfig
from ccl_hub.errors import TrainingError
from ccl_hub.model import CCLModel
from training.distributed.world import (
    World,
    backward_step,
    barrier,
    broadcast_model,
    gather_with_grad,
    local_batch,
    start_world,
    synchronise_batchnorm,
)
from training.objective import Objective

BATCH, FRAMES, SIDE_PX = 12, 3, 32
LEARNING_RATE = 0.1


@dataclasses.dataclass(frozen=True)
class Case:
    """One update: how the batch is cut and what is computed."""

    chunks: int = 1
    views: int = 1
    objective: Objective = Objective(preset="tuned")  # noqa: RUF009
    autocast: bool = False
    training: bool = False
    features_weight: float = 0.0
    frame_loss: bool = False


CASES = {
    "plain": Case(),
    "chunked": Case(chunks=2),
    "unequal_chunks": Case(chunks=3),
    "paper": Case(objective=Objective()),
    "two_views": Case(views=2),
    "two_views_chunked": Case(views=2, chunks=2),
    "mse": Case(objective=Objective(kind="mse"), chunks=2),
    "bf16": Case(autocast=True),
    "bf16_chunked": Case(autocast=True, chunks=2),
    "features": Case(features_weight=0.5, chunks=2),
    "features_two_views": Case(views=2, features_weight=0.5),
    "frame_loss": Case(frame_loss=True),
    "frame_loss_two_views_chunked": Case(views=2, chunks=2, frame_loss=True),
    "batchnorm": Case(training=True),
    "batchnorm_chunked": Case(training=True, chunks=2),
}


def free_port() -> int:
    """Return a port of this machine on which processes can meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tiny_model(seed: int = 0, **architecture: object) -> CCLModel:
    """An R18+1 with 8 to 16 channels, its BatchNorm statistics and projections those of the data.

    Centred projections point in all directions; those of a fresh network are nearly parallel, and
    the contrastive terms would have next to no gradient to compare.
    """
    torch.manual_seed(seed)
    small = Architecture(stage_channels=(8, 8, 16, 16), stage_blocks=(1, 1, 1, 1), **architecture)
    model = CCLModel(CCLConfig(small))
    with torch.no_grad():
        model.train()(all_clips(1)[0])
        output = model.eval()(all_clips(1)[0], project=True)
        for projection in {model.projection, model.video_projection} - {None}:
            projection.fc2.bias -= output.frame_projections.mean((0, 1))
    return model


def all_clips(views: int) -> tuple[Tensor, ...]:
    """The global batch: each view (BATCH,3,T,H,W)."""
    generator = torch.Generator().manual_seed(1)
    shape = (BATCH, 3, FRAMES, SIDE_PX, SIDE_PX)
    return tuple(torch.randn(shape, generator=generator) for _ in range(views))


def update(case: Case, world: World) -> dict[str, Tensor]:
    """Do one update on this process's share; return losses, gradients and new state."""
    model = tiny_model().train(case.training)
    share = local_batch(BATCH, world)
    views = [v[world.rank * share :][:share] for v in all_clips(case.views)]
    pieces = list(zip(*(torch.tensor_split(v, case.chunks) for v in views), strict=True))
    chunks = [p if case.views == 2 else p[0] for p in pieces if len(p[0])]
    dtype = torch.bfloat16 if case.autocast else None
    own_loss = (lambda chunk, frames: squares(frames)) if case.frame_loss else None
    losses = backward_step(
        model, case.objective, chunks, world, dtype, own_loss, case.features_weight
    )
    return outcome(model, losses)


def squares(frames: Tensor) -> Tensor:
    """A loss of frames by themselves."""
    return frames.square().mean()


def outcome(model: CCLModel, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gather losses and gradients, take a plain SGD step and add the state after it."""
    tensors = {f"loss/{name}": value for name, value in losses.items()}
    tensors |= {f"grad/{name}": p.grad.clone() for name, p in model.named_parameters()}
    torch.optim.SGD(model.parameters(), lr=LEARNING_RATE).step()
    tensors |= {f"state/{name}": value for name, value in model.state_dict().items()}
    return {name: value.contiguous() for name, value in tensors.items()}


def collectives(world: World) -> dict[str, Tensor]:
    """What the smaller functions do between processes."""
    x = torch.full((2, 3), float(world.rank), requires_grad=True)
    gathered = gather_with_grad(x)
    (gathered * (world.rank + 1)).sum().backward()
    model = tiny_model(seed=world.rank)
    broadcast_model(model, world)
    barrier(world)
    return {
        "gathered": gathered.detach().contiguous(),
        "gathered_gradient": x.grad,
        "broadcast": torch.cat([p.detach().flatten() for p in model.parameters()]),
    }


def main(out: Path, mode: str) -> int:
    """Run the cases, or one step whose shares differ."""
    torch.set_num_threads(1)
    with start_world("cpu") as world:
        if mode == "uneven":
            clips = all_clips(1)[0][: 2 + world.rank]
            backward_step(tiny_model(), Objective(), [clips], world)
        results = {f"collectives/{name}": value for name, value in collectives(world).items()}
        for name, case in CASES.items():
            results |= {f"{name}/{key}": value for key, value in update(case, world).items()}
        try:
            synchronise_batchnorm(tiny_model(), world)
            refusal = ""
        except TrainingError as error:
            refusal = str(error)
        seen = {"rank": world.rank, "size": world.size, "local_rank": world.local_rank}
        seen |= {"sync_batchnorm": refusal, "node": os.environ.get("GROUP_RANK")}
        save_file(results, out / f"rank{world.rank}.safetensors")
        (out / f"rank{world.rank}.json").write_text(json.dumps(seen))
    return 0


if __name__ == "__main__":
    signal.alarm(int(os.environ["LIMIT_SECONDS"]))  # never outlive a test that was itself killed
    try:
        sys.exit(main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "cases"))
    except TrainingError as error:
        sys.stderr.write(f"error: {error}\n")  # one write: lines of two processes must not mix
        sys.exit(1)
