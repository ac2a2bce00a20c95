"""The objective against the paper's equations, its symmetries, its numerics and its memory."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from project import ROOT

from ccl_hub.config import parse_dataclass
from ccl_hub.errors import ConfigError, InputError
from training.objective import CycleContrast, Objective, cycle_contrast, mse_baseline

NAMES = CycleContrast._fields


def features(n=5, length=3, dim=6, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    videos = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    frames = torch.randn(n, length, dim, generator=generator, dtype=torch.float64)
    return videos.to(dtype), (frames + 0.7 * videos[:, None]).to(dtype)


# The equations, one video at a time, in float64 NumPy ------------------------------------------


def sim(u, v):
    return float(u @ v / (np.sqrt(u @ u) * np.sqrt(v @ v)))


def unit(u):
    return u / np.sqrt(u @ u)


def soft_neighbour(u, candidates, tau_nn, mix_unit):
    """Equations 1 and 3."""
    weights = np.array([math.exp(sim(u, c) / tau_nn) for c in candidates])
    weights /= weights.sum()
    return sum(w * (unit(c) if mix_unit else c) for w, c in zip(weights, candidates, strict=True))


def equations(videos, frames, **options):
    """Equations 1 to 6 read off the paper; plain loops over videos and frames."""
    o = Objective(**options)
    n, length, dim = frames.shape
    everything = list(frames.reshape(n * length, dim))
    forward, backward, penalty, cycles = [], [], [], 0
    for i in range(n):
        z_hat = soft_neighbour(videos[i], everything, o.tau_nn, o.mix_unit)
        scores = {
            (m, k): math.exp(sim(z_hat, frames[m, k]) / o.tau)
            for m in range(n)
            for k in range(length)
        }
        losses = []
        for k in range(length):
            others = [v for (m, _), v in scores.items() if m != i]
            denominator = sum(scores.values())
            if o.exclude_other_positives:
                denominator = scores[i, k] + sum(others)
            losses.append(-math.log(scores[i, k] / denominator))  # Eq. 2
        forward.append(sum(losses) / (length if o.forward_reduction == "mean" else 1))

        s_hat = soft_neighbour(z_hat, list(videos), o.tau_nn, o.mix_unit)
        against = [math.exp(sim(s_hat, s) / o.tau) for s in videos]
        backward.append(-math.log(against[i] / sum(against)))  # Eq. 4

        rows = [unit(z) if o.penalty_unit_rows else z for z in frames[i]]
        squares = [
            (float(a @ b) - (j == k)) ** 2 for j, a in enumerate(rows) for k, b in enumerate(rows)
        ]
        penalty.append(sum(squares) / (length**2 if o.penalty_reduction == "mean" else 1))  # Eq. 5

        nearest = max(everything, key=lambda z: sim(videos[i], z))
        cycles += max(range(n), key=lambda j: sim(nearest, videos[j])) == i  # Section 3.2
    parts = {
        "forward": sum(forward) / n,
        "backward": sum(backward) / n,
        "penalty": sum(penalty) / n,
    }
    weights = dict(zip(parts, o.weights, strict=True))
    total = sum(weights[name] * parts[name] for name in o.terms)  # Eq. 6
    return {"total": total, **parts, "cycle_rate": cycles / n}


VARIANTS = [
    {},
    {"preset": "tuned"},
    {"tau": 0.07, "tau_nn": 0.5},
    {"forward_reduction": "sum"},
    {"penalty_reduction": "mean"},
    {"penalty_unit_rows": False},
    {"exclude_other_positives": True, "tau": 0.2},
    {"mix_unit": False},
    {"weights": (1.0, 0.5, 0.25)},
    {"terms": ("backward",)},
    {"terms": ("forward", "backward")},
]
VARIANT_IDS = [json.dumps(v) for v in VARIANTS]


@pytest.mark.parametrize("max_pairs", [1 << 22, 32], ids=["direct", "chunked"])
@pytest.mark.parametrize("options", VARIANTS, ids=VARIANT_IDS)
def test_equals_the_equations(options, max_pairs):
    videos, frames = features()
    expected = equations(videos.numpy(), frames.numpy(), **options)
    result = Objective(**options, max_pairs=max_pairs)(videos, frames)
    for name in NAMES:
        assert getattr(result, name).item() == pytest.approx(expected[name], abs=1e-10), name


def test_the_function_of_the_readme_equals_the_paper_preset():
    videos, frames = features(dtype=torch.float32)
    assert cycle_contrast(videos, frames) == Objective(preset="paper")(videos, frames)
    tuned = cycle_contrast(videos, frames, tau=0.1, tau_nn=0.1, penalty_reduction="mean")
    assert tuned == Objective(preset="tuned")(videos, frames)


def test_collapsed_features_give_the_known_constants():
    """All vectors equal: Lf = ln(N*L), Lv = ln N, P = L*(L-1), whatever the temperatures."""
    videos, frames = torch.ones(48, 128), torch.ones(48, 8, 128)
    for preset, penalty in (("paper", 56.0), ("tuned", 56 / 64)):
        result = Objective(preset=preset)(videos, frames)
        assert result.forward.item() == pytest.approx(math.log(384), rel=1e-6)
        assert result.backward.item() == pytest.approx(math.log(48), rel=1e-6)
        assert result.penalty.item() == pytest.approx(penalty, rel=1e-6)


def test_cycle_rate_counts_hard_cycles():
    """Video 1's nearest frame belongs to video 0, so one cycle of three breaks."""
    videos = torch.eye(3)
    frames = torch.eye(3)[:, None].repeat(1, 2, 1)
    assert cycle_contrast(videos, frames).cycle_rate.item() == 1.0
    frames[1] = torch.tensor([0.0, -1.0, 0.0])
    frames[0, 1] = torch.tensor([1.0, 0.9, 0.0])
    assert cycle_contrast(videos, frames).cycle_rate.item() == pytest.approx(2 / 3)


