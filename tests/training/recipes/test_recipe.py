"""Recipes: the shipped ones, strict reading, and --set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ccl_hub.config import parse_dataclass
from ccl_hub.errors import ConfigError
from training.recipes.pretraining import (
    Recipe,
    as_begun,
    differing_keys,
    read_recipe,
)
from training.recipes.toml import RECIPES_FOLDER

SHIPPED = sorted(path.stem for path in RECIPES_FOLDER.glob("*.toml"))


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def test_the_promised_recipes_are_shipped():
    promised = {"k400", "k400_tuned", "ucf101", "ucf101_tuned", "mini", "lite0", "r18_mini"}
    assert promised | {"smoke"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_read_and_survive_json(name):
    recipe = read_recipe(name)
    assert recipe.name == name
    assert recipe.description
    again = parse_dataclass(Recipe, json.loads(json.dumps(recipe.to_dict())), "json")
    assert again == recipe


@pytest.mark.parametrize(
    ("name", "epochs", "lr", "weight_decay"),
    [("k400", 80, 1e-2, 1e-4), ("ucf101", 100, 1e-4, 5e-3)],
)
def test_literal_recipes_are_those_of_section_4_1(name, epochs, lr, weight_decay):
    recipe = read_recipe(name)
    assert recipe.schedule.epochs == epochs
    assert (recipe.schedule.kind, recipe.schedule.warmup_epochs) == ("step", 0.0)
    assert (recipe.schedule.step_epochs, recipe.schedule.step_factor) == (20.0, 0.1)
    assert (recipe.optim.kind, recipe.optim.lr) == ("sgd", lr)
    assert (recipe.optim.weight_decay, recipe.optim.batch) == (weight_decay, 48)
    assert (recipe.objective.preset, recipe.objective.tau, recipe.objective.tau_nn) == (
        "paper",
        1,
        1,
    )
    assert recipe.objective.weights == (0.2, 0.2, 0.4)
    assert recipe.objective.penalty_reduction == "sum"
    assert (recipe.augment.kind, recipe.augment.crop_px) == ("paper", 112)
    assert (recipe.data.views, recipe.data.split) == (1, "train")
    assert (recipe.optim.momentum, recipe.optim.clip_norm) == (0.9, None)
    assert recipe.optim.decay_norm_and_bias
    assert recipe.objective.terms == ("forward", "backward", "penalty")
    assert recipe.augment.flip_probability == 0
    assert not recipe.model.projection_norm
    assert recipe.stages == ()
    assert recipe.preprocessing.clip_frames == 8
    assert recipe.preprocessing.frame_interval_seconds == 0.16


def test_no_recipe_of_a_benchmark_trains_on_its_test_videos():
    """A pack of the whole set, as validation wants it, once was trained on whole."""
    for name in ("k400", "k400_tuned", "ucf101", "ucf101_tuned"):
        assert read_recipe(name).data.split == "train"


def test_tuned_recipes_use_the_tuned_objective():
    for name in ("k400_tuned", "ucf101_tuned", "mini"):
        recipe = read_recipe(name)
        assert (recipe.objective.preset, recipe.objective.tau) == ("tuned", 0.1)
        assert (recipe.augment.kind, recipe.schedule.kind) == ("strong", "cosine")


def test_set_changes_values_of_every_kind_in_order(tmp_path):
    path = written(tmp_path, "seed = 1\n[optim]\nlr = 0.5\n")
    recipe = read_recipe(
        path,
        [
            "optim.lr=0.03",
            "optim.batch=12",
            "data.pack=/some/where else",
            "data.split='train'",
            "ema.decay=0.99",
            "validation.packs=['a', 'b']",
            "log.tensorboard=false",
            "optim.lr=0.04",
            "seed=7",
        ],
    )
    assert (recipe.optim.lr, recipe.optim.batch, recipe.seed) == (0.04, 12, 7)
    assert (recipe.data.pack, recipe.data.split) == ("/some/where else", "train")
    assert (recipe.ema.decay, recipe.log.tensorboard) == (0.99, False)
    assert recipe.validation.packs == ("a", "b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lerning_rate = 1", r"mine\.toml: unknown key 'lerning_rate'; allowed are .*optim"),
        ("[optim]\nlrr = 1", r"mine\.toml: optim: unknown key 'lrr'; allowed are .*batch"),
        ("[optim]\nlr = 'fast'", r"optim: lr is 'fast', expected float"),
        ("[optim]\nbatch = 0", r"optim: batch is 0; allowed: a whole number >= 1"),
        ("[optim]\nkind = 'adam'", r"kind is 'adam'; allowed: 'sgd' or 'adamw'"),
        ("[optim]\nchunks = 99", r"chunks is 99; allowed: 1 to batch"),
        (
            "[schedule]\nepochs = 2\nwarmup_epochs = 2",
            r"warmup_epochs is 2.0; allowed: 0",
        ),
        ("[data]\npack = 'a'\nfolder = 'b'", r"pack and folder are given; give one of them"),
        ("[data]\ncache = 'disk'", r"cache is 'disk'; allowed: 'none', 'ram' or 'gpu'"),
        ("[data]\nviews = 3", r"views is 3; allowed: 1 or 2"),
        ("[ema]\ndecay = 1.0", r"decay is 1.0; allowed: 0 to below 1"),
        ("[budget]\npaces_schedule = true", r"max_seconds is missing; give both"),
        ("[[stages]]\nuntil = 0.5\ncrop_px = 56", r"stages end at \[0.5\]; allowed: rising"),
        ("[[stages]]\nuntil = 1.0\ncrop_px = 16", r"crop_px is 16; allowed: 32 to 512"),
        ("[precision]\nautocast = 'fp8'", r"autocast is 'fp8'; allowed: 'none' or 'bf16'"),
        ("[objective]\npreset = 'best'", r"preset is 'best'; allowed: 'paper' or 'tuned'"),
        ("[data\n", r"mine\.toml: is not TOML"),
    ],
)
def test_bad_recipes_get_one_clear_line(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_recipe(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_missing_recipe_lists_those_there_are():
    with pytest.raises(ConfigError, match=r"nonesuch: no such recipe; .*k400, .*smoke"):
        read_recipe("nonesuch")


@pytest.mark.parametrize("change", ["optim.lr", "=3", "description.x=3"])
def test_bad_changes_are_refused(change):
    with pytest.raises(ConfigError, match="--set"):
        read_recipe("smoke", [change])


def test_stages_choose_the_crop_by_progress(tmp_path):
    stages = "".join(
        f"[[stages]]\nuntil = {until}\ncrop_px = {px}\n" for until, px in ((0.5, 56), (1.0, 112))
    )
    recipe = read_recipe(written(tmp_path, stages))
    assert [recipe.crop_px(p) for p in (0.0, 0.49, 0.5, 0.99, 1.0)] == [56, 56, 112, 112, 112]
    assert read_recipe("k400").crop_px(0.3) == 112


def test_differing_keys_name_what_decides_the_weights_only():
    old = read_recipe("smoke").to_dict()
    new = read_recipe("smoke", ["optim.lr=0.5", "seed=3", "log.every_steps=9", "data.workers=5"])
    assert differing_keys(old, new.to_dict()) == [
        "optim.lr (0.05 there, 0.5 here)",
        "seed (0 there, 3 here)",
    ]
    assert differing_keys(old, old) == []


def test_recipes_train_with_the_frame_on_screen_unless_they_say_otherwise(tmp_path):
    for name in SHIPPED:
        assert read_recipe(name).preprocessing.frame_choice == "on_screen"
    mine = written(tmp_path, "[preprocessing]\nclip_frames = 4\n")
    assert read_recipe(mine).model_config.preprocessing.frame_choice == "on_screen"
    chosen = read_recipe(mine, ["preprocessing.frame_choice=nearest"])
    assert chosen.preprocessing.frame_choice == "nearest"
    with pytest.raises(ConfigError, match="preprocessing is 3, expected a table"):
        read_recipe("smoke", ["preprocessing=3"])


def test_a_run_keeps_the_frame_choice_that_it_began_with(caplog):
    recipe = read_recipe("smoke")
    old = recipe.to_dict()
    del old["preprocessing"]["frame_choice"]  # as runs before it have it
    assert parse_dataclass(Recipe, old, "json").preprocessing.frame_choice == "nearest"
    kept = as_begun(recipe, old)
    assert differing_keys(parse_dataclass(Recipe, old, "json").to_dict(), kept.to_dict()) == []
    assert as_begun(recipe, kept.to_dict()) == kept  # and again, from its next checkpoint
    assert "goes on with preprocessing.frame_choice 'nearest'" in caplog.text
    assert as_begun(recipe, recipe.to_dict()) is recipe
