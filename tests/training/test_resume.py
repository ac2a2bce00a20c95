"""A run that was stopped, killed or damaged goes on exactly: same order, losses and weights."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from project import ROOT
from tiny_run import (
    MOMENTS,
    STEPS,
    command,
    disturbed_command,
    final_tensors,
    run,
    trained_steps,
)

from ccl_hub import CCLModel
from ccl_hub._util.files import remove_leftovers
from ccl_hub.errors import TrainingError
from training.run.checkpoints import (
    checkpoint_path,
    list_checkpoints,
    load_newest,
    optimizer_state,
    prune,
    read_checkpoint,
    restore_optimizer,
    write_checkpoint,
)
from training.run.model_folder import export

# Stops the process by SIGKILL inside the n-th checkpoint: half written, or whole but not renamed.
KILL_INSIDE = """
import os, pathlib, signal, sys
from ccl_hub._util import files
from training import pretrain
from training.run import checkpoints

countdown, where = int(sys.argv[1]), sys.argv[2]
write = checkpoints.write_atomically

def killing(path, payload):
    global countdown
    countdown -= 1
    if countdown:
        return write(path, payload)
    def half(file):
        file.write(payload[: len(payload) // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    if where == "half":
        return write(path, half)
    pathlib.Path.replace = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)
    return write(path, payload)

checkpoints.write_atomically = killing
sys.exit(pretrain.main(sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    done = run(out)
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in trained_steps(out)] == list(range(1, STEPS + 1))
    return out


def assert_same(out, undisturbed):
    """Every logged value of every step, and every bit of the final checkpoint."""
    assert trained_steps(out) == trained_steps(undisturbed)
    assert_tensors_same(out, undisturbed)


def assert_tensors_same(out, undisturbed):
    """Every bit of the final checkpoint."""
    ours, theirs = final_tensors(out), final_tensors(undisturbed)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def disturb(out, number, moment, nth):
    """Go on with a run that gets a signal at the nth step from here; return the steps it saved."""
    done = subprocess.run(
        disturbed_command(out, number.name, moment, nth, "--resume", "auto"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == (75 if number == signal.SIGTERM else -number), done.stderr
    saved = list_checkpoints(out / "checkpoints")
    return read_checkpoint(saved[-1]).state["step"] if saved else 0


def disturbed_twice_and_finished(out, seed):
    """SIGTERM at one random step, SIGKILL at a later one, then to the end."""
    rng = random.Random(seed)  # noqa: S311
    first = rng.randint(1, STEPS // 2)
    assert disturb(out, signal.SIGTERM, rng.choice(MOMENTS), first) == first
    second = rng.randint(1, STEPS - first - 1)
    kept = disturb(out, signal.SIGKILL, rng.choice(MOMENTS), second)
    assert first <= kept < STEPS
    done = run(out, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    assert f"at step {kept}" in done.stderr


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sigterm_and_kill_9_at_random_steps_change_nothing(tmp_path, undisturbed, seed):
    disturbed_twice_and_finished(tmp_path, seed)
    assert_same(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 4])
def test_kill_9_from_outside_at_random_moments_changes_nothing(tmp_path, undisturbed, seed):
    rng = random.Random(seed)  # noqa: S311
    for _ in range(3):
        steps = len(trained_steps(tmp_path))
        process = subprocess.Popen(command(tmp_path, "--resume", "auto"), cwd=ROOT)
        deadline = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < deadline:
            if len(trained_steps(tmp_path)) > steps:
                break
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.wait(timeout=60)
    assert run(tmp_path, "--resume", "auto").returncode == 0
    assert_same(tmp_path, undisturbed)


@pytest.mark.parametrize(("nth", "where"), [(1, "half"), (3, "half"), (3, "whole")])
def test_kill_9_inside_a_checkpoint_changes_nothing(tmp_path, undisturbed, nth, where):
    arguments = command(tmp_path)[3:]
    killed = subprocess.run(
        [sys.executable, "-c", KILL_INSIDE, str(nth), where, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = tmp_path / "checkpoints"
    assert len(list_checkpoints(folder)) == min(nth - 1, 2)
    assert len(list(folder.glob(".*.tmp"))) == 1
    done = run(tmp_path, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    assert not list(folder.glob(".*.tmp"))
    assert_same(tmp_path, undisturbed)


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_taken(tmp_path, undisturbed):
    assert disturb(tmp_path, signal.SIGTERM, "after the update", 10) == 10
    before, newest = list_checkpoints(tmp_path / "checkpoints")
    content = bytearray(newest.read_bytes())
    content[-100] ^= 1
    newest.write_bytes(content)
    done = run(tmp_path, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    assert f"{newest}: is damaged, as its sha256 is" in done.stderr
    assert f"resumed from {before}" in done.stderr
    assert_same(tmp_path, undisturbed)


def test_a_checkpoint_of_another_recipe_is_refused_naming_the_keys(undisturbed, tmp_path):
    newest = list_checkpoints(undisturbed / "checkpoints")[-1]
    changes = ("optim.lr=0.5", "seed=4", "log.every_steps=2")
    done = run(tmp_path, "--resume", str(newest), changes=changes)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert (
        "which differs in optim.lr (0.05 there, 0.5 here); seed (0 there, 4 here)" in done.stderr
    )
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_from_before_the_frame_choice_goes_on_as_it_began(tmp_path):
    """Its recipe of that name asks for another rule by now; train and serve stay alike."""
    assert disturb(tmp_path, signal.SIGTERM, "after the update", 2) == 2
    (path,) = list_checkpoints(tmp_path / "checkpoints")
    checkpoint = read_checkpoint(path)
    recipe = checkpoint.state["recipe"]
    assert recipe["preprocessing"].pop("frame_choice") == "on_screen"
    write_checkpoint(path, checkpoint.tensors, checkpoint.state)
    done = run(tmp_path, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    assert "goes on with preprocessing.frame_choice 'nearest'" in done.stderr
    (*_, last) = list_checkpoints(tmp_path / "checkpoints")
    assert read_checkpoint(last).state["recipe"]["preprocessing"]["frame_choice"] == "nearest"
    assert run(tmp_path, "--resume", "auto").returncode == 0
    model = export(load_newest(tmp_path / "checkpoints"), tmp_path / "model")
    assert model.preprocessing.frame_choice == "nearest"
    assert '"frame_choice": "nearest"' in (tmp_path / "model" / "config.json").read_text()


def test_a_checkpoint_of_other_data_is_refused(undisturbed, tmp_path):
    newest = list_checkpoints(undisturbed / "checkpoints")[-1]
    checkpoint = read_checkpoint(newest)
    other = checkpoint.state | {"data": checkpoint.state["data"] | {"fingerprint": "0" * 64}}
    path = checkpoint_path(tmp_path / "checkpoints", 3)
    write_checkpoint(path, checkpoint.tensors, other)
    done = run(tmp_path, "--resume", "auto")
    assert done.returncode == 2
    assert "trained on other data" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def test_a_fresh_run_does_not_overwrite_an_old_one(undisturbed):
    done = run(undisturbed)
    assert done.returncode == 2
    assert "holds checkpoints of an earlier run; go on with --resume auto" in done.stderr


def test_a_finished_run_resumes_to_nothing(undisturbed):
    before = final_tensors(undisturbed)
    done = run(undisturbed, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    assert trained_steps(undisturbed)[-1]["step"] == STEPS
    after = final_tensors(undisturbed)
    assert all(torch.equal(after[name], before[name]) for name in before)


# Checkpoint files --------------------------------------------------------------------------------


def test_checkpoints_keep_every_dtype_shape_and_value(tmp_path):
    tensors = {
        "a/half": torch.randn(3, 4, dtype=torch.float16),
        "a/bfloat": torch.randn(2, dtype=torch.bfloat16),
        "b/scalar": torch.tensor(7.0),
        "b/empty": torch.empty(0, 5),
        "c/bytes": torch.get_rng_state(),
        "c/count": torch.tensor(2**40),
        "c/last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }
    path = checkpoint_path(tmp_path, 12)
    write_checkpoint(path, tensors, {"step": 12, "nested": {"x": [1, 2.5, None, "é"]}})
    back = read_checkpoint(path)
    assert back.state == {"step": 12, "nested": {"x": [1, 2.5, None, "é"]}}
    assert back.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back.tensors[name].dtype == tensor.dtype
        assert torch.equal(back.tensors[name], tensor)
    assert back.group("a").keys() == {"half", "bfloat"}


@pytest.mark.parametrize("share", [0.001, 0.3, 0.6, 0.999])
def test_one_flipped_bit_anywhere_is_noticed(tmp_path, share):
    path = checkpoint_path(tmp_path, 1)
    write_checkpoint(path, {"w": torch.randn(50)}, {"step": 1, "recipe": {"lr": 0.125}})
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 1
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"damaged|not a checkpoint|header says"):
        read_checkpoint(path)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_files_are_noticed(tmp_path, share):
    path = checkpoint_path(tmp_path, 1)
    write_checkpoint(path, {"w": torch.randn(50)}, {"step": 1})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(TrainingError, match="damaged or not a checkpoint"):
        read_checkpoint(path)


def test_the_newest_by_number_wins_and_old_ones_go(tmp_path):
    for step in (9, 100_000_000, 99_999_999, 10):
        write_checkpoint(checkpoint_path(tmp_path, step), {"w": torch.zeros(1)}, {"step": step})
    (tmp_path / ".step-00000011.safetensors.abc.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    newest = load_newest(tmp_path)
    assert newest is not None
    assert newest.state["step"] == 100_000_000
    remove_leftovers(tmp_path)
    prune(tmp_path, keep=2, step=100_000_000)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["notes.txt", "step-100000000.safetensors", "step-99999999.safetensors"]


def test_a_later_damaged_checkpoint_does_not_crowd_out_the_one_just_written(tmp_path):
    """Once the checkpoint just written went, and the damaged one stayed."""
    checkpoint_path(tmp_path, 12).write_bytes(b"rubbish")
    for step in (8, 10):
        write_checkpoint(checkpoint_path(tmp_path, step), {"w": torch.zeros(1)}, {"step": step})
        prune(tmp_path, keep=1, step=step)
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step-00000010.safetensors",
        "step-00000012.safetensors",
    ]
    newest = load_newest(tmp_path)
    assert newest is not None
    assert newest.state["step"] == 10


def test_going_back_to_an_earlier_checkpoint_wants_a_folder_without_later_ones(
    undisturbed, tmp_path
):
    """Once the next --resume auto took the checkpoint of the abandoned attempt."""
    earlier = str(list_checkpoints(undisturbed / "checkpoints")[0])
    done = run(undisturbed, "--resume", earlier)
    assert done.returncode == 2
    assert f"holds checkpoints after step 20 (step-{STEPS:08d}.safetensors" in done.stderr
    assert run(tmp_path, "--resume", earlier).returncode == 0
    assert_tensors_same(tmp_path, undisturbed)


def test_no_checkpoint_and_only_damaged_ones_differ(tmp_path):
    assert load_newest(tmp_path / "absent") is None
    checkpoint_path(tmp_path, 1).write_bytes(b"rubbish")
    with pytest.raises(TrainingError, match="all 1 checkpoints are damaged"):
        load_newest(tmp_path)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_optimizer_state_comes_back_bit_for_bit(kind):
    def make():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 2))
        model.to(memory_format=torch.channels_last)
        if kind == "sgd":
            return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    def step(model, optimizer, seed):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()

    model, optimizer = make()
    step(model, optimizer, 1)
    tensors, values = optimizer_state(model, optimizer)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    other, restored = make()
    other.load_state_dict(model.state_dict())
    restore_optimizer(other, restored, tensors, values)
    step(model, optimizer, 2)
    step(other, restored, 2)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_optimizer_state_of_another_network_is_refused():
    model = CCLModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TrainingError, match=r"holds optimizer state for 'elsewhere\.weight'"):
        restore_optimizer(model, optimizer, {"elsewhere.weight/momentum": torch.ones(1)}, {})
