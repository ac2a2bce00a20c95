"""A run of the recipe of ``ccl_lite0``, made small: edits, a teacher, frozen blocks, whitening."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from project import ROOT
from tiny_models import SHAPES
from tiny_run import disturbed_command, final_tensors, run, trained_steps

from ccl_hub import CCLModel
from training.export import main as export_main

STEPS = 24


def changes(trunk: str, teacher: Path) -> tuple[str, ...]:
    """What makes a tiny run one of this recipe."""
    frozen = '["trunk.stem"]' if trunk == "efficientnet_lite0" else '["trunk.conv1", "trunk.bn1"]'
    shape = SHAPES[trunk]
    return (
        f"model.trunk={trunk}",
        f"model.stage_channels={list(shape['stage_channels'])}",
        f"model.stage_blocks={list(shape['stage_blocks'])}",
        "model.output=whitened",
        "preprocessing.resize=stretch",
        "preprocessing.resize_height_px=80",
        "preprocessing.resize_width_px=80",
        "preprocessing.crop_px=80",
        "stages=[{until=0.5, crop_px=64}, {until=1.0, crop_px=80}]",
        "data.views=2",
        "data.clip_frames=2",
        "data.every_seconds=0.1",
        "augment.kind=edits",
        f"teacher.onnx={teacher}",
        f"teacher.whitened={'true' if trunk == 'resnet18' else 'false'}",
        "teacher.size_px=32",
        "objective.preset=tuned",
        "optim.kind=adamw",
        "optim.lr=1e-3",
        "optim.trunk_lr=0.5",
        f"optim.frozen={frozen}",
        "precision.frozen=bf16",
        "temporal_init=calibrated",
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mean and largest colours of frames, as an ONNX file."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make, kind = onnx.helper.make_node, onnx.TensorProto.FLOAT
    nodes = [
        make("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0),
        make("ReduceMax", ["x"], ["largest"], axes=[2, 3], keepdims=0),
        make("Concat", ["mean", "largest"], ["y"], axis=1),
    ]
    given = onnx.helper.make_tensor_value_info("x", kind, ["n", 3, 32, 32])
    result = onnx.helper.make_tensor_value_info("y", kind, ["n", 6])
    graph = onnx.helper.make_graph(nodes, "teacher", [given], [result])
    path = tmp_path_factory.mktemp("teacher") / "teacher.onnx"
    opset = [onnx.helper.make_opsetid("", 11)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


@pytest.fixture(scope="module", params=list(SHAPES))
def whole(
    request: pytest.FixtureRequest, teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """A finished run, and what made it."""
    sets = changes(request.param, teacher)
    out = tmp_path_factory.mktemp("whole")
    done = run(out, changes=sets)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(out=out, changes=sets, trunk=request.param)


def test_every_step_has_the_teachers_term(whole: SimpleNamespace) -> None:
    lines = trained_steps(whole.out)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    for line in lines:
        parts = 0.2 * line["forward"] + 0.2 * line["backward"] + 0.4 * line["penalty"]
        assert line["total"] == pytest.approx(parts + line["frame_loss"], rel=1e-4)
    first, last = lines[:4], lines[-4:]
    assert sum(x["frame_loss"] for x in last) < sum(x["frame_loss"] for x in first)


def test_mixed_precision_ends_before_the_teachers_map(teacher: Path, tmp_path: Path) -> None:
    sets = (
        *changes("resnet18", teacher),
        "precision.autocast=bf16",
        "schedule.epochs=1",
        "schedule.warmup_epochs=0",
    )
    done = run(tmp_path, changes=sets)
    assert done.returncode == 0, done.stderr
    assert all(0 < line["frame_loss"] < 2 for line in trained_steps(tmp_path))


def test_frozen_weights_stay_and_others_move(whole: SimpleNamespace) -> None:
    tensors = final_tensors(whole.out)
    stem = "trunk.stem" if whole.trunk == "efficientnet_lite0" else "trunk.conv1"
    torch.manual_seed(0)
    for name, tensor in tensors.items():
        if name.startswith(f"model/{stem}."):
            assert torch.equal(tensor, tensors[name.replace("model/", "ema/")]), name
    moved = [n for n in tensors if n.startswith("model/head") and "weight" in n]
    assert any(not torch.equal(tensors[n], tensors[n.replace("model/", "ema/")]) for n in moved)


def test_the_exported_model_is_whitened_and_has_no_teacher(
    whole: SimpleNamespace, tmp_path: Path
) -> None:
    assert export_main([str(whole.out), "--out", str(tmp_path / "model"), "--dtype", "fp32"]) == 0
    model = CCLModel.from_pretrained(tmp_path / "model")
    assert not [name for name in model.state_dict() if name.startswith("teacher")]
    record = json.loads((tmp_path / "model" / "training_provenance.json").read_text())
    assert record["recipe"]["teacher"]["onnx"] == "teacher.onnx", "no paths of this machine"
    card = (tmp_path / "model" / "README.md").read_text()
    assert "its teacher is `teacher.onnx`" in card and "No labels were used" not in card
    identity = torch.eye(model.config.architecture.feature_dim)
    assert not torch.equal(model.output.weight, identity), "fitted at the end"
    assert torch.equal(model.output.weight, final_tensors(whole.out)["ema/output.weight"])


def test_a_run_that_was_stopped_goes_on_exactly(whole: SimpleNamespace, tmp_path: Path) -> None:
    for number, nth in (("SIGTERM", 7), ("SIGKILL", 9)):
        command = disturbed_command(tmp_path, number, "after the update", nth, "--resume", "auto")
        extra = [text for change in whole.changes for text in ("--set", change)]
        done = subprocess.run([*command, *extra], cwd=ROOT, capture_output=True, timeout=240)
        assert done.returncode == (75 if number == "SIGTERM" else -signal.SIGKILL), done.stderr
    done = run(tmp_path, "--resume", "auto", changes=whole.changes)
    assert done.returncode == 0, done.stderr
    assert trained_steps(tmp_path) == trained_steps(whole.out)
    ours, theirs = final_tensors(tmp_path), final_tensors(whole.out)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
