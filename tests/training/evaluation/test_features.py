"""Embedding a set: what is computed, and a cache that is used only when it is right."""

from __future__ import annotations

import dataclasses
import json
import logging

import numpy as np
import pytest
import torch

from ccl_hub import CCLModel
from ccl_hub.config import Architecture, CCLConfig, Preprocessing
from ccl_hub.errors import InputError, ModelError, OutputError
from ccl_hub.sampling import sample_eval
from ccl_hub.transforms import to_clips
from training.evaluation import features
from training.evaluation.features import SetFeatures, features_of
from training.evaluation.labelled_sets import open_evaluation_set
from training.frames.rendered import RenderedVideos

SMALL = Preprocessing(clip_frames=3, resize_height_px=40, resize_width_px=48, crop_px=32)


def small_model(seed: int = 0) -> CCLModel:
    torch.manual_seed(seed)
    return CCLModel(CCLConfig(Architecture(stage_channels=(4, 4, 8, 8)), SMALL)).eval()


def same(first: SetFeatures, second: SetFeatures) -> bool:
    return all(
        np.array_equal(getattr(first, f.name), getattr(second, f.name))
        for f in dataclasses.fields(SetFeatures)
    )


@pytest.fixture
def computed(monkeypatch) -> list[str]:
    """Names of the sets that were embedded, not read."""
    names: list[str] = []
    embed_set = features._embed_set

    def counting(model, source, *rest):
        names.append(source.videos.name)
        return embed_set(model, source, *rest)

    monkeypatch.setattr(features, "_embed_set", counting)
    return names


@pytest.mark.parametrize(("batch_clips", "workers"), [(1, 1), (5, 2), (1000, 3)])
def test_every_video_gives_its_clips_in_order_whatever_the_batch(batch_clips, workers):
    model, videos = small_model(), RenderedVideos(9, SMALL)
    embedded = features_of(model, videos, clips=2, batch_clips=batch_clips, workers=workers)
    np.testing.assert_array_equal(embedded.video_ids, np.repeat(np.arange(9), 2))
    assert embedded.frames.shape == (18, 3, 8) and embedded.video_projections.shape == (18, 128)
    for video in (0, 3, 8):
        plan = sample_eval(videos.seconds(video), videos.duration(video), SMALL, clips=2)
        frames = torch.from_numpy(videos.read(video, plan.indices[1]))[None]
        with torch.inference_mode():
            alone = model(to_clips(frames, SMALL), project=True)
        row = 2 * video + 1
        for name in ("frames", "video", "frame_projections", "video_projections"):
            ours, theirs = getattr(embedded, name)[row], getattr(alone, name)[0]
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(embedded.clip_seconds[row], plan.clip_seconds[1])
        np.testing.assert_array_equal(embedded.frame_seconds[row], plan.frame_seconds[1])


def test_features_can_be_trained_on():
    embedded = features_of(small_model(), RenderedVideos(2, SMALL), clips=1, bf16=True)
    layer = torch.nn.Linear(8, 2)
    layer(embedded.video).sum().backward()
    assert layer.weight.grad is not None


def test_a_split_keeps_positions_in_the_whole_set():
    source = open_evaluation_set("rendered:24", SMALL)
    whole = features_of(small_model(), source, clips=2)
    test = whole.of_split(source, "test")
    np.testing.assert_array_equal(test.video_ids, np.repeat(np.arange(16, 24), 2))
    np.testing.assert_array_equal(test.video, whole.video[32:])
    last = whole.take(np.array([47, 0]))
    np.testing.assert_array_equal(last.video_ids, [23, 0])
    np.testing.assert_array_equal(last.frames, whole.frames[[47, 0]])


def test_embeddings_are_computed_once(tmp_path, computed, caplog):
    caplog.set_level(logging.INFO)
    model, source = small_model().train(), open_evaluation_set("rendered:24", SMALL)
    first = features_of(model, source, clips=1, cache=tmp_path / "new")
    assert model.training
    second = features_of(model, source, clips=1, cache=tmp_path / "new")
    assert computed == ["rendered"] and same(first, second)
    assert second.video_ids.dtype == np.int64 and second.clip_seconds.dtype == np.float64
    assert f"embeddings from {tmp_path}" in caplog.text
    # Classes and splits are not in the embeddings.
    assert same(features_of(model, source.source, clips=1, cache=tmp_path / "new"), first)
    assert len(computed) == 1


