"""One process or many, one chunk or several: the same loss, gradients and weights.

Real processes under torchrun with gloo, each doing the updates of ``distributed_program.py``; the
reference is plain autograd over the whole batch, written out here.
"""

import functools
import json
import os
import subprocess
import sys

import pytest
import torch
from distributed_program import (
    BATCH,
    CASES,
    Case,
    all_clips,
    free_port,
    outcome,
    squares,
    tiny_model,
    update,
)
from project import ROOT
from safetensors.torch import load_file
from torch import nn

from ccl_hub.errors import TrainingError
from ccl_hub.model import CCLOutput
from training.distributed.world import (
    World,
    backward_step,
    gather_with_grad,
    local_batch,
    start_world,
    synchronise_batchnorm,
)
from training.objective import CycleContrast, Objective

PROGRAM = ROOT / "tests" / "support" / "training_runs" / "distributed_program.py"
LIMIT_SECONDS = 240
pytestmark = pytest.mark.usefixtures("one_thread")
CLIPS = torch.zeros(2, 3, 3, 32, 32)
FROZEN = [n for n, c in CASES.items() if not c.training and not c.autocast]


def launch(arguments, folder):
    """Start torchrun; its workers end themselves when the limit has passed."""
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    environment |= {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    environment |= {"LIMIT_SECONDS": str(LIMIT_SECONDS)}
    log = (folder / f"log{len(list(folder.glob('log*')))}").open("w+")
    command = [sys.executable, "-m", "torch.distributed.run", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log), log


def finish(launched, limit_seconds=LIMIT_SECONDS):
    """Wait for all; return (exit code, output) of each; leave nothing running."""
    codes = []
    try:
        for process, _ in launched:
            codes.append(process.wait(limit_seconds))
    finally:
        for process, _ in launched:
            if process.poll() is None:
                process.terminate()  # torchrun then ends its workers, which have own sessions
                process.wait(60)
    outputs = []
    for _, log in launched:
        with log:
            log.seek(0)
            outputs.append(log.read())
    return list(zip(codes, outputs, strict=True))


def torchrun(processes, folder, *more):
    arguments = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(processes)]
    return finish([launch([*arguments, str(PROGRAM), str(folder), *more], folder)])[0]


@pytest.fixture(scope="module", params=[1, 2, 3], ids=["K1", "K2", "K3"])
def ranks(request, tmp_path_factory):
    """What each of K processes saw: tensors by name, and facts."""
    folder = tmp_path_factory.mktemp(f"world{request.param}")
    code, output = torchrun(request.param, folder)
    assert code == 0, output
    return read_ranks(folder, request.param)


def read_ranks(folder, size):
    tensors = [load_file(folder / f"rank{r}.safetensors") for r in range(size)]
    facts = [json.loads((folder / f"rank{r}.json").read_text()) for r in range(size)]
    return tensors, facts


@functools.cache
def reference(case: Case):
    """The same update by plain autograd on the whole batch, without any code under test."""
    model = tiny_model().train(case.training)
    with torch.autocast("cpu", torch.bfloat16, enabled=case.autocast):
        outputs = [model(clips, project=True) for clips in all_clips(case.views)]
    if case.views == 1:
        result = case.objective(outputs[0].video_projections, outputs[0].frame_projections)
        losses = result._asdict()
    else:
        a, b = outputs
        ab = case.objective(a.video_projections, b.frame_projections)
        ba = case.objective(b.video_projections, a.frame_projections)
        losses = {n: (getattr(ab, n) + getattr(ba, n)) / 2 for n in CycleContrast._fields}
    spaces = [torch.cat([one.frames, one.video[:, None]], 1) for one in outputs]  # (N,T+1,D)
    if case.features_weight:
        rows = torch.cat(spaces).flatten(0, 1)
        mean, std = rows.mean(0), (rows.var(0, correction=0) + 1e-5).sqrt()
        pairs = [(s - mean) / std for s in spaces]
        pairs = [(pairs[0], pairs[-1]), (pairs[-1], pairs[0])]
        totals = [case.objective(v[:, -1], f[:, :-1]).total for v, f in pairs]
        losses["features"] = sum(totals) / 2
        losses["total"] = losses["total"] + case.features_weight * losses["features"]
    if case.frame_loss:
        losses["frame_loss"] = squares(torch.cat([one.frames for one in outputs]))
        losses["total"] = losses["total"] + losses["frame_loss"]
    losses["total"].backward()
    return outcome(model, {name: value.detach() for name, value in losses.items()})


def of_case(tensors, name):
    return {k.removeprefix(f"{name}/"): v for k, v in tensors.items() if k.startswith(f"{name}/")}


def assert_same(seen, expected):
    """Losses, gradients and state within 1e-5, or within 1e-5 of the largest gradient if < 1."""
    assert seen.keys() == expected.keys()
    largest = max(v.abs().max().item() for n, v in expected.items() if n.startswith("grad/"))
    for name, value in expected.items():
        error = (seen[name] - value).abs().max().item()
        scale = min(1.0, largest) if name.startswith("grad/") else 1.0
        assert error <= 1e-5 * scale, (name, error)


