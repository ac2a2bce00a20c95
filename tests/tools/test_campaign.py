"""A checkpoint in stages: each stops by itself, goes on elsewhere, and leaves whole parts."""

from __future__ import annotations

import re
import shutil
import sys
import time

import pytest
from project import ROOT

from ccl_hub import CCLModel
from tools.campaign import packs as campaign_packs
from tools.campaign import stages as campaign
from tools.campaign.file_parts import join_parts
from tools.campaign.stages import STAGES, main, parse_arguments
from tools.campaign.state import restore, write_parts
from training import ablation
from training.frames.packed import FrameStore
from training.recipes.pretraining import read_recipe
from training.run import steps
from training.run.checkpoints import list_checkpoints, read_checkpoint
from training.run.folder import EXIT_SAVED, StopFlag
from training.run.logs import read_log
from training.run.steps import Step
from training.run.trained import find_checkpoint

SMALL = [
    text
    for change in (
        "model.stage_channels=[4, 4, 8, 8]",
        "preprocessing.clip_frames=4",
        "preprocessing.resize_height_px=40",
        "preprocessing.resize_width_px=48",
        "preprocessing.crop_px=32",
        "stages=[]",
        "augment.crop_px=32",
        "optim.batch=4",
        "precision.device=cpu",
        "log.curves=false",
        "log.checkpoint_steps=2",
    )
    for text in ("--set", change)
]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Nine videos to train on, and a labelled set of two classes."""
    pytest.importorskip("av")
    from media import Recipe, numbered_frame, write_video
    from numbered import make_videos

    folder = tmp_path_factory.mktemp("videos")
    make_videos(folder / "clips", 9)
    rows = ["path,class,split"]
    for video in range(8):
        label, split = "ab"[video % 2], ("train", "test")[video // 4]

        def make(number, width, height, first=300 + 20 * video):
            return numbered_frame(first + number, width, height)

        (folder / "labelled" / label).mkdir(parents=True, exist_ok=True)
        recipe = Recipe(f"{video}.mp4", "mpeg4", 12, rate=12, make=make)
        write_video(folder / "labelled" / label, recipe)
        rows.append(f"{label}/{video}.mp4,{label},{split}")
    (folder / "labelled.csv").write_text("\n".join(rows) + "\n")
    return folder


def arguments(videos, stage: str, out, *extra: str, minutes: float = 10) -> list[str]:
    data = ["--data", str(videos / "clips"), "--eval", str(videos / "labelled.csv")]
    size = ["--out", str(out), "--minutes", str(minutes), "--scale", "tiny"]
    return [stage, *data, *size, *SMALL, *extra]


@pytest.mark.slow
def test_a_run_stops_goes_on_elsewhere_from_parts_and_is_exported_in_parts(
    videos, tmp_path, monkeypatch
):
    here, there = tmp_path / "here", tmp_path / "there"

    class StopAfterTheFirstCheckpoint(StopFlag):
        def __call__(self) -> bool:
            return bool(list_checkpoints(here / campaign.RUN / "checkpoints"))

    run = ("--train-minutes", "0.15", "--trained-on", "nine videos")
    assert main(arguments(videos, "prepare", here)) == 0
    with monkeypatch.context() as patch:
        patch.setattr(campaign, "StopFlag", StopAfterTheFirstCheckpoint)
        assert main(arguments(videos, "train", here, *run)) == EXIT_SAVED
    stopped = find_checkpoint(here / campaign.RUN)
    assert 0 < read_checkpoint(stopped).state["progress"] < 1

    # Elsewhere: only the parts come along, and what was trained on is packed again.
    shutil.copytree(here / "parts", there / "parts")
    shutil.rmtree(here)
    assert main(arguments(videos, "train", there, *run)) == 2  # not packed, but restored
    names = [path.name for path in list_checkpoints(there / campaign.RUN / "checkpoints")]
    assert names == [stopped.name]
    assert main(arguments(videos, "prepare", there)) == 0
    assert main(arguments(videos, "train", there, *run)) == 0
    log = (there / "done" / "train.log").read_text()
    assert f"resumed from {campaign.RUN}/checkpoints/{stopped.name}" in log
    lines = [x for x in read_log(there / campaign.RUN / "log.jsonl") if x["kind"] == "train"]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    newest = find_checkpoint(there / campaign.RUN)
    assert (
        read_checkpoint(newest).state["step"]
        == len(lines)
        > int(stopped.stem.removeprefix("step-"))
    )
    assert join_parts(there / "parts" / "checkpoint", tmp_path).read_bytes() == newest.read_bytes()

    assert main(arguments(videos, "finish", there, *run)) == 0
    joined = join_parts(there / "parts" / "weights", tmp_path / "joined")
    assert joined.read_bytes() == (there / "model" / "model.safetensors").read_bytes()
    model = CCLModel.from_pretrained(there / "model")
    assert model.config.provenance.trained_on == "nine videos"
    for name, tensor in read_checkpoint(newest).group("model").items():
        exported = model.state_dict()[name]
        assert (exported - tensor).abs().max() <= 1e-3 * tensor.abs().max().clamp(min=1), name
    report = (there / "report" / "report.md").read_text().replace("\\", "")
    assert {"ccl_r18_mini", "random-init", "random-init-identity"} <= set(
        re.findall(r"[\w-]+", report)
    )


def test_nothing_is_begun_when_the_time_is_over(videos, tmp_path, capsys):
    assert main(arguments(videos, "prepare", tmp_path, minutes=0)) == EXIT_SAVED
    assert "stopped packing labelled; the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "packs/labelled/store.json").exists()
    assert main(arguments(videos, "train", tmp_path)) == 2
    assert "packs/clips: is not packed; run the stage 'prepare' first" in capsys.readouterr().err
    assert main(arguments(videos, "prepare", tmp_path)) == 0
    assert len(FrameStore(tmp_path / "packs/clips")) == 9
    assert main(arguments(videos, "train", tmp_path, minutes=0)) == EXIT_SAVED
    assert "stopped at train; the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / campaign.RUN).exists()


def test_what_does_not_stop_in_time_is_killed_and_goes_on(videos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(steps, "KILL_SECONDS", 0.5)
    stubborn = (
        "import signal, time\n"
        "for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, signal.SIG_IGN)\n"
        "time.sleep(60)"
    )
    step = Step("stubborn", (sys.executable, "-c", stubborn))
    monkeypatch.setitem(STAGES, "check", lambda plan, stop: campaign._run([step], stop))
    began = time.monotonic()
    assert main(arguments(videos, "check", tmp_path, minutes=0.05)) == EXIT_SAVED
    assert time.monotonic() - began < 20
    assert "did not stop and was killed; the same command goes on" in capsys.readouterr().err
    assert (tmp_path / "parts/state/SHA256SUMS").is_file()


def test_what_is_carried_is_small_and_leads_on(tmp_path):
    """Weights of the sweep stay behind, so a row that is still to be measured is made again."""
    here, there = tmp_path / "here", tmp_path / "there"
    for name in (
        "done/check-train.json",
        "packs/clips/store.json",
        "cache/x.bin",
        ".lock",
        "sweep/a/done/mse-seed0-pretrain.json",
        "sweep/a/done/mse-seed0-probe.json",
        "sweep/a/done/lv-seed0-pretrain.json",
        "sweep/a/runs/mse/checkpoints/step-00000001.safetensors",
        "runs/long/log.jsonl",
        "runs/long/checkpoints/step-00000001.safetensors",
        "runs/long/checkpoints/step-00000002.safetensors",
    ):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(name)
    write_parts(here)
    shutil.copytree(here / "parts", there / "parts")
    restore(there)
    files = {str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()}
    assert {name for name in files if not name.startswith("parts/")} == {
        "done/check-train.json",
        "sweep/a/done/mse-seed0-pretrain.json",
        "sweep/a/done/mse-seed0-probe.json",
        "runs/long/log.jsonl",
        "runs/long/checkpoints/step-00000002.safetensors",
    }
    (there / "runs/long/log.jsonl").write_text("later")
    restore(there)
    assert (there / "runs/long/log.jsonl").read_text() == "later"


def test_what_is_packed_is_not_packed_again(videos, tmp_path, monkeypatch):
    copy = tmp_path / "videos"
    shutil.copytree(videos, copy, copy_function=shutil.copyfile)  # with other times
    assert main(arguments(videos, "prepare", tmp_path / "out")) == 0
    monkeypatch.setattr(campaign_packs, "pack", None)
    assert main(arguments(copy, "prepare", tmp_path / "out")) == 0


def test_a_video_of_both_the_training_and_a_labelled_set_is_refused(videos, tmp_path, capsys):
    shutil.copytree(videos, tmp_path / "videos")
    shutil.copy(videos / "labelled/b/3.mp4", tmp_path / "videos/clips/other.mp4")
    assert main(arguments(tmp_path / "videos", "prepare", tmp_path / "out")) == 2
    error = capsys.readouterr().err
    assert "labelled: b/3.mp4 has the same bytes as other.mp4 of clips" in error
    assert not (tmp_path / "out/packs").exists()


def commands(videos, stage: str, out, monkeypatch, *extra: str) -> dict[str, list[str]]:
    """The commands that a stage would run, by the names of its steps."""
    by_step = {}

    def note(steps, stop):
        by_step.update({step.name: list(step.command[2:]) for step in steps})
        raise campaign.StoppedError("noted")

    monkeypatch.setattr(campaign, "_run", note)
    monkeypatch.setattr(campaign, "_require_packs", lambda plan: None)
    full = [text for text in arguments(videos, stage, out, *extra) if text != "tiny"]
    full.insert(full.index("--scale") + 1, "full")
    assert main(full) == EXIT_SAVED
    return by_step


def test_the_sweep_is_the_table_at_equal_time(videos, tmp_path, monkeypatch):
    sweep = commands(videos, "sweep", tmp_path, monkeypatch, "--set", "optim.lr=0.5")
    rows = {}
    for name, command in sweep.items():
        if name.endswith("-report"):
            assert command[0] == "training.report"
            continue
        assert command[0] == "training.ablation"
        plan = ablation.read_plan(command[1:])
        rows[name] = plan.rows
        recipe = read_recipe(plan.recipe, plan.changes)
        assert (recipe.budget.max_seconds, recipe.budget.paces_schedule) == (120, True)
        assert recipe.data.views == (1 if name == "sweep-one-view" else 2)
        assert (recipe.temporal_init, recipe.optim.lr) == ("calibrated", 0.5)
        assert (plan.data, plan.seeds, plan.jobs) == (("packs/labelled",), (0,), 1)
        assert "--clips 10" in " ".join(plan.evaluation)
    expected = {"random", "random-identity", "mse", "lv", "lv-lf", "lv-lf-p", "tuned"}
    assert set(rows["sweep-one-view"]) == expected <= set(ablation.ROWS)


def test_every_path_of_a_command_is_inside_the_folder(videos, tmp_path, monkeypatch):
    for stage in STAGES.keys() - {"prepare", "finish"}:
        by_step = commands(videos, stage, tmp_path, monkeypatch)
        assert by_step
        assert str(tmp_path) not in str(by_step) and str(videos) not in str(by_step)


def test_a_recipe_that_is_a_file_is_kept_with_all_else(videos, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text((ROOT / "training" / "recipes" / "mini_gpu.toml").read_text())
    out = tmp_path / "out"
    assert main(arguments(videos, "prepare", out, "--recipe", str(recipe))) == 0
    (kept,) = (out / "recipes").iterdir()
    assert kept.read_text() == recipe.read_text() and kept.name.startswith("mine-")
    recipe.write_text("# another\n" + recipe.read_text())
    assert main(arguments(videos, "prepare", out, "--recipe", str(recipe))) == 0
    assert len(list((out / "recipes").iterdir())) == 2


def test_sets_of_one_name_and_unknown_recipes_are_refused(videos, tmp_path, capsys):
    twice = f"{videos / 'labelled.csv'},{videos / 'labelled'}"
    with pytest.raises(SystemExit):
        parse_arguments(arguments(videos, "prepare", tmp_path, "--eval", twice))
    assert "clips, labelled, labelled; they must differ" in capsys.readouterr().err
    assert main(arguments(videos, "prepare", tmp_path, "--recipe", "none")) == 2
    assert "none: no such recipe" in capsys.readouterr().err