def test_other_weights_videos_clips_and_precisions_are_never_taken_for_these(tmp_path, computed):
    model, source = small_model(), open_evaluation_set("rendered:24", SMALL)

    def embed(model=model, source=source, clips=1, bf16=False):
        return features_of(model, source, clips=clips, bf16=bf16, cache=tmp_path)

    first = embed()
    embed(bf16=True)
    embed(clips=2)
    embed(source=open_evaluation_set("rendered:32", SMALL))
    changed = small_model()
    with torch.no_grad():
        changed.trunk.conv1.weight[0, 0, 0, 0] += 0.01
    assert not same(embed(model=changed), first)
    other = CCLModel(
        dataclasses.replace(
            model.config, preprocessing=dataclasses.replace(SMALL, mean=(0.5, 0.5, 0.5))
        )
    )
    other.load_state_dict(model.state_dict())
    embed(model=other)
    assert len(computed) == 6 and len(list(tmp_path.iterdir())) == 6
    assert same(embed(), first) and len(computed) == 6


def test_a_video_replaced_by_another_of_its_size_is_embedded_again(tmp_path, computed):
    """The fingerprint of unpacked videos knows no more than sizes: old embeddings were used."""
    pytest.importorskip("av")
    from numbered import make_videos

    folder = tmp_path / "moves"
    make_videos(folder / "jump", 3, frames=6)
    make_videos(folder / "run", 2, frames=7)
    first, other = (folder / f"jump/{number}.mp4" for number in (0, 2))
    size = max(first.stat().st_size, other.stat().st_size) + 8

    def filled(data: bytes) -> bytes:
        rest = size - len(data)
        return data + rest.to_bytes(4, "big") + b"free" + bytes(rest - 8)  # an empty MP4 box

    replacement = filled(other.read_bytes())
    first.write_bytes(filled(first.read_bytes()))
    other.unlink()

    def embed() -> tuple[str, SetFeatures]:
        source = open_evaluation_set(folder, SMALL)
        embedded = features_of(small_model(), source, clips=1, cache=tmp_path / "cache")
        return source.fingerprint(), embedded

    before = embed()
    assert same(embed()[1], before[1]) and len(computed) == 1
    first.write_bytes(replacement)
    after = embed()
    assert after[0] == before[0] and len(computed) == 2
    assert not torch.equal(after[1].video[0], before[1].video[0])
    assert torch.equal(after[1].video[1:], before[1].video[1:])


def damaged_copies(data: bytes) -> dict[str, bytes]:
    flipped = bytearray(data)
    flipped[-100] ^= 1
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"]["key"] = header["__metadata__"]["key"].replace(
        '"clips": 1', '"clips": 2'
    )
    text = json.dumps(header).encode()
    return {
        "cut": data[: len(data) // 2],
        "empty": b"",
        "one bit": bytes(flipped),
        "another key": len(text).to_bytes(8, "little") + text + data[start:],
    }


@pytest.mark.parametrize("damage", ["cut", "empty", "one bit", "another key"])
def test_a_damaged_file_is_computed_again_and_replaced(tmp_path, computed, caplog, damage):
    model, source = small_model(), open_evaluation_set("rendered:24", SMALL)
    first = features_of(model, source, clips=1, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damaged_copies(path.read_bytes())[damage])
    again = features_of(model, source, clips=1, cache=tmp_path)
    assert len(computed) == 2 and same(first, again)
    assert f"{path}: " in caplog.text
    assert same(first, features_of(model, source, clips=1, cache=tmp_path))
    assert len(computed) == 2
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        features_of(small_model(), RenderedVideos(1, SMALL), clips=1, cache=tmp_path / "file")


def test_a_model_that_gives_nan_is_refused_with_the_video_and_not_cached(tmp_path):
    model = small_model()
    with torch.no_grad():
        model.head.bn6.bias[0] = float("nan")
    with pytest.raises(ModelError, match="rendered-00000: the model gives NaN"):
        features_of(model, RenderedVideos(3, SMALL), clips=1, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_reader_that_fails_ends_the_embedding(monkeypatch):
    videos = RenderedVideos(30, SMALL)

    def read(video, indices):
        raise InputError(f"video {video} is broken")

    monkeypatch.setattr(videos, "read", read)
    with pytest.raises(InputError, match="video 0 is broken"):
        features_of(small_model(), videos, clips=1, batch_clips=4)


def test_shapes_that_do_not_belong_together_are_refused():
    embedded = features_of(small_model(), RenderedVideos(2, SMALL), clips=1)
    with pytest.raises(InputError, match=r"clip_seconds has shape \(1, 2\), expected \(2, 2\)"):
        dataclasses.replace(embedded, clip_seconds=embedded.clip_seconds[:1])
