"""From a training checkpoint to a folder that from_pretrained() loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ccl_hub import CCLModel
from ccl_hub.errors import ConfigError
from ccl_hub.network.model_files import GOLDEN_NAME
from training.export import main
from training.recipes.pretraining import read_recipe
from training.run.checkpoints import checkpoint_path, read_checkpoint, write_checkpoint
from training.run.environment import software
from training.run.model_folder import QUESTIONS, export, provenance

TABLE = {"features": {question: {"1": 0.125, "5": 0.5, "10": 1.0} for question in QUESTIONS}}


@pytest.fixture
def checkpoint_file(tmp_path):
    recipe = read_recipe("smoke", ["data.rendered=0", "data.pack=/home/somebody/packed/clips"])
    torch.manual_seed(0)
    model, average = CCLModel(recipe.model_config), CCLModel(recipe.model_config)
    tensors = {f"model/{n}": t for n, t in model.state_dict().items()}
    tensors |= {f"ema/{n}": t for n, t in average.state_dict().items()}
    state = {
        "step": 36,
        "seconds": 12.345,
        "progress": 1.0,
        "recipe": recipe.to_dict(),
        "data": {"name": "clips", "videos": 96, "fingerprint": "f" * 64},
        "metrics": {"step": 36, "trained": {"small": TABLE}, "random_init": {"small": TABLE}},
    }
    path = checkpoint_path(tmp_path / "run" / "checkpoints", 36)
    write_checkpoint(path, tensors, state)
    return path


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 0.0), ("fp16", 2e-3)])
def test_exported_folder_loads_and_gives_the_same_embeddings(
    checkpoint_file, tmp_path, dtype, tolerance
):
    out = tmp_path / "model"
    arguments = [str(checkpoint_file), "--out", str(out), "--dtype", dtype, "--name", "my_model"]
    assert main(arguments) == 0
    loaded = CCLModel.from_pretrained(out)
    assert loaded.config.provenance.name == "my_model"
    assert loaded.config.provenance.trained_on == "clips"
    recipe = read_recipe("smoke")
    trained = CCLModel(recipe.model_config)
    trained.load_state_dict(read_checkpoint(checkpoint_file).group("model"))
    clips = torch.randn(2, 3, 8, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours, theirs = trained.eval()(clips, project=True), loaded(clips, project=True)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(other, mine, rtol=tolerance, atol=tolerance)


def test_averaged_weights_are_exported_on_request(checkpoint_file, tmp_path):
    checkpoint = read_checkpoint(checkpoint_file)
    plain = export(checkpoint, tmp_path / "a", dtype="fp32")
    averaged = export(checkpoint, tmp_path / "b", dtype="fp32", ema=True)
    weights = checkpoint.group("ema")["trunk.conv1.weight"]
    assert torch.equal(averaged.trunk.conv1.weight, weights)
    assert not torch.equal(plain.trunk.conv1.weight, weights)


def test_figures_of_the_averaged_weights_go_with_these_alone(checkpoint_file, tmp_path):
    """Once the last weights were exported by default, with the figures of the average."""
    checkpoint = read_checkpoint(checkpoint_file)
    checkpoint.state["recipe"]["ema"]["decay"] = 0.9
    assert torch.equal(
        export(checkpoint, tmp_path / "a").trunk.conv1.weight,
        checkpoint.group("ema")["trunk.conv1.weight"],
    )
    assert "12.5 / 50.0 / 100.0" in (tmp_path / "a/README.md").read_text()
    assert torch.equal(
        export(checkpoint, tmp_path / "b", ema=False).trunk.conv1.weight,
        checkpoint.group("model")["trunk.conv1.weight"],
    )
    card = (tmp_path / "b/README.md").read_text()
    assert "Retrieval was not measured with these weights." in card
    assert "100.0" not in card


def test_no_averaged_weights_is_one_clear_error(checkpoint_file, tmp_path):
    checkpoint = read_checkpoint(checkpoint_file)
    tensors = {n: t for n, t in checkpoint.tensors.items() if n.startswith("model/")}
    write_checkpoint(checkpoint_file, tensors, checkpoint.state)
    with pytest.raises(
        ConfigError, match=r"holds no averaged weights, as its recipe has no ema\.decay"
    ):
        export(read_checkpoint(checkpoint_file), tmp_path / "model", ema=True)


def test_the_folder_tells_where_the_weights_come_from(checkpoint_file, tmp_path):
    out = tmp_path / "model"
    # A run's folder stands for its newest checkpoint.
    assert main([str(tmp_path / "run"), "--out", str(out)]) == 0
    record = json.loads((out / "training_provenance.json").read_text())
    assert record["recipe"]["optim"]["lr"] == 0.05
    assert record["data"]["fingerprint"] == "f" * 64
    assert (record["steps"], record["finished"]) == (36, True)
    assert record["weights"] == {"averaged": False, "dtype": "fp16"}
    assert record["versions"]["torch"] == torch.__version__
    assert record["metrics"]["trained"]["small"] == TABLE
    sizes = json.loads((out / "preprocessor_config.json").read_text())
    assert (sizes["clip_frames"], sizes["crop_px"]) == (8, 112)
    card = (out / "README.md").read_text()
    assert "| V=>V, class (test to train) | features | 12.5 / 50.0 / 100.0 |" in card
    published = "".join(path.read_text() for path in out.glob("*.[jm][sd]*"))
    assert "clips" in published
    assert "somebody" not in published


def test_commit_and_versions_are_those_of_the_training(checkpoint_file, tmp_path):
    """Once they were those of the export, by whatever source tree."""
    checkpoint = read_checkpoint(checkpoint_file)
    trained_with = {"commit": "a" * 40, "versions": {"torch": "9.9"}}
    checkpoint.state["software"] = trained_with
    record = provenance(checkpoint, read_recipe("smoke"), "fp16", ema=False)
    assert (record["commit"], record["versions"]) == ("a" * 40, {"torch": "9.9"})
    trained_with["commit"] = ""  # trained on a copy without git
    record = provenance(checkpoint, read_recipe("smoke"), "fp16", ema=False)
    assert record["commit"] == software()["commit"]


def test_a_folder_below_the_home_folder_gets_a_card_and_golden_values(
    checkpoint_file, tmp_path, monkeypatch
):
    checkpoint = read_checkpoint(checkpoint_file)
    monkeypatch.setenv("HOME", str(tmp_path))
    export(checkpoint, Path("~/model"))
    folder = tmp_path / "model"
    assert (folder / GOLDEN_NAME).is_file() and (folder / "README.md").is_file()


def test_unusable_checkpoints_are_one_line_and_exit_code_2(tmp_path, capsys):
    assert main([str(tmp_path / "absent.safetensors"), "--out", str(tmp_path / "m")]) == 2
    error = capsys.readouterr().err
    assert "no such checkpoint" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "m").exists()