# Many processes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FROZEN)
def test_update_does_not_depend_on_the_number_of_processes(ranks, name):
    expected = reference(CASES[name])
    assert max(v.abs().max() for k, v in expected.items() if k.startswith("grad/")) > 1e-3
    for tensors in ranks[0]:
        assert_same(of_case(tensors, name), expected)


def test_all_ranks_hold_the_same_bits(ranks):
    first, *others = ranks[0]
    for other in others:
        for name in first:
            if not name.startswith("collectives/gathered_gradient"):
                assert torch.equal(first[name], other[name]), name


def test_mixed_precision_stays_near(ranks):
    """bfloat16 has 8 bits; chunks must not lose gradients to autocast's cache of weights."""
    expected = reference(CASES["plain"])
    for name in ("bf16", "bf16_chunked"):
        seen = of_case(ranks[0][0], name)
        for key, value in expected.items():
            if key.startswith("grad/"):
                near = nn.functional.cosine_similarity(seen[key].flatten(), value.flatten(), 0)
                assert near > 0.9, (name, key)
        assert seen["loss/total"].item() == pytest.approx(expected["loss/total"].item(), rel=0.02)


@pytest.mark.parametrize("name", ["batchnorm", "batchnorm_chunked"])
def test_running_statistics_use_each_clip_once_and_agree(ranks, name):
    """conv1's BatchNorm sees equal shares: the mean over ranks and chunks of what each saw."""
    chunks, size = CASES[name].chunks, len(ranks[0])
    model = tiny_model().train()
    before = model.trunk.bn1.running_mean.clone()
    images = all_clips(1)[0].transpose(1, 2).unflatten(0, (size, chunks, -1))  # (K,C,b,T,3,H,W)
    means = model.trunk.conv1(images.flatten(0, 4 - 1)).unflatten(0, (size, chunks, -1))
    means = means.detach().mean((2, 4, 5))  # (K,C,64)
    for chunk in range(chunks):
        before = 0.9 * before + 0.1 * means[:, chunk].mean(0)
    for tensors in ranks[0]:
        seen = of_case(tensors, name)
        torch.testing.assert_close(seen["state/trunk.bn1.running_mean"], before)
        assert seen["state/trunk.bn1.num_batches_tracked"].item() == 1 + chunks


def test_collectives(ranks):
    tensors, facts = ranks
    size = len(tensors)
    rows = torch.arange(size).repeat_interleave(2)[:, None].expand(-1, 3).float()
    for rank, seen in enumerate(of_case(t, "collectives") for t in tensors):
        assert torch.equal(seen["gathered"], rows)
        total = size * (size + 1) / 2  # each rank r weighs all rows by r + 1
        assert torch.equal(seen["gathered_gradient"], torch.full((2, 3), float(total)))
        fresh = torch.cat([p.detach().flatten() for p in tiny_model(seed=0).parameters()])
        torch.testing.assert_close(seen["broadcast"], fresh)
        assert (facts[rank]["rank"], facts[rank]["size"]) == (rank, size)


def test_synchronised_batchnorm_on_cpus_is_refused(ranks):
    for facts in ranks[1]:
        expected = "" if facts["size"] == 1 else "SyncBatchNorm needs CUDA, but this process"
        assert facts["sync_batchnorm"].startswith(expected)
        assert bool(facts["sync_batchnorm"]) == (facts["size"] > 1)


@pytest.mark.slow
def test_two_nodes(tmp_path):
    """Two torchruns that meet by rendezvous, as on two machines."""
    endpoint = f"127.0.0.1:{free_port()}"
    arguments = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
    arguments += ["--rdzv-endpoint", endpoint, "--rdzv-id", "test", "--local-addr", "127.0.0.1"]
    nodes = [launch([*arguments, str(PROGRAM), str(tmp_path)], tmp_path) for _ in range(2)]
    for code, output in finish(nodes):
        assert code == 0, output
    tensors, facts = read_ranks(tmp_path, 2)
    assert [f["local_rank"] for f in facts] == [0, 0]
    assert sorted(f["node"] for f in facts) == ["0", "1"]
    for seen in tensors:
        assert_same(of_case(seen, "chunked"), reference(CASES["chunked"]))


def test_unequal_shares_are_one_clear_line(tmp_path):
    code, output = torchrun(2, tmp_path, "uneven")
    assert code != 0
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert lines
    expected = "error: processes got unequal shares, as [clips, chunks, views, frames]: "
    assert set(lines) == {
        expected + "rank 0: [2, 1, 1, 3], rank 1: [3, 1, 1, 3]; use a batch that the number of "
        "processes divides, and drop a last, smaller batch."
    }


# One process -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FROZEN)
def test_one_process_without_torchrun(name):
    with start_world("cpu") as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
        assert not torch.distributed.is_initialized()
        assert_same(update(CASES[name], world), reference(CASES[name]))