# Gradients ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_pairs", [1 << 22, 20], ids=["direct", "chunked"])
@pytest.mark.parametrize("options", VARIANTS, ids=VARIANT_IDS)
def test_gradcheck(options, max_pairs):
    videos, frames = features(n=4, length=2, dim=3)
    objective = Objective(**options, max_pairs=max_pairs)
    inputs = (videos.requires_grad_(), frames.requires_grad_())
    assert torch.autograd.gradcheck(lambda s, z: objective(s, z).total, inputs)


@pytest.mark.parametrize("term", ["forward", "backward", "penalty"])
def test_total_is_the_weighted_sum_in_its_gradient_too(term):
    videos, frames = features()
    frames.requires_grad_()
    weights = (0.3, 0.5, 0.7)
    alone = Objective(weights=weights, terms=(term,))(videos, frames)
    part = getattr(alone, term) * dict(zip(NAMES[1:4], weights, strict=True))[term]
    (a,) = torch.autograd.grad(alone.total, frames, retain_graph=True)
    (b,) = torch.autograd.grad(part, frames)
    torch.testing.assert_close(a, b)
    assert a.abs().max() > 0


def test_detach_stops_one_side_and_not_the_value():
    """The gradient splits into the two sides that ``detach`` can stop."""
    videos, frames = features()
    videos.requires_grad_()
    frames.requires_grad_()
    gradients, totals = {}, set()
    for detach in ("none", "neighbours", "candidates"):
        total = Objective(detach=detach, terms=("forward", "backward"))(videos, frames).total
        totals.add(total.item())
        gradients[detach] = torch.cat(
            [g.flatten() for g in torch.autograd.grad(total, (videos, frames))]
        )
    assert len(totals) == 1
    both = gradients["neighbours"] + gradients["candidates"]
    torch.testing.assert_close(gradients["none"], both)
    assert min(g.abs().max() for g in gradients.values()) > 1e-6


