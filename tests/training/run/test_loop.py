"""The loop by itself: what hangs on the clock is the same in every process."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from training.distributed.world import World
from training.recipes.pretraining import read_recipe
from training.run import loop as loops
from training.run.loop import Loop

AHEAD_SECONDS = 1e6


def test_after_a_measurement_all_processes_have_one_clock(tmp_path, monkeypatch):
    # Once, each went on with its own, and a schedule paced by time gave each its own learning
    # rate for the next step: their weights differed from then on.
    def peer_is_ahead(tensor, op):
        tensor[1] = max(tensor[1].item(), AHEAD_SECONDS)

    monkeypatch.setattr(loops.dist, "all_reduce", peer_is_ahead)
    monkeypatch.setattr(loops, "barrier", lambda world: None)
    task = SimpleNamespace(measure_epochs=1, measure=lambda log, step, metrics: None)
    changes = ("schedule.epochs=2", "budget.max_seconds=2e6", "budget.paces_schedule=true")
    changes = (*changes, "optim.batch=4", "schedule.warmup_epochs=0")
    recipe = read_recipe("smoke", changes)
    world = World(rank=1, size=2, device=torch.device("cpu"))
    made = Loop(task, recipe, range(8), tmp_path, world)
    made.step = made.steps_per_epoch
    made._measure_if_due(None)
    assert made.metrics["step"] == made.step
    assert made.seconds == AHEAD_SECONDS and made.progress == 0.5