def test_chunked_batchnorm_equals_chunks_run_in_turn():
    """Training mode: features, statistics and counters as if each chunk had run once."""
    world, chunks = World(), all_clips(1)[0].chunk(3)
    model, expected = tiny_model().train(), tiny_model().train()
    outputs = [expected(chunk, project=True) for chunk in chunks]
    objective = Objective(preset="tuned")
    total = objective(
        torch.cat([o.video_projections for o in outputs]),
        torch.cat([o.frame_projections for o in outputs]),
    ).total
    total.backward()
    losses = backward_step(model, objective, chunks, world)
    assert losses["total"].item() == pytest.approx(total.item(), rel=1e-6)
    gradients = {f"grad/{n}": p.grad for n, p in model.named_parameters()}
    assert_same(gradients, {f"grad/{n}": p.grad for n, p in expected.named_parameters()})
    for name, buffer in expected.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), buffer)


class Noisy(nn.Module):
    """Stands in for a model that draws random numbers; remembers what it returned."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.returned = []

    def forward(self, clips, project):
        pixels = nn.functional.dropout(clips.mean((3, 4)), 0.5)  # (B,3,T)
        frames = pixels.transpose(1, 2) * self.weight
        self.returned.append(frames.detach().clone())
        return CCLOutput(frames, frames.mean(1), frames, frames.mean(1))


def test_second_pass_repeats_the_random_numbers_of_the_first():
    torch.manual_seed(5)
    model = Noisy()
    backward_step(model, Objective(), all_clips(1)[0].chunk(3), World())
    first, second = model.returned[:3], model.returned[3:]
    assert len(second) == 3
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first[0] == 0, first[1] == 0)


def test_stale_gradients_are_dropped():
    model, clips = tiny_model().eval(), all_clips(1)[0]
    gradients = []
    for _ in range(2):
        backward_step(model, Objective(), [clips], World())
        gradients.append(model.trunk.conv1.weight.grad.clone())
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    "architecture",
    [{"projection_norm": True}, {"projection_shared": False}],
)
def test_every_weight_of_every_architecture_gets_a_gradient(architecture):
    model = tiny_model(**architecture).train()
    backward_step(model, Objective(preset="tuned"), all_clips(1)[0].chunk(2), World())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_gather_without_a_group_is_the_identity():
    x = torch.ones(2, 3)
    assert gather_with_grad(x) is x


def test_synchronised_batchnorm_of_one_process_is_left_alone():
    model = tiny_model()
    synchronise_batchnorm(model, World())
    assert type(model.trunk.bn1) is nn.BatchNorm2d


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_agrees_with_the_cpu_and_chunks_save_memory():
    world, peaks = World(device=torch.device("cuda")), []
    for chunks in (1, 4):
        model = tiny_model().eval().to(world.device)
        clips = all_clips(1)[0].to(world.device).chunk(chunks)
        torch.cuda.reset_peak_memory_stats()
        losses = backward_step(model, Objective(preset="tuned"), clips, world)
        peaks.append(torch.cuda.max_memory_allocated())
        expected = reference(CASES["plain"])
        assert losses["total"].item() == pytest.approx(expected["loss/total"].item(), rel=1e-3)
        for name, parameter in model.named_parameters():
            value = expected[f"grad/{name}"].flatten()
            near = nn.functional.cosine_similarity(parameter.grad.cpu().flatten(), value, 0)
            assert near > 0.99, name
        half = backward_step(model, Objective(preset="tuned"), clips, world, torch.bfloat16)
        assert half["total"].item() == pytest.approx(losses["total"].item(), rel=0.05)
    assert peaks[1] < peaks[0]


# Refusals ----------------------------------------------------------------------------------------


def test_batch_that_does_not_divide_is_one_clear_line():
    assert local_batch(BATCH, World(size=3)) == 4
    message = "batch is 48, which 5 processes cannot share equally; allowed: a multiple of 5."
    with pytest.raises(TrainingError, match=message):
        local_batch(48, World(size=5))
    with pytest.raises(TrainingError, match="batch is 0"):
        local_batch(0, World())


@pytest.mark.parametrize("chunks", [[], [(CLIPS,) * 3], [CLIPS, (CLIPS,) * 2]])
def test_bad_chunks_are_refused(chunks):
    with pytest.raises(TrainingError, match="allowed: at least one chunk, all of 1 or all of 2"):
        backward_step(tiny_model(), Objective(), chunks, World())


def test_float16_autocast_is_refused():
    with pytest.raises(TrainingError, match=r"dtype is torch\.float16; allowed: torch\.bfloat16"):
        backward_step(tiny_model(), Objective(), all_clips(1), World(), torch.float16)


def test_devices_that_are_not_there_are_refused(monkeypatch):
    with pytest.raises(TrainingError, match="device is 'tpu'; allowed: 'auto', 'cpu' or 'cuda'"):
        start_world("tpu").__enter__()
    monkeypatch.setenv("LOCAL_RANK", "999")
    with pytest.raises(TrainingError, match="process 999 of this machine has no GPU of its own"):
        start_world("cuda").__enter__()
