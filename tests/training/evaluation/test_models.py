"""Rows of a table by name: what can be named, what is loaded, and the reference rows."""

from __future__ import annotations

import hashlib

import pytest
import safetensors.torch
import torch
import torchvision

from ccl_hub import CCLModel
from ccl_hub.config import Architecture, CCLConfig, Preprocessing, Provenance
from ccl_hub.errors import ConfigError, ModelNotFoundError, TrainingError, WeightsError
from training.evaluation.imagenet import IMAGENET_FILE, imagenet_model, trunk_tensors
from training.evaluation.models import REFERENCE_ROWS, NamedModel, load_models
from training.recipes.pretraining import read_recipe
from training.run.checkpoints import checkpoint_path, write_checkpoint

TINY = CCLConfig(
    Architecture(stage_channels=(4, 4, 8, 8)),
    Preprocessing(clip_frames=3, resize_height_px=40, resize_width_px=48, crop_px=32),
)


def load(text: str, seed: int = 0) -> NamedModel:
    return next(load_models([text], (seed,)))


def same_weights(a: CCLModel, b: CCLModel) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in a.state_dict().items())


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(7)
    details = {"recipe": {"seed": 5, "optim": {"batch": 48}, "objective": {"kind": "mse"}}}
    source = Provenance("x", "some clips", {**details, "steps": 20})
    config = CCLConfig(TINY.architecture, TINY.preprocessing, source)
    CCLModel(config).save_pretrained(tmp_path / "exported")
    return tmp_path / "exported"


def write_run(folder, *, averaged: bool, seed: int = 3) -> dict[str, CCLModel]:
    changes = ["model.stage_channels=[4, 4, 8, 8]", f"seed={seed}"]
    changes += ["ema.decay=0.9"] if averaged else []
    recipe = read_recipe("smoke", changes)
    models = {"model": CCLModel(recipe.model_config), "ema": CCLModel(recipe.model_config)}
    for step in (10, 20):
        tensors = {
            f"{group}/{name}": value
            for group, model in models.items()
            if group == "model" or averaged
            for name, value in model.state_dict().items()
        }
        state = {"step": step, "recipe": recipe.to_dict(), "data": {"name": "clips"}}
        write_checkpoint(checkpoint_path(folder / "checkpoints", step), tensors, state)
    return models


def test_a_bundled_model_by_its_name():
    named = load("ccl_r18_mini")
    assert not named.model.training
    assert (named.record.label, named.record.source) == ("ccl_r18_mini", "ccl_r18_mini")
    assert named.record.seed is None and not named.record.reference
    assert named.record.weights_sha256 == named.model.weights_sha256 != ""
    assert "345 steps of 48 videos" in named.record.description


def test_a_folder_has_the_seed_of_its_run_and_any_label(folder):
    named = load(f"MSE={folder}")
    assert (named.record.label, named.record.source, named.record.seed) == ("MSE", "exported", 5)
    assert named.record.description == (
        "trained on some clips; 20 steps of 48 videos; mse, preset None"
    )
    assert load(str(folder)).record.label == "exported"


def test_a_place_with_an_equals_sign_is_a_place(folder):
    odd = folder.rename(folder.parent / "lr=0.1")
    assert load(str(odd)).record.label == "lr=0.1"
    assert load(f"MSE={odd}").record.label == "MSE"


@pytest.mark.parametrize("averaged", [True, False])
def test_a_run_gives_its_newest_weights_averaged_where_an_average_was_kept(tmp_path, averaged):
    models = write_run(tmp_path / "run", averaged=averaged)
    last = tmp_path / "run" / "checkpoints" / "step-00000020.safetensors"
    newest = models["ema" if averaged else "model"]
    for path in (tmp_path / "run", tmp_path / "run" / "checkpoints", last):
        named = load(str(path))
        assert same_weights(newest, named.model)
        assert not named.model.training
        assert (named.record.label, named.record.seed) == ("run", 3)
        assert named.record.source == "run/step-00000020.safetensors"
        assert named.record.weights_sha256 == hashlib.sha256(last.read_bytes()).hexdigest()
        assert ("averaged weights" in named.record.description) == averaged
    early = load(f"early={last.with_name('step-00000010.safetensors')}")
    assert early.record.source == "run/step-00000010.safetensors"
    assert "10 steps" in early.record.description