def test_the_warning_about_the_literal_preset():
    """A fresh network (inter-video cosine about 0.87): the literal gradient is P's alone."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(128, generator=generator)
    videos = shared + 0.38 * torch.randn(48, 128, generator=generator)
    frames = videos[:, None] + 0.1 * torch.randn(48, 8, 128, generator=generator)

    def gradient_norms(preset):
        norms = {}
        for term in ("forward", "backward", "penalty"):
            s, z = videos.clone().requires_grad_(), frames.clone().requires_grad_()
            objective = Objective(preset=preset, terms=(term,))
            total = objective(F.normalize(s, dim=-1), F.normalize(z, dim=-1)).total
            norms[term] = torch.autograd.grad(total, z)[0].norm().item()
        return norms

    paper, tuned = gradient_norms("paper"), gradient_norms("tuned")
    assert paper["penalty"] > 1000 * paper["forward"]
    assert max(tuned.values()) < 10 * min(tuned["forward"], tuned["penalty"])


# Symmetries --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"preset": "tuned", "exclude_other_positives": True}])
def test_order_of_videos_and_frames_does_not_matter(options):
    videos, frames = features(n=7, length=4)
    objective = Objective(**options)
    reference = objective(videos, frames)
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(7, generator=generator)
    shuffled = torch.stack([z[torch.randperm(4, generator=generator)] for z in frames])
    for s, z in ((videos[order], frames[order]), (videos, shuffled)):
        result = objective(s, z)
        for name in NAMES:
            assert getattr(result, name).item() == pytest.approx(getattr(reference, name).item())


def test_length_of_vectors_does_not_matter():
    videos, frames = features()
    scaled = cycle_contrast(videos * 3, frames * torch.arange(1, 6).view(5, 1, 1))
    for a, b in zip(cycle_contrast(videos, frames), scaled, strict=True):
        torch.testing.assert_close(a, b)


def test_two_views_is_the_mean_of_both_directions():
    one, two = features(seed=1), features(seed=2)
    objective = Objective(preset="tuned")
    videos, frames = torch.stack([one[0], two[0]]), torch.stack([one[1], two[1]])
    result = objective.two_views(videos, frames)
    across, back = objective(one[0], two[1]), objective(two[0], one[1])
    for name in NAMES:
        mean = (getattr(across, name) + getattr(back, name)) / 2
        torch.testing.assert_close(getattr(result, name), mean)
    swapped = objective.two_views(videos.flip(0), frames.flip(0))
    torch.testing.assert_close(result.total, swapped.total)


# Edges and numerics ------------------------------------------------------------------------------


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize(("n", "length"), [(1, 1), (1, 8), (6, 1)])
def test_one_video_or_one_frame_is_defined(n, length, exclude):
    videos, frames = features(n, length)
    expected = equations(videos.numpy(), frames.numpy(), exclude_other_positives=exclude)
    videos.requires_grad_()
    frames.requires_grad_()
    result = cycle_contrast(videos, frames, exclude_other_positives=exclude)
    result.total.backward()
    assert result.total.item() == pytest.approx(expected["total"], abs=1e-10)
    assert videos.grad.isfinite().all()
    assert frames.grad.isfinite().all()


def test_zero_vectors_stay_finite():
    videos, frames = torch.zeros(3, 4, requires_grad=True), torch.zeros(3, 2, 4)
    frames.requires_grad_()
    result = Objective(preset="tuned")(videos, frames)
    result.total.backward()
    assert all(value.isfinite() for value in result)
    assert videos.grad.isfinite().all()
    assert frames.grad.isfinite().all()


def test_small_temperature_does_not_overflow():
    videos, frames = features(n=16, length=8, dtype=torch.float32)
    frames.requires_grad_()
    result = cycle_contrast(videos, frames, tau=1e-3, tau_nn=1e-3, exclude_other_positives=True)
    result.total.backward()
    assert result.total.isfinite()
    assert frames.grad.isfinite().all()


def test_bfloat16_is_computed_in_float32_even_under_autocast():
    videos, frames = features(n=12, length=8, dim=128, dtype=torch.bfloat16)
    reference = Objective(preset="tuned")(videos.float(), frames.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = Objective(preset="tuned")(videos, frames)
        baseline = mse_baseline(videos, frames)
    for a, b in zip(result, reference, strict=True):
        assert a.dtype == torch.float32
        assert a.item() == b.item()
    assert baseline.item() == mse_baseline(videos.float(), frames.float()).item()


def test_float32_is_close_to_float64():
    videos, frames = features(n=48, length=8, dim=128)
    for preset in ("paper", "tuned"):
        exact = Objective(preset=preset)(videos, frames)
        single = Objective(preset=preset)(videos.float(), frames.float())
        for a, b in zip(single, exact, strict=True):
            assert a.item() == pytest.approx(b.item(), rel=2e-6, abs=1e-7)


# Large batches -----------------------------------------------------------------------------------


def test_chunked_equals_direct_with_gradients():
    videos, frames = features(n=40, length=8, dim=32, dtype=torch.float32)
    results = []
    for max_pairs in (1 << 22, 7 * 320):  # 40 anchors at once; groups of 7, the last one of 5
        s, z = videos.clone().requires_grad_(), frames.clone().requires_grad_()
        result = Objective(preset="tuned", max_pairs=max_pairs)(s, z)
        result.total.backward()
        results.append([*(v.detach() for v in result), s.grad, z.grad])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


MEMORY_PROGRAM = """
import json, resource, sys
import torch
from training.objective import Objective
n, length = int(sys.argv[1]), 8
torch.manual_seed(0)
torch.set_num_threads(2)
videos = torch.randn(n, 128, requires_grad=True)
frames = torch.randn(n, length, 128, requires_grad=True)
Objective(preset="tuned")(videos[:8], frames[:8]).total.backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = Objective(preset="tuned")(videos, frames)
result.total.backward()
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
finite = bool(result.total.isfinite() and frames.grad.isfinite().all())
print(json.dumps({"grown_bytes": 1024 * (after - before), "finite": finite}))
"""


@pytest.mark.slow
def test_memory_of_4096_videos_is_bounded():
    """The direct path takes 2.7 GiB; one matrix of 4,096 x 32,768 similarities alone is 512 MiB.

    Freed tensors go back to the system at once here (the C library's threshold for it is fixed),
    so that the peak tells what was live, not how the heap was fragmented.
    """
    run = subprocess.run(
        [sys.executable, "-c", MEMORY_PROGRAM, "4096"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout)
    assert seen["finite"]
    assert seen["grown_bytes"] < 512 * 2**20


# The baseline ------------------------------------------------------------------------------------


def test_mse_baseline():
    videos, frames = features()
    expected = np.mean(
        [
            ((s - z) ** 2).sum()
            for s, own in zip(videos.numpy(), frames.numpy(), strict=True)
            for z in own
        ]
    )
    assert mse_baseline(videos, frames).item() == pytest.approx(expected)
    expected = np.mean(
        [
            2 - 2 * sim(s, z)
            for s, own in zip(videos.numpy(), frames.numpy(), strict=True)
            for z in own
        ]
    )
    assert mse_baseline(videos, frames, unit=True).item() == pytest.approx(expected)
    inputs = (videos.requires_grad_(), frames.requires_grad_())
    assert torch.autograd.gradcheck(mse_baseline, inputs)


def test_objective_of_kind_mse_minimises_the_baseline_and_still_reports():
    videos, frames = features()
    frames.requires_grad_()
    result = Objective(kind="mse", mse_unit=True)(videos, frames)
    assert result.total.item() == mse_baseline(videos, frames, unit=True).item()
    assert result.forward.item() == Objective()(videos, frames).forward.item()
    assert result.total.requires_grad
    assert not result.forward.requires_grad


# Configuration and refusals ----------------------------------------------------------------------


def test_presets_and_overrides_from_toml_values():
    tuned = parse_dataclass(Objective, {"preset": "tuned"}, "recipe.toml: objective")
    assert (tuned.tau, tuned.tau_nn, tuned.penalty_reduction) == (0.1, 0.1, "mean")
    paper = parse_dataclass(Objective, {}, "recipe.toml: objective")
    assert (paper.tau, paper.tau_nn, paper.penalty_reduction) == (1.0, 1.0, "sum")
    values = {"preset": "tuned", "tau": 1, "terms": ["backward"]}
    mixed = parse_dataclass(Objective, values, "recipe.toml: objective")
    assert (mixed.tau, mixed.tau_nn, mixed.terms) == (1.0, 0.1, ("backward",))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "best"}, "preset is 'best'; allowed: 'paper' or 'tuned'"),
        ({"kind": "infonce"}, "kind is 'infonce'; allowed: 'cycle_contrast' or 'mse'"),
        ({"tau": 0}, "tau is 0.0; allowed: a finite number above 0"),
        ({"tau_nn": float("inf")}, "tau_nn is inf"),
        ({"weights": [1.0]}, r"weights is \(1.0,\); allowed: 3 finite numbers"),
        ({"weights": [1.0, -1.0, 0.0]}, "weights is"),
        ({"terms": ["forward", "sideways"]}, "terms is .*allowed: some of forward, backward"),
        ({"terms": []}, r"terms is \(\)"),
        ({"terms": ["forward", "forward"]}, "terms is"),
        ({"forward_reduction": "max"}, "forward_reduction is 'max'; allowed: 'mean' or 'sum'"),
        ({"penalty_reduction": "max"}, "penalty_reduction is 'max'"),
        ({"detach": "all"}, "detach is 'all'"),
        ({"max_pairs": 0}, "max_pairs is 0"),
        ({"temperature": 1}, "unknown key 'temperature'"),
    ],
)
def test_bad_configuration_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        parse_dataclass(Objective, values, "recipe.toml: objective")


@pytest.mark.parametrize(
    ("videos", "frames"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 3)),
        (torch.zeros(2, 3), torch.zeros(3, 1, 3)),
        (torch.zeros(2, 3), torch.zeros(2, 1, 4)),
        (torch.zeros(0, 3), torch.zeros(0, 1, 3)),
        (torch.zeros(2, 3), torch.zeros(2, 0, 3)),
        (torch.zeros(2, 3).long(), torch.zeros(2, 1, 3)),
    ],
)
def test_bad_inputs_are_refused(videos, frames):
    for function in (cycle_contrast, mse_baseline):
        with pytest.raises(InputError, match=r"allowed: videos \(N, D\) and frames \(N, L, D\)"):
            function(videos, frames)


def test_two_views_wants_two():
    with pytest.raises(InputError, match="two_views got 1 views"):
        Objective().two_views(torch.zeros(1, 2, 3), torch.zeros(1, 2, 1, 3))
