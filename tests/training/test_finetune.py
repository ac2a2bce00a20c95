"""Fine-tuning: what it learns, writes and refuses; stopped, killed, and in several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from project import ROOT
from tiny_finetune import (
    DATA,
    SMALL,
    STEPS,
    TintedVideos,
    arguments,
    call,
    disturbed_command,
    save_tiny_model,
)
from tiny_run import final_tensors, trained_steps

from ccl_hub import CCLModel
from ccl_hub.config import Preprocessing
from training.distributed.world import World
from training.evaluation.labelled_sets import EvaluationSet
from training.evaluation.models import load_models
from training.evaluation.results import read_results
from training.frames.rendered import RenderedVideos
from training.pretrain import main as pretrain_main
from training.recipes.finetuning import read_finetune_recipe
from training.run.checkpoints import list_checkpoints
from training.run.loop import Outcome
from training.tasks.classifier import load_classifier
from training.tasks.finetune_runs import finetune

LIMIT_SECONDS = 240
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory):
    """A finished run, and what it said."""
    out = tmp_path_factory.mktemp("undisturbed")
    done = call(*arguments(model, out))
    assert done.returncode == 0, done.stderr
    return out, done


# A whole run -------------------------------------------------------------------------------------


def test_a_run_writes_a_model_its_classes_results_and_a_table(undisturbed, model):
    out, done = undisturbed
    assert [line["step"] for line in trained_steps(out)] == list(range(1, STEPS + 1))
    (result,) = read_results([out / "results"])
    assert (result.kind, result.model.label, result.model.seed) == ("finetune", "tiny", 0)
    assert (result.data.name, result.data.test_videos, result.data.classes) == ("rendered", 16, 8)
    figures = {one.metric: one.value for one in result.measurements}
    assert figures.keys() == {"top-1", "top-5"}
    assert {(one.task, one.level, one.queries) for one in result.measurements} == {
        ("finetune", "video", 16)
    }
    counts = np.array(result.confusion.counts)
    assert counts.sum() == 16
    assert np.trace(counts) / 16 == figures["top-1"]
    assert [len(result.curves[name]) for name in ("loss", "training accuracy")] == [3, 3]
    assert result.settings["recipe"]["optim"]["batch"] == 8
    assert f"| rendered (16) | tiny | 1 | {100 * figures['top-1']:.1f} |" in done.stdout

    trained, before = CCLModel.from_pretrained(out), CCLModel.from_pretrained(model)
    assert trained.preprocessing == SMALL
    assert not torch.equal(trained.trunk.conv1.weight, before.trunk.conv1.weight)
    assert torch.equal(trained.projection.fc1.weight, before.projection.fc1.weight)
    classifier, record = load_classifier(out)
    assert classifier.fc.weight.shape == (8, 8)
    assert record.classes == tuple(sorted(RenderedVideos(8, SMALL).videos.classes))
    assert record.figures == figures
    assert str(ROOT) not in (out / "classes.json").read_text() + (out / "config.json").read_text()
    supervised = next(load_models([f"kinetics-supervised={out}"]))
    assert supervised.record.reference
    assert "rendered, with labels, from tiny" in supervised.record.description


def test_testing_the_folder_again_gives_the_same_figures(undisturbed, tmp_path):
    out, done = undisturbed
    again = call("--evaluate", str(out), *DATA, "--results", str(tmp_path))
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout
    (first,), (second,) = read_results([out / "results"]), read_results([tmp_path])
    assert second.measurements == first.measurements
    assert second.confusion == first.confusion
    other = call("--evaluate", str(out), *DATA, "--metric", "f-measure", "--average", "micro")
    assert "| top-1 | top-5 | micro-F1 |" in other.stdout


def test_several_models_and_seeds_are_runs_of_their_own(model, tmp_path):
    words = arguments(model, tmp_path, "--model", "random-init", "--seeds", "0,1")
    done = call(*words, "--set", "schedule.epochs=2", "--metric", "f-measure")
    assert done.returncode == 0, done.stderr
    results = read_results([tmp_path / "results"])
    rows = {(one.model.label, one.model.seed) for one in results}
    assert rows == {(label, seed) for label in ("tiny", "random-init") for seed in (0, 1)}
    metrics = {measurement.metric for one in results for measurement in one.measurements}
    assert metrics == {"top-1", "top-5", "macro-F1"}
    assert "| rendered (16) | random-init | 2 |" in done.stdout
    folder = tmp_path / "random-init--seed1--rendered"
    assert load_classifier(folder)[1].start.seed == 1
    assert len({one.settings["recipe"]["seed"] for one in results}) == 2


@pytest.mark.slow
def test_it_learns_classes_that_can_be_told(model, tmp_path):
    # Long enough that rounding, which differs between CPUs and versions of torch, decides nothing:
    # with other seeds, 0.875 to 1.
    recipe = read_finetune_recipe("smoke", ("optim.batch=16", "schedule.epochs=48"))
    recipe = replace(
        recipe,
        clip=replace(recipe.clip, crop_px=0),
        augment=replace(recipe.augment, jitter=0.0, grey=0.0),
        optim=replace(recipe.optim, lr=0.1),
        test=replace(recipe.test, every_epochs=24),
        log=replace(recipe.log, tensorboard=False, curves=False),
    )
    source = TintedVideos(96, SMALL)
    labelled = EvaluationSet(source, source.videos)
    (named,) = load_models([str(model)])
    outcome, result = finetune(recipe, named, labelled, tmp_path, World())
    assert outcome is Outcome.FINISHED
    figures = {one.metric: one.value for one in result.measurements}
    assert figures["top-1"] >= 0.75  # chance is 1 in 8
    loss = result.curves["loss"]
    assert loss[-1] < loss[0] - 1.0
    assert result.curves["training accuracy"][-1] > 0.75
    assert result.curves["test top-1"][-1] == figures["top-1"]
    assert len(result.curves["test top-1"]) == 2


# Stopped and killed ------------------------------------------------------------------------------


def disturb(words, number, nth):
    done = subprocess.run(
        disturbed_command(number.name, nth, words),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode == (75 if number == signal.SIGTERM else -number), done.stderr


def test_sigterm_and_kill_9_change_nothing(undisturbed, model, tmp_path):
    words = arguments(model, tmp_path, "--resume", "auto")
    disturb(words, signal.SIGTERM, 4)
    assert len(trained_steps(tmp_path)) == 4
    assert not (tmp_path / "classes.json").exists()
    disturb(words, signal.SIGKILL, 5)
    done = call(*words)
    assert done.returncode == 0, done.stderr
    out, first = undisturbed
    assert trained_steps(tmp_path) == trained_steps(out)
    ours, theirs = final_tensors(tmp_path), final_tensors(out)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
    assert done.stdout == first.stdout
    for name in ("model.safetensors", "classifier.safetensors"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def test_a_finished_run_resumes_to_nothing_and_says_the_same(undisturbed, model):
    out, first = undisturbed
    before = (out / "model.safetensors").read_bytes()
    done = call(*arguments(model, out, "--resume", "auto"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == first.stdout
    assert (out / "model.safetensors").read_bytes() == before
    assert len(trained_steps(out)) == STEPS


def test_checkpoints_of_another_start_or_recipe_or_kind_are_refused(undisturbed, tmp_path, capsys):
    newest = str(list_checkpoints(undisturbed[0] / "checkpoints")[-1])
    other = save_tiny_model(tmp_path / "tiny", seed=1)
    same = save_tiny_model(tmp_path / "same")
    for start, changes, message in (
        (other, (), "went on from other weights"),
        (same, ("optim.lr=0.5",), "differs in optim.lr (0.02 there, 0.5 here)"),
        (same, ("data.test_share=0.4",), "differs in data.test_share (0.3 there, 0.4 here)"),
    ):
        words = arguments(start, tmp_path / "run", "--resume", newest, changes=changes)
        done = call(*words)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
    words = ["smoke", "--out", str(tmp_path / "run"), "--resume", newest]
    assert pretrain_main([*words, "--set", "log.curves=false"]) == 2
    assert "a checkpoint of 'finetune', and this is 'pretrain'" in capsys.readouterr().err


def test_resident_frames_train_as_frames_read_one_by_one(undisturbed, model, tmp_path):
    done = call(*arguments(model, tmp_path, changes=("data.cache=ram",)))
    assert done.returncode == 0, done.stderr
    ours, theirs = final_tensors(tmp_path), final_tensors(undisturbed[0])
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_run_on_a_gpu_stops_goes_on_and_is_tested_again(model, tmp_path):
    changes = ("precision.device=cuda", "precision.autocast=bf16", "data.cache=gpu")
    stopped = call(*arguments(model, tmp_path, changes=(*changes, "budget.max_seconds=0.01")))
    assert stopped.returncode == 75, stopped.stderr
    done = call(*arguments(model, tmp_path, "--resume", "auto", changes=changes))
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in trained_steps(tmp_path)] == list(range(1, STEPS + 1))
    assert call("--evaluate", str(tmp_path), *DATA).returncode == 0


# Processes ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_train_and_test_as_one_does(model, tmp_path):
    """Under torchrun; frozen BatchNorm, as its statistics would be each process's own."""
    changes = ("network.freeze_batchnorm=true", "optim.chunks=2")
    changes = (*changes, "schedule.epochs=2", "optim.lr=0.05")
    one = call(*arguments(model, tmp_path / "one", changes=changes))
    assert one.returncode == 0, one.stderr
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    environment |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    words = arguments(model, tmp_path / "two", changes=changes)
    two = subprocess.run(
        [sys.executable, *launcher, "--nproc-per-node", "2", "-m", "training.finetune", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert two.returncode == 0, two.stderr
    ours, theirs = final_tensors(tmp_path / "two"), final_tensors(tmp_path / "one")
    start = CCLModel.from_pretrained(model).state_dict()
    moved = theirs["model/backbone.trunk.conv1.weight"] - start["trunk.conv1.weight"]
    assert moved.abs().max() > 1e-3
    for name in theirs:
        if not name.startswith("random/"):
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-5)
    for mine, other in zip(
        trained_steps(tmp_path / "two"), trained_steps(tmp_path / "one"), strict=True
    ):
        assert mine["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert mine["accuracy"] == pytest.approx(other["accuracy"])
    (first,), (second,) = (read_results([tmp_path / n / "results"]) for n in ("one", "two"))
    assert second.measurements == first.measurements
    assert second.settings["processes"] == 2
    assert two.stdout == one.stdout


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--set", "optim.lrr=1"), "optim: unknown key 'lrr'; allowed are"),
        (("--set", "objective.kind=mse"), "'objective' belongs to a recipe of pretraining"),
        (("--set", "preprocessing.crop_px=32"), "preprocessing is that of the model"),
        (("--set", "augment.crop_px=32"), "augment.crop_px is 32, which has no effect here"),
        (("--set", "clip.crop_px=64"), "clip.crop_px is 64, and the crop of tiny is 32"),
        (("--set", "optim.batch=33"), "32 usable videos, fewer than optim.batch = 33"),
        (("--set", "data.cache=gpu"), "data.cache is 'gpu' but training runs on cpu"),
        (("--set", "test.metric=recall"), "allowed: 'accuracy' or 'f-measure'"),
        (("--data", "/nonexistent"), "/nonexistent: no such data; give a packed set"),
        (("--data", "rendered:20"), "has no video; add some or remove the class"),
        (("--data", "rendered:72"), "data sets are named rendered, rendered"),
        (("--model", "nowhere"), "'nowhere' is neither a known name"),
        (("--seeds", "0,1", "--resume", "x"), "--resume x is one checkpoint for 2 runs"),
        (("--resume", "x.safetensors"), "no such checkpoint"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(model, tmp_path, extra, message):
    done = call(*arguments(model, tmp_path / "run", *extra))
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "run").exists()


def test_videos_without_classes_are_refused(packed, tmp_path):
    model = save_tiny_model(tmp_path / "tiny", preprocessing=Preprocessing(clip_frames=4))
    words = ["smoke", "--model", str(model), "--data", str(packed), "--out", str(tmp_path / "run")]
    done = call(*words, "--set", "log.curves=false")
    assert done.returncode == 2
    assert "has no class" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("words", [(), ("--model", "x"), ("paper", "--evaluate", "x")])
def test_arguments_that_do_not_go_together_are_refused(words):
    done = call(*words, *DATA)
    assert done.returncode == 2
    assert (
        "give --model and --out, or --evaluate" in done.stderr or "leave out recipe" in done.stderr
    )


@pytest.mark.parametrize("name", ["model.safetensors", "classifier.safetensors", "classes.json"])
def test_a_damaged_or_missing_part_is_refused(undisturbed, tmp_path, name):
    for part in ("model.safetensors", "classifier.safetensors", "classes.json", "config.json"):
        (tmp_path / part).write_bytes((undisturbed[0] / part).read_bytes())
    content = bytearray((tmp_path / name).read_bytes())
    content[-3] ^= 1
    (tmp_path / name).write_bytes(content)
    done = call("--evaluate", str(tmp_path), *DATA)
    assert done.returncode == 2
    assert name in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    (tmp_path / name).unlink()
    done = call("--evaluate", str(tmp_path), *DATA)
    assert done.returncode == 2
    assert name in done.stderr


def test_a_set_with_other_classes_is_refused(undisturbed, tmp_path):
    for part in ("model.safetensors", "classifier.safetensors", "config.json"):
        (tmp_path / part).write_bytes((undisturbed[0] / part).read_bytes())
    text = (undisturbed[0] / "classes.json").read_text()
    (tmp_path / "classes.json").write_text(text.replace("disc circle", "disc spiral", 1))
    done = call("--evaluate", str(tmp_path), *DATA)
    assert done.returncode == 2
    assert "they differ in disc circle, disc spiral" in done.stderr