def test_random_rows_depend_on_their_seed_alone_and_disturb_no_generator(folder):
    row = f"x=random-init={folder}"
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = load(row, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    assert same_weights(first.model, load(row, seed=1).model)
    assert not same_weights(first.model, load(row, seed=2).model)
    assert first.record.seed == 1 and first.record.reference and not first.record.weights_sha256
    assert first.model.preprocessing == TINY.preprocessing
    torch.manual_seed(1)
    assert same_weights(first.model, CCLModel(TINY)), "the start of a run with that seed"


def test_a_random_row_takes_the_shape_of_a_model_that_is_named(folder):
    named = load(f"untrained=random-init={folder}", seed=4)
    _, beside = load_models([str(folder), "random-init"], (4,))
    assert same_weights(named.model, beside.model)
    assert named.model.preprocessing == TINY.preprocessing
    assert (named.record.label, named.record.source) == ("untrained", "random-init")
    assert named.record.reference and named.record.seed == 4
    with pytest.raises(ModelNotFoundError, match="no-such"):
        load("x=random-init=no-such")


def test_with_identity_a_video_is_the_mean_of_its_frames_and_else_it_is_not(folder):
    clips = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    for name, alike in (("random-init-identity", True), ("random-init", False)):
        named = load(f"x={name}={folder}")
        assert named.record.label == "x"
        assert named.record.source == name
        with torch.inference_mode():
            output = named.model(clips)
        close = torch.allclose(output.video, output.frames.mean(1), rtol=1e-3, atol=1e-5)
        assert close == alike


def test_random_rows_see_the_pixels_of_the_first_model_beside_them(folder):
    rows = list(load_models(["random-init", str(folder)], seeds=(0, 4)))
    assert [(r.record.label, r.record.seed) for r in rows] == [
        ("random-init", 0),
        ("random-init", 4),
        ("exported", 5),
    ]
    assert rows[0].model.config.fingerprint() == rows[2].model.config.fingerprint()
    (alone,) = load_models(["random-init"])
    assert alone.model.config == CCLConfig()


def test_rows_need_different_labels(folder):
    with pytest.raises(ConfigError, match="two models have the label 'exported'"):
        list(load_models([str(folder), str(folder)]))
    assert len(list(load_models([str(folder), f"again={folder}"]))) == 2


@pytest.mark.parametrize("text", ["nonsense", "a=nonsense", "./nowhere"])
def test_an_unknown_name_lists_the_valid_ones(text):
    with pytest.raises(ModelNotFoundError, match="Known names: ccl_lite0") as caught:
        load(text)
    assert all(name in str(caught.value) for name in REFERENCE_ROWS)


@pytest.mark.parametrize("text", ["", "=random-init", "a="])
def test_a_row_needs_a_label_and_a_place(text):
    with pytest.raises(ModelNotFoundError, match="names no model; give PLACE or LABEL=PLACE"):
        load(text)


def test_wrong_names_are_found_before_anything_is_loaded(folder):
    with pytest.raises(ModelNotFoundError, match="'nonsense'"):
        next(load_models([str(folder), "nonsense"]))


def test_a_damaged_checkpoint_is_refused(tmp_path):
    path = tmp_path / "step-00000001.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(TrainingError, match="damaged or not a checkpoint"):
        load(str(path))


def test_a_checkpoint_of_a_fine_tuning_is_refused(tmp_path):
    path = checkpoint_path(tmp_path / "checkpoints", 1)
    write_checkpoint(path, {"model/x": torch.zeros(1)}, {"recipe": {"name": "finetune"}})
    with pytest.raises(TrainingError, match=r"not of training\.pretrain.*--resume auto"):
        load(str(tmp_path))


def test_kinetics_supervised_says_how_to_make_it_and_takes_any_model(folder):
    with pytest.raises(ModelNotFoundError, match=r"training\.finetune .* packed/k400"):
        load("kinetics-supervised")
    named = load(f"kinetics-supervised={folder}")
    assert (named.record.label, named.record.reference) == ("kinetics-supervised", True)
    assert load(f"K400=kinetics-supervised={folder}").record.label == "K400"


# ImageNet --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet() -> torchvision.models.ResNet:
    """A ResNet-18 whose BatchNorms have seen something, so that a mix-up of any would show."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18().train()
    with torch.no_grad():
        model(torch.randn(4, 3, 64, 64) * 2 + 1)
    return model.eval()


@pytest.fixture(scope="module")
def imagenet_file(resnet, tmp_path_factory):
    path = tmp_path_factory.mktemp("imagenet") / "resnet18.pth"
    torch.save(resnet.state_dict(), path)
    return path


def test_the_inflated_trunk_is_torchvisions_network_without_its_max_pool(resnet, imagenet_file):
    named = load(f"imagenet={imagenet_file}")
    clips = torch.randn(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    features = torch.nn.Sequential(
        *(child for name, child in resnet.named_children() if name not in ("maxpool", "fc"))
    )
    with torch.inference_mode():
        ours = named.model(clips)
        theirs = features(clips.transpose(1, 2).flatten(0, 1)).flatten(1).unflatten(0, (2, 3))
        resnet_as_it_is = resnet.avgpool(
            resnet.layer4(
                resnet.layer3(
                    resnet.layer2(
                        resnet.layer1(
                            resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(clips[:, :, 0]))))
                        )
                    )
                )
            )
        ).flatten(1)
    torch.testing.assert_close(ours.frames, theirs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours.frames[:, 0], resnet_as_it_is, atol=1e-2)
    torch.testing.assert_close(ours.video, ours.frames.mean(1), rtol=1e-4, atol=1e-5)


def test_imagenet_has_its_own_normalisation_and_the_frames_of_the_others(imagenet_file, tmp_path):
    other = CCLConfig(preprocessing=Preprocessing(clip_frames=4, crop_px=96))
    CCLModel(other).save_pretrained(tmp_path)
    _, named = load_models([str(tmp_path), f"imagenet={imagenet_file}"])
    seen = named.model.preprocessing
    assert (seen.mean, seen.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (seen.clip_frames, seen.crop_px) == (4, 96)
    assert named.record.reference and named.record.label == "imagenet"
    assert named.record.weights_sha256 == hashlib.sha256(imagenet_file.read_bytes()).hexdigest()
    assert "resnet18.pth, not verified" in named.record.description


def test_imagenet_from_the_cache_or_as_safetensors(resnet, imagenet_file, tmp_path, monkeypatch):
    converted = tmp_path / "resnet18.safetensors"
    safetensors.torch.save_file(resnet.state_dict(), converted)
    from_file = load(f"x=imagenet={imagenet_file}")
    assert same_weights(from_file.model, load(f"imagenet={converted}").model)
    # Files of before BatchNorm counted its steps.
    old = {n: t for n, t in resnet.state_dict().items() if "num_batches" not in n}
    assert trunk_tensors(old).keys() == trunk_tensors(resnet.state_dict()).keys()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="weights='IMAGENET1K_V1'") as caught:
        load("imagenet")
    cached = tmp_path / "hub" / "checkpoints" / IMAGENET_FILE
    assert str(cached) in str(caught.value) and "give imagenet=FILE" in str(caught.value)
    assert "\n" not in str(caught.value)
    cached.parent.mkdir(parents=True)
    cached.write_bytes(imagenet_file.read_bytes())
    with pytest.raises(WeightsError, match=r"its name says f37072fd\.\.\.; the file is damaged"):
        load("imagenet")


class Hostile:
    """Unpickling it would run a command."""

    def __reduce__(self):
        return (print, ("code in a weights file ran",))


def test_other_files_than_imagenet_weights_are_refused_and_never_run(tmp_path, capsys, resnet):
    for name, value in {
        "hostile": {"conv1.weight": Hostile()},
        "list": [torch.zeros(1)],
        "other": torchvision.models.ResNet(
            torchvision.models.resnet.BasicBlock, [1, 1, 1, 1]
        ).state_dict(),
    }.items():
        torch.save(value, tmp_path / f"{name}.pth")
    (tmp_path / "short.pth").write_bytes(b"PK\x03\x04 no more")
    (tmp_path / "short.safetensors").write_bytes(b"\x00" * 20)
    (tmp_path / "empty.pth").write_bytes(b"")
    for name, text in {
        "hostile.pth": "no readable weights",
        "list.pth": "holds no state dict",
        "other.pth": "not the weights of torchvision's resnet18",
        "short.pth": "no readable weights",
        "short.safetensors": "no readable weights",
        "empty.pth": "no readable weights",
    }.items():
        with pytest.raises(WeightsError, match=text):
            load(f"imagenet={tmp_path / name}")
    assert "ran" not in capsys.readouterr().out


def test_imagenet_beside_a_network_of_another_shape_is_refused(imagenet_file):
    with pytest.raises(ConfigError, match=r"imagenet fits stage_channels \(64, 128, 256, 512\)"):
        imagenet_model(imagenet_file, like=TINY)
    deeper = CCLConfig(Architecture(stage_blocks=(3, 4, 6, 3)))
    with pytest.raises(ConfigError, match=r"imagenet fits stage_blocks \(2, 2, 2, 2\) only"):
        imagenet_model(imagenet_file, like=deeper)
