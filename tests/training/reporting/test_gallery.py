"""Galleries: who is right is known beforehand, and thumbnails are of what was found."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from report_data import features_by, rendered_set

from ccl_hub.errors import ConfigError, TrainingError
from training.data.datasets import VideoList
from training.reporting.gallery import galleries


@pytest.fixture(scope="module")
def source():
    return rendered_set()


def verdicts(gallery):
    return [[answer.verdict for answer in query.answers] for query in gallery.queries]


def test_each_its_own_clip(source):
    def by_clip(video, clip):
        return torch.eye(48)[2 * video + clip]

    to_video, to_frame, _ = galleries(source, features_by(by_clip, source), "m", neighbours=3)
    assert all(row[0] == "right" for row in verdicts(to_video))
    assert all(row[:3] == ["right"] * 3 for row in verdicts(to_frame)), "four frames of the clip"
    first = to_video.queries[0]
    assert first.answers[0].words == "✓ this very clip"
    assert first.answers[0].cosine == pytest.approx(1)
    assert "F ⇒ V" in to_video.title and "8 test videos" in to_video.text


def test_videos_whose_clips_look_alike_are_near_or_right(source):
    def by_video(video, clip):
        return torch.eye(24)[video]

    to_video, to_frame, _ = galleries(source, features_by(by_video, source), "m", neighbours=3)
    for row in verdicts(to_video):
        assert sorted(row[:2]) == ["near", "right"] and row[2] == "wrong"
    assert all("wrong" not in row for row in verdicts(to_frame))


def test_classes_found_and_missed(source):
    targets = source.videos.targets()

    def by_class(video, clip):
        return torch.eye(8)[targets[video]]

    def by_wrong_class(video, clip):
        test = source.videos.items[video].split == "test"
        return torch.eye(8)[(targets[video] + test) % 8]

    right = galleries(source, features_by(by_class, source), "m")[2]
    assert verdicts(right) == [["right"] * 4 + ["wrong"]] * 4, "two videos of two clips a class"
    wrong = galleries(source, features_by(by_wrong_class, source), "m", neighbours=4)[2]
    assert verdicts(wrong) == [["wrong"] * 4] * 4
    label = source.videos.items[0].label
    assert any(label in answer.words for query in right.queries for answer in query.answers)


def random_features(source):
    generator = torch.Generator().manual_seed(0)
    return features_by(lambda video, clip: torch.randn(8, generator=generator), source)


def test_queries_are_drawn_by_the_seed_alone(source):
    def drawn(features, seed):
        made = galleries(source, features, "m", seed=seed)
        return [[query.thumbnail.alt for query in gallery.queries] for gallery in made]

    one = random_features(source)
    other = features_by(lambda video, clip: torch.eye(24)[video], source)
    assert drawn(one, 0) == drawn(other, 0), "the model has no say"
    assert drawn(one, 0) != drawn(one, 1)
    for names in drawn(one, 0):
        assert len(set(names)) == 4


def test_thumbnails_are_jpeg_of_the_frames_they_name(source):
    features = random_features(source)
    gallery = galleries(source, features, "m", queries=1, neighbours=1)[1]
    thumbnail = gallery.queries[0].answers[0].thumbnail
    name, seconds = thumbnail.caption.split(" · ")
    data = base64.b64decode(thumbnail.image.removeprefix("data:image/jpeg;base64,"))
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (thumbnail.width_px, thumbnail.height_px)
        seen = np.asarray(image.convert("RGB"), np.float64)
    video = source.names.index(name)
    nearest = int(np.abs(source.seconds(video) - float(seconds.split()[0])).argmin())
    frame = Image.fromarray(source.read(video, [nearest])[0])
    small = frame.resize((thumbnail.width_px, thumbnail.height_px), Image.Resampling.BILINEAR)
    assert np.abs(seen - np.asarray(small, np.float64)).mean() < 6
    assert name in thumbnail.alt and source.videos.items[video].label in thumbnail.alt


def test_fewer_videos_than_asked_for_are_all_shown(source):
    few = features_by(lambda video, clip: torch.eye(24)[video], source, clips=1, frames=2)
    made = galleries(source, few, "m", queries=99, neighbours=99)
    assert [len(gallery.queries) for gallery in made] == [8, 8, 8]
    assert [len(gallery.queries[0].answers) for gallery in made] == [8, 16, 16]


def test_what_cannot_be_searched_is_refused(source):
    features = random_features(source)
    with pytest.raises(ConfigError, match="at least 1"):
        galleries(source, features, "m", queries=0)
    plain = rendered_set()
    items = [item for item in plain.videos if item.split == "train"]
    plain.videos = VideoList("no test", tuple(items), plain.videos.classes)
    with pytest.raises(TrainingError, match="split 'test'"):
        galleries(plain, features, "m")
