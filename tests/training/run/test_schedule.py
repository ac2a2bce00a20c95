"""Learning-rate schedules: values at the joints, and nothing but the position decides."""

import itertools
import math

import pytest

from training.recipes.sections import Schedule
from training.run.schedule import cosine_factor, learning_rate, step_factor, warmup_factor


@pytest.mark.parametrize("steps_per_epoch", [1, 7, 50, 199, 4986])
def test_step_schedule_of_the_paper(steps_per_epoch):
    """80 epochs, a tenth every 20, to the very step: no rounding may move a drop."""
    schedule, total = Schedule(kind="step", epochs=80), 80 * steps_per_epoch
    for epoch in range(80):
        first, last = epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch - 1
        expected = pytest.approx(0.1 ** (epoch // 20), rel=1e-12)
        assert learning_rate(schedule, first / total) == expected
        assert learning_rate(schedule, last / total) == expected


def test_warmup_ramps_to_one():
    assert [warmup_factor(e / 4, 1.0) for e in range(6)] == [0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert warmup_factor(0.0, 0.0) == 1.0


def test_step_factor_counts_whole_periods():
    assert [step_factor(e, 2, 0.5) for e in range(6)] == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_cosine_ends_and_middle():
    assert cosine_factor(0, 0, 100) == 1.0
    assert cosine_factor(50, 0, 100, floor=0.2) == pytest.approx(0.6)
    assert cosine_factor(100, 0, 100, floor=0.2) == 0.2
    assert cosine_factor(1000, 0, 100) == 0.0
    assert cosine_factor(5, 10, 100) == 1.0


def test_cosine_with_warmup_rises_then_falls():
    schedule = Schedule(kind="cosine", epochs=10, warmup_epochs=1.5, final_factor=0.1)
    factors = [learning_rate(schedule, step / 100) for step in range(101)]
    assert factors[:16] == pytest.approx([i / 15 for i in range(16)])
    falling = factors[15:]
    assert all(a > b for a, b in itertools.pairwise(falling))
    assert factors[-1] == 0.1
    assert factors[-2] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * 84 / 85)))


def test_warmup_applies_to_steps_too():
    schedule = Schedule(kind="step", epochs=80, warmup_epochs=30)
    assert learning_rate(schedule, 25 / 80) == pytest.approx(0.1 * 25 / 30)
