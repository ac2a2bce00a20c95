"""One video in, embeddings out: shapes, times, batch invariance, bounded memory, provenance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from media import Recipe, write_video
from project import ROOT
from tiny_models import tiny_model

from ccl_hub import video
from ccl_hub.batch import embed_many
from ccl_hub.config import CCLConfig, Preprocessing
from ccl_hub.embed import Embeddings, embed_frames, embed_image, embed_video
from ccl_hub.embed.in_memory import preprocess
from ccl_hub.errors import InputError, MediaNotFoundError, ModelError
from ccl_hub.model import CCLModel
from ccl_hub.network.frame_graph import FrameGraph

BALLS = ROOT / "examples" / "bouncing_balls.mp4"  # 6 s, 25 fps, 320x240


@pytest.fixture(scope="module")
def model() -> CCLModel:
    return tiny_model()


@pytest.fixture(scope="module")
def balls(model: CCLModel) -> Embeddings:
    return embed_video(model, BALLS)


def test_shapes_times_and_provenance(balls: Embeddings) -> None:
    assert balls.clips.shape == (10, 16) and balls.clips.dtype == np.float32
    assert balls.frames.shape == (10, 8, 16) and balls.frames.dtype == np.float32
    assert balls.video.shape == (16,)
    np.testing.assert_allclose(balls.video, balls.clips.mean(axis=0), rtol=1e-6)
    assert balls.clip_seconds[0, 0] == 0
    np.testing.assert_allclose(balls.clip_seconds[-1, 1], 6.0, atol=1e-6)
    np.testing.assert_allclose(np.diff(balls.clip_seconds[:, 0]), (6 - 1.28) / 9, atol=1e-6)
    centres = balls.clip_seconds[:, :1] + (np.arange(8) + 0.5) * 0.16
    assert np.abs(balls.frame_seconds - centres).max() <= 0.02 + 1e-6  # half a frame at 25 fps
    facts = balls.provenance
    assert (facts.source, facts.source_frames) == (str(BALLS), 150)
    assert facts.source_bytes == BALLS.stat().st_size
    assert facts.completeness == "complete" and not balls.incomplete
    assert facts.sampling == "clips=10" and "PyAV" in facts.decoder


def test_equals_the_steps_done_by_hand(model: CCLModel, balls: Embeddings) -> None:
    frames = [frame for _, frame in video.iter_frames(BALLS, model.preprocessing)]
    wanted = np.rint(balls.frame_seconds[3] * 25).astype(int)
    clip = torch.from_numpy(np.stack([frames[i] for i in wanted]))  # (8,128,171,3)
    top, left = (128 - 112) // 2, (171 - 112) // 2
    crop = clip[:, top : top + 112, left : left + 112].permute(3, 0, 1, 2).float() / 255
    pre = model.preprocessing
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (pre.mean, pre.std))
    with torch.inference_mode():
        output = model(((crop - mean) / std)[None])
    np.testing.assert_allclose(output.video[0].numpy(), balls.clips[3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(output.frames[0].numpy(), balls.frames[3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batch_size_does_not_matter(model: CCLModel, balls: Embeddings, batch_size: int) -> None:
    again = embed_video(model, BALLS, batch_size=batch_size)
    scale = float(np.abs(balls.clips).max())
    np.testing.assert_allclose(again.clips, balls.clips, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(
        again.frames, balls.frames, rtol=0, atol=1e-5 * float(np.abs(balls.frames).max())
    )


def test_windows_cover_the_whole_video_with_the_tail(model: CCLModel) -> None:
    result = embed_video(model, BALLS, every_seconds=1.0)
    starts = result.clip_seconds[:, 0]
    np.testing.assert_allclose(starts, [0, 1, 2, 3, 4, 4.72], atol=1e-6)
    assert result.clip_seconds[-1, 1] == pytest.approx(6.0)
    assert result.provenance.sampling == "every_seconds=1"


def test_arrays_give_what_the_file_gives(model: CCLModel, balls: Embeddings) -> None:
    frames = np.stack([frame for _, frame in video.iter_frames(BALLS, model.preprocessing)])
    seconds = np.arange(150) / 25
    result = embed_frames(model, frames, seconds)  # already 128 x 171: the resize is the identity
    np.testing.assert_allclose(result.clips, balls.clips, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.frame_seconds, balls.frame_seconds, atol=1e-9)


def test_an_image_is_a_video_of_one_frame(model: CCLModel, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    image = pytest.importorskip("PIL.Image").fromarray(pixels)
    image.save(tmp_path / "still.png")
    from_array = embed_image(model, pixels)
    assert from_array.clips.shape == (1, 16) and from_array.frames.shape == (1, 8, 16)
    assert np.abs(from_array.frames - from_array.frames[:, :1]).max() < 1e-6
    for other in (image, tmp_path / "still.png", str(tmp_path / "still.png")):
        np.testing.assert_allclose(
            embed_image(model, other).clips, from_array.clips, rtol=1e-3, atol=1e-4
        )


def test_a_pil_image_is_treated_as_its_file_is(model: CCLModel, tmp_path: Path) -> None:
    pil = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (9, 16, 4), dtype=np.uint8)
    smooth = pil.fromarray(pixels).resize((160, 90), pil.Resampling.BICUBIC)
    turned = pil.Exif()
    turned[0x112] = 6  # to be shown turned by 90 degrees
    smooth.convert("RGB").save(tmp_path / "turned.jpg", exif=turned, quality=95)
    smooth.save(tmp_path / "transparent.png")
    for name in ("turned.jpg", "transparent.png"):
        from_file = embed_image(model, tmp_path / name).video
        with pil.open(tmp_path / name) as image:
            from_image = embed_image(model, image).video
        assert np.linalg.norm(from_image - from_file) < 0.02 * np.linalg.norm(from_file), name


def test_what_is_no_image_is_named(model: CCLModel) -> None:
    deep = pytest.importorskip("PIL.Image").fromarray(np.zeros((40, 40), np.uint16))
    with pytest.raises(InputError, match="'I;16', more than 8 bits"):
        embed_image(model, deep)
    with pytest.raises(InputError, match="is a NoneType"):
        embed_image(model, None)
    with pytest.raises(InputError, match=r"shape \(40, 40\)"):
        embed_image(model, np.zeros((40, 40), np.uint8))


def test_frames_may_be_a_list_or_a_tensor(model: CCLModel) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
    wanted = embed_frames(model, frames, [0, 1, 2], clips=1).clips
    for other in (list(frames), torch.from_numpy(frames)):
        np.testing.assert_array_equal(embed_frames(model, other, [0, 1, 2], clips=1).clips, wanted)
    image = embed_image(model, torch.from_numpy(frames[0])).clips
    np.testing.assert_array_equal(image, embed_image(model, frames[0]).clips)


def test_a_model_that_gives_nan_is_an_error() -> None:
    broken = tiny_model()
    with torch.no_grad():
        broken.head.bn6.bias.fill_(float("nan"))
    with pytest.raises(ModelError, match="NaN or infinity in float32"):
        embed_frames(broken, np.zeros((1, 40, 40, 3), np.uint8), [0.0])


def test_too_little_memory_names_the_batch_size(
    model: CCLModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(FrameGraph, "forward", fail)
    with pytest.raises(InputError, match=r"memory \(CUDA out of memory\); .* batch_size"):
        embed_frames(model, np.zeros((1, 40, 40, 3), np.uint8), [0.0])


def test_a_video_shorter_than_a_clip_is_looped_and_computed_once(
    model: CCLModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    original = FrameGraph.forward

    def counting(self: FrameGraph, frames: torch.Tensor):
        counts.append(len(frames))
        return original(self, frames)

    monkeypatch.setattr(FrameGraph, "forward", counting)
    frames = np.random.default_rng(0).integers(0, 256, (3, 128, 171, 3), dtype=np.uint8)
    result = embed_frames(model, frames, [0.0, 0.25, 0.5])
    assert sum(counts) == 3, "each frame once"
    assert result.clips.shape == (10, 16)
    # Instants 0.08 + k*0.16 s modulo 0.75 s, nearest of 0, 0.25 and 0.5 s.
    np.testing.assert_allclose(
        result.frame_seconds[0], [0.0, 0.25, 0.5, 0.5, 0.5, 0.25, 0.25, 0.5], atol=1e-9
    )


def test_a_model_of_frames_on_screen_takes_them_everywhere(tmp_path: Path) -> None:
    """Slides of 2 s: a file alone, in a batch, as arrays, and for a model that was saved."""
    config = CCLConfig(tiny_model().config.architecture, Preprocessing(frame_choice="on_screen"))
    torch.manual_seed(0)
    model = CCLModel(config).eval()
    ticks = tuple(range(0, 12_000, 2000))
    path = write_video(tmp_path, Recipe("slides.mkv", "libx264", 6, ticks=ticks))
    alone = embed_video(model, path, every_seconds=0.5)
    instants = alone.clip_seconds[:, :1] + 0.08 + 0.16 * np.arange(8)  # (W,8)
    shown = np.minimum(instants // 2.0, 5) * 2.0
    np.testing.assert_array_equal(alone.frame_seconds, shown)
    nearest = CCLModel(CCLConfig(config.architecture)).eval()
    other = embed_video(nearest, path, every_seconds=0.5)
    assert ((other.frame_seconds != shown).any(axis=1)).sum() >= 10
    saved = CCLModel.from_pretrained(model.save_pretrained(tmp_path / "model"))
    assert saved.preprocessing.frame_choice == "on_screen"
    (item,) = embed_many([path], saved, every_seconds=0.5)
    pixels = np.zeros((6, 48, 64, 3), np.uint8)
    arrays = embed_frames(saved, pixels, np.arange(6) * 2.0, every_seconds=0.5)
    np.testing.assert_array_equal(item.embeddings.frame_seconds, shown)
    np.testing.assert_allclose(item.embeddings.clips, alone.clips, atol=1e-5)
    count = min(len(shown), len(arrays.frame_seconds))
    np.testing.assert_array_equal(arrays.frame_seconds[: count - 1], shown[: count - 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clips": 0}, "clips is 0"),
        ({"clips": 3, "every_seconds": 1.0}, "give one"),
        ({"every_seconds": 0.0}, "every_seconds is 0"),
        ({"every_seconds": float("nan")}, "every_seconds is nan"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_arguments(model: CCLModel, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        embed_video(model, BALLS, **arguments)


def test_missing_file(model: CCLModel, tmp_path: Path) -> None:
    with pytest.raises(MediaNotFoundError, match=r"no\.mp4"):
        embed_video(model, tmp_path / "no.mp4")


@pytest.mark.parametrize(
    ("frames", "seconds", "message"),
    [
        (np.zeros((2, 32, 32, 3), np.float32), [0, 1], "float32"),
        (np.zeros((2, 3, 32, 32), np.uint8), [0, 1], r"\(2, 3, 32, 32\)"),
        (np.zeros((0, 32, 32, 3), np.uint8), [], r"N >= 1"),
        (np.zeros((2, 32, 32, 3), np.uint8), [0], r"\(1,\) for 2 frames"),
        (np.zeros((2, 32, 32, 3), np.uint8), [1, 0], "ascending"),
        (np.zeros((2, 32, 32, 3), np.uint8), [0, np.nan], "finite"),
    ],
)
def test_bad_arrays(model: CCLModel, frames: np.ndarray, seconds: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        embed_frames(model, frames, seconds)


def test_training_mode_is_refused() -> None:
    with pytest.raises(InputError, match=r"model\.eval\(\)"):
        embed_video(tiny_model().train(), BALLS)


def test_preprocess_equals_what_embed_frames_feeds(model: CCLModel) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (8, 60, 90, 3), dtype=np.uint8)
    clips = preprocess(frames)
    assert clips.shape == (1, 3, 8, 112, 112)
    with torch.inference_mode():
        by_hand = model(clips).video[0].numpy()
    seconds = (np.arange(8) + 0.5) * 0.16
    np.testing.assert_allclose(
        embed_frames(model, frames, seconds, clips=1).clips[0], by_hand, rtol=1e-4, atol=1e-5
    )
    assert preprocess(np.stack([frames, frames])).shape == (2, 3, 8, 112, 112)
    with pytest.raises(InputError, match="uint8"):
        preprocess(frames.astype(np.float32))


def test_short_side_preset_keeps_the_aspect_ratio() -> None:
    pre = Preprocessing(resize="short_side")
    frames = np.zeros((1, 240, 480, 3), np.uint8)
    assert video.resize_rgb(frames, pre).shape == (1, 128, 256, 3)
    assert preprocess(frames, pre).shape == (1, 3, 1, 112, 112)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_save_and_load_everything(balls: Embeddings, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"feats{suffix}"
    balls.save(path)
    again = Embeddings.load(path)
    for name in ("clips", "clip_seconds", "frames", "frame_seconds", "video"):
        np.testing.assert_array_equal(getattr(again, name), getattr(balls, name))
    assert again.provenance == balls.provenance


def test_npz_holds_what_is_documented_and_nothing_else(balls: Embeddings, tmp_path: Path) -> None:
    balls.save(tmp_path / "feats.npz")
    with np.load(tmp_path / "feats.npz", allow_pickle=False) as file:
        names = {"clips", "clip_seconds", "frames", "frame_seconds", "video", "provenance"}
        assert set(file.files) == names


@pytest.mark.parametrize("name", ["junk.npz", "other.npz", "cut.npz", "junk.safetensors"])
def test_what_is_not_ours_is_a_clear_error(balls: Embeddings, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "other.npz":
        np.savez(path, a=np.zeros(3))
    elif name == "cut.npz":
        balls.save(path)
        path.write_bytes(path.read_bytes()[:-200])
    else:
        path.write_bytes(b"junk")
    with pytest.raises(InputError, match=rf"{name}: not embeddings"):
        Embeddings.load(path)


@pytest.mark.parametrize(
    ("level", "name"), [(None, "clips"), ("frame", "frames"), ("video", "video")]
)
def test_npy_holds_the_level_asked_for(
    balls: Embeddings, tmp_path: Path, level: str | None, name: str
) -> None:
    balls.save(tmp_path / "feats.npy", level)
    np.testing.assert_array_equal(np.load(tmp_path / "feats.npy"), getattr(balls, name))


@pytest.mark.parametrize(
    ("name", "level", "message"),
    [
        ("feats.csv", None, r"\.npy, \.npz, \.safetensors"),
        ("feats.npy", "scene", "clip, frame, video"),
        ("feats.npz", "clip", "every level"),
    ],
)
def test_bad_outputs(
    balls: Embeddings, tmp_path: Path, name: str, level: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        balls.save(tmp_path / name, level)
    assert not list(tmp_path.iterdir())


def test_a_damaged_frame_gives_an_incomplete_result_from_the_rest(
    model: CCLModel, tmp_path: Path
) -> None:
    data = bytearray(BALLS.read_bytes())
    middle = len(data) // 2  # the picture data of a faststart file lies at its end
    data[middle : middle + 3000] = bytes(3000)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    result = embed_video(model, path)
    assert result.incomplete and result.provenance.note
    assert result.clips.shape == (10, 16) and np.isfinite(result.clips).all()
    assert result.provenance.source_frames < 150


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_file_cut_short_is_never_plain_success(
    model: CCLModel, tmp_path: Path, share: float
) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(BALLS.read_bytes()[: int(BALLS.stat().st_size * share)])
    result = embed_video(model, path)
    assert result.incomplete
    assert result.provenance.duration_seconds < 6 * share + 1
