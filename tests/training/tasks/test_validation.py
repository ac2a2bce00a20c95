"""Retrieval during training: what is embedded, and what counts as found."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from ccl_hub import CCLModel
from ccl_hub.config import Architecture, CCLConfig, Preprocessing
from ccl_hub.errors import ConfigError, TrainingError
from training.evaluation.features import SetFeatures
from training.frames import packed
from training.frames.rendered import RenderedVideos
from training.recipes.pretraining import read_recipe
from training.tasks.validation import Validator, retrieval_table

SMALL = Preprocessing(clip_frames=3, resize_height_px=40, resize_width_px=48, crop_px=32)


def small_model() -> CCLModel:
    torch.manual_seed(0)
    return CCLModel(CCLConfig(Architecture(stage_channels=(4, 4, 8, 8)), SMALL)).eval()


def table_of(frames: torch.Tensor, video: torch.Tensor, videos: RenderedVideos, clips: int):
    ids = np.repeat(np.arange(len(videos)), clips)
    # The projections are noise, so that a mix-up of the two spaces would show.
    noise = torch.Generator().manual_seed(0)
    lost = [torch.randn((*x.shape[:-1], 6), generator=noise) for x in (frames, video)]
    times = (np.zeros((len(ids), 2)), np.zeros(frames.shape[:2]))
    return retrieval_table(SetFeatures(frames, video, *lost, ids, *times), videos)["features"]


def test_clips_that_differ_are_found_exactly_and_equal_clips_by_video_only():
    videos = RenderedVideos(24, SMALL)  # 8 of them in the test split
    distinct = torch.eye(48)
    table = table_of(distinct[:, None].repeat(1, 3, 1), distinct, videos, clips=2)
    for question in ("frame_to_video_clip", "video_to_frame_clip"):
        assert table[question]["1"] == 1.0
    by_video = torch.eye(24).repeat_interleave(2, 0)
    table = table_of(by_video[:, None].repeat(1, 3, 1), by_video, videos, clips=2)
    assert table["frame_to_video_same_video"]["1"] == 1.0
    assert table["frame_to_video_clip"] == {"1": 0.5, "5": 1.0, "10": 1.0}
    assert table["video_to_frame_clip"]["1"] == 0.5


def test_classes_are_looked_up_in_the_training_split():
    videos = RenderedVideos(24, SMALL)
    by_class = torch.eye(8)[torch.from_numpy(videos.videos.targets())]
    table = table_of(by_class[:, None].repeat(1, 3, 1), by_class, videos, clips=1)
    assert table["video_to_video"] == {"1": 1.0, "5": 1.0, "10": 1.0}
    # The test split is turned away from its class: none of the 2 training videos of it is near.
    test = torch.tensor([item.split == "test" for item in videos.videos])
    turned = torch.where(test[:, None], -by_class, by_class)
    table = table_of(turned[:, None].repeat(1, 3, 1), turned, videos, clips=1)
    assert table["video_to_video"]["10"] == 0.0


def test_measuring_leaves_the_model_in_its_mode_and_weights():
    recipe = read_recipe("smoke", ["validation.rendered=24", "validation.clips=1"])
    recipe = dataclasses.replace(recipe, preprocessing=SMALL)
    model = small_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tables = Validator(recipe).measure(model)
    assert tables["rendered"]["projections"]["video_to_video"].keys() == {"1", "5", "10"}
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_sets_that_cannot_be_used_are_refused(monkeypatch):
    recipe = read_recipe("smoke", ["validation.rendered=0", "validation.packs=['a', 'b']"])

    def opened(path, preprocessing=recipe.preprocessing):
        store = RenderedVideos(24, preprocessing)
        store.folder = path
        return store

    monkeypatch.setattr(packed, "FrameStore", opened)
    with pytest.raises(ConfigError, match="sets are named rendered, rendered; tables need"):
        Validator(recipe)
    monkeypatch.setattr(packed, "FrameStore", lambda path: opened(path, SMALL))
    with pytest.raises(ConfigError, match="packed with resize_height_px = 40, but the recipe"):
        Validator(recipe)
    with pytest.raises(TrainingError, match="no video of split 'test'"):
        Validator(read_recipe("smoke", ["validation.rendered=5"]))
