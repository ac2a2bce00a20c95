"""Fine-tuning: its gradient, its test, its curves and its recipes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_finetune import SMALL, save_tiny_model
from torch import nn

from ccl_hub import CCLModel
from ccl_hub.config import Preprocessing
from ccl_hub.errors import ConfigError
from ccl_hub.sampling import sample_eval
from ccl_hub.transforms import to_clips
from training.clips.source import SplitSource
from training.distributed.world import World
from training.frames.rendered import RenderedVideos
from training.recipes.finetuning import FINETUNE_RECIPES, read_finetune_recipe
from training.recipes.pretraining import read_recipe
from training.recipes.toml import RECIPES_FOLDER
from training.tasks.classifier import Classifier, supervised_step
from training.tasks.finetune_runs import epoch_curves
from training.tasks.finetuning import judge, probabilities_of

SHIPPED = sorted(path.stem for path in FINETUNE_RECIPES.glob("*.toml"))
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def tiny_classifier(model, **kwargs):
    backbone = CCLModel.from_pretrained(model)
    torch.manual_seed(3)
    return Classifier(backbone, 5, **kwargs)


@pytest.mark.parametrize("chunks", [1, 3])
def test_the_gradient_is_that_of_the_mean_cross_entropy(model, chunks):
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(6, 3, 4, 32, 32, generator=generator)
    targets = torch.tensor([0, 4, 2, 2, 1, 3])
    expected = tiny_classifier(model).eval()
    logits = expected.fc(expected.backbone(clips).video)
    loss = F.cross_entropy(logits, targets)
    loss.backward()
    ours = tiny_classifier(model).eval()
    values = supervised_step(ours, clips.chunk(chunks), targets, World())
    assert values["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    hits = (logits.argmax(1) == targets).float().mean().item()
    assert values["accuracy"].item() == pytest.approx(hits)
    for (name, mine), theirs in zip(ours.named_parameters(), expected.parameters(), strict=True):
        if "projection" in name:
            assert mine.grad is None, name
        else:
            torch.testing.assert_close(mine.grad, theirs.grad, msg=name)


def test_frozen_batchnorm_keeps_its_statistics_and_trains_its_scale(model):
    classifier = tiny_classifier(model, freeze_batchnorm=True).train()
    norms = [m for m in classifier.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    before = [norm.running_mean.clone() for norm in norms]
    supervised_step(classifier, [torch.randn(4, 3, 4, 32, 32)], torch.arange(4), World())
    assert all(torch.equal(n.running_mean, b) for n, b in zip(norms, before, strict=True))
    assert all(norm.weight.grad is not None for norm in norms)
    assert tiny_classifier(model).train().backbone.trunk.bn1.training


@pytest.mark.parametrize("workers", [0, 3])
def test_a_video_is_judged_by_the_mean_softmax_of_its_uniform_clips(model, workers):
    classifier = tiny_classifier(model).eval()
    source = SplitSource(RenderedVideos(24, SMALL), "test")
    changes = (f"data.workers={workers}", "test.clips=3", "test.batch_clips=7", "clip.crop_px=0")
    recipe = replace(read_finetune_recipe("smoke", changes), preprocessing=SMALL)
    probabilities = probabilities_of(classifier, source, recipe, World())
    assert probabilities.shape == (8, 5)
    for video in range(len(source)):
        plan = sample_eval(source.seconds(video), source.duration(video), SMALL, clips=3)
        frames = torch.from_numpy(np.stack([source.read(video, row) for row in plan.indices]))
        with torch.no_grad():
            output = classifier.backbone(to_clips(frames, SMALL)).video
        expected = classifier.fc(output).softmax(1).mean(0)
        np.testing.assert_allclose(probabilities[video], expected.detach().numpy(), atol=1e-5)


def test_smaller_clips_are_the_shrunk_crop_and_the_mode_is_restored(model):
    preprocessing = Preprocessing(clip_frames=4)
    classifier = Classifier(
        CCLModel(replace(CCLModel.from_pretrained(model).config, preprocessing=preprocessing)), 8
    ).train()
    seen = []
    classifier.backbone.trunk.register_forward_hook(lambda m, x, y: seen.append(x[0].shape))
    recipe = read_finetune_recipe("smoke", ("test.clips=1", "data.workers=0"))
    source = SplitSource(RenderedVideos(24, preprocessing), "test")
    figures = judge(classifier, source, replace(recipe, preprocessing=preprocessing), World())
    assert {tuple(shape[1:]) for shape in seen} == {(3, 56, 56)}
    assert classifier.training
    assert figures.by_metric.keys() == {"top-1", "top-5"}


def test_curves_are_means_over_epochs_and_tests_only_if_several():
    steps = [
        {"kind": "train", "step": i + 1, "epoch": i // 2, "loss": float(i), "accuracy": i / 4}
        for i in range(4)
    ]
    test = {"kind": "validation", "step": 4, "test": {"top-1": 0.5}}
    assert epoch_curves([*steps, test]) == {
        "loss": [0.5, 2.5],
        "training accuracy": [0.125, 0.625],
    }
    assert epoch_curves([test, *steps, test])["test top-1"] == [0.5, 0.5]


# Recipes -----------------------------------------------------------------------------------------


def test_the_paper_recipe_is_that_of_section_4_1():
    recipe = read_finetune_recipe("paper")
    assert (recipe.optim.kind, recipe.optim.momentum, recipe.optim.batch) == ("sgd", 0.9, 48)
    assert (recipe.optim.lr, recipe.optim.weight_decay) == (1e-2, 1e-4)
    schedule = recipe.schedule
    assert (schedule.kind, schedule.epochs, schedule.step_epochs) == ("step", 35, 20)
    assert (schedule.step_factor, recipe.test.clips) == (0.1, 10)
    assert (recipe.augment.kind, recipe.augment.flip_probability) == ("paper", 0.0)
    assert not recipe.network.freeze_batchnorm


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_read_and_survive_json(name):
    recipe = read_finetune_recipe(name)
    assert recipe.name == name
    assert recipe.description
    values = json.loads(json.dumps(recipe.to_dict()))
    assert values["schedule"]["epochs"] >= 1


def test_the_two_kinds_of_recipe_are_kept_apart():
    assert {"paper", "kinetics_supervised", "smoke"} <= set(SHIPPED)
    with pytest.raises(ConfigError, match="belongs to a recipe of pretraining; give one of fine"):
        read_finetune_recipe(RECIPES_FOLDER / "ucf101.toml")
    with pytest.raises(ConfigError, match=r"no such recipe; give a TOML file or one of .*paper"):
        read_finetune_recipe("ucf101")
    with pytest.raises(ConfigError, match="unknown key"):
        read_recipe(FINETUNE_RECIPES / "paper.toml", ("network.freeze_batchnorm=true",))
