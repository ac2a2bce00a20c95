"""Still images: where a JPEG ends, which way is up, films of JPEGs, names, codes, TIFF."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from media import Recipe, numbered_frame, read_number, write_video

from ccl_hub.config import Preprocessing
from ccl_hub.errors import DecodeError, MediaError, MediaLimitError, UnsupportedMediaError
from ccl_hub.video import MediaLimits, VideoInfo, VideoReader, load_image, resize_rgb
from ccl_hub.video.file import MediaFile
from ccl_hub.video.headers.wholeness import tiff_tags, wholeness

Image = pytest.importorskip("PIL.Image")
ImageOps = pytest.importorskip("PIL.ImageOps")
features = pytest.importorskip("PIL.features")

PAPER = Preprocessing()
needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")


def encoded(pixels: np.ndarray, kind: str = "jpeg", **options: object) -> bytes:
    """Return an image as the bytes of a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def info_of(path: Path) -> VideoInfo:
    with VideoReader(path, resize=PAPER) as reader:
        return reader.info


def numbers_of(path: Path) -> list[int | None]:
    with VideoReader(path, resize=PAPER) as reader:
        count = len(reader.info.seconds)
        return [read_number(frame) for _, frame in reader.frames(range(count))]


PHOTO = encoded(numbered_frame(7, 320, 240))
PROGRESSIVE = encoded(numbered_frame(7, 320, 240), progressive=True)
RESTARTS = encoded(numbered_frame(7, 320, 240), restart_marker_blocks=2)
GRAY = encoded(numbered_frame(7, 320, 240)[..., 0])
SMALL = encoded(numbered_frame(8, 64, 48))


def with_segment(photo: bytes, marker: int, data: bytes) -> bytes:
    """Put an application segment behind the first marker."""
    segment = bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2, "big") + data
    return photo[:2] + segment + photo[2:]


WITH_THUMBNAIL = with_segment(PHOTO, 0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + SMALL)
WITH_INDEX = with_segment(PHOTO, 0xE2, b"MPF\0MM\0*\0\0\0\x08\0\0\0\0\0\0")
FILM_BOX = b"\0\0\0\x18ftypmp42\0\0\0\0isommp42"
TAILS = {
    "nothing": b"",
    "a film": FILM_BOX + b"\0\0\2\0mdat" + bytes(64),
    "a film with an end marker": FILM_BOX + b"\xff\xd9..\xff\xda" + bytes(64),
    "a preview": SMALL,
    "a preview that is cut": SMALL[:-200],
    "zeros": bytes(5000),
}


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("photo", [PHOTO, PROGRESSIVE, RESTARTS, GRAY, WITH_THUMBNAIL, WITH_INDEX])
def test_a_photograph_is_whole_whatever_follows_it(
    tmp_path: Path, photo: bytes, tail: str
) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo + TAILS[tail])
    info = info_of(path)
    assert (info.completeness, len(info.seconds), info.duration_seconds) == ("complete", 1, 0)
    assert read_number(load_image(path, PAPER)[0]) == 7


@pytest.mark.parametrize("tail", [tail for tail in TAILS if tail != "a film with an end marker"])
@pytest.mark.parametrize("photo", [PHOTO, PROGRESSIVE, RESTARTS, WITH_THUMBNAIL])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_cut_photograph_is_cut_whatever_follows_it(
    tmp_path: Path, photo: bytes, tail: str, share: float
) -> None:
    """An end marker in the tail is not its own, unless it comes before any other marker."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo[: int(len(photo) * share)] + TAILS[tail])
    assert wholeness(MediaFile(path)) == "cut"
    with pytest.raises(MediaError):
        load_image(path, PAPER)


def test_a_long_tail_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(PHOTO + bytes(50 << 20))
    read, plain_open = [0], Path.open

    class Counted(io.FileIO):
        def readinto(self, buffer) -> int | None:
            count = super().readinto(buffer)
            read[0] += count or 0
            return count

    def watched(self: Path, mode: str = "r", *arguments: object) -> object:
        if self.name != "photo.jpg":
            return plain_open(self, mode, *arguments)
        return io.BufferedReader(Counted(self))

    monkeypatch.setattr(Path, "open", watched)
    assert wholeness(MediaFile(path)) == "whole"
    assert len(PHOTO) <= read[0] < 1 << 20


# ------------------------------------------------------------------------- which way is up

CORNERS = np.zeros((96, 160, 3), np.uint8)
CORNERS[:48, :80], CORNERS[:48, 80:] = (255, 0, 0), (0, 255, 0)
CORNERS[48:, :80], CORNERS[48:, 80:] = (0, 0, 255), (255, 255, 255)


def prefixed(webp: bytes) -> bytes:
    """Let the EXIF chunk of a WebP begin as in JPEG."""
    at = webp.index(b"EXIF")
    length = int.from_bytes(webp[at + 4 : at + 8], "little")
    exif = b"Exif\0\0" + webp[at + 8 : at + 8 + length]
    body = webp[8:at] + b"EXIF" + len(exif).to_bytes(4, "little") + exif + bytes(len(exif) % 2)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


SAVERS: dict[str, Callable[..., bytes]] = {
    "jpeg": lambda exif: encoded(CORNERS, "jpeg", quality=95, subsampling=0, exif=exif),
    "png": lambda exif: encoded(CORNERS, "png", exif=exif),
    "webp": lambda exif: encoded(CORNERS, "webp", lossless=True, exif=exif),
    "webp with a prefix": lambda exif: prefixed(SAVERS["webp"](exif)),
    "tiff": lambda exif: encoded(CORNERS, "tiff", exif=exif),
    "avif": lambda exif: encoded(CORNERS, "avif", quality=95, subsampling="4:4:4", exif=exif),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [*list(SAVERS)[:-1], pytest.param("avif", marks=needs_avif)])
def test_exif_orientations_are_those_of_pillow(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "image"
    path.write_bytes(SAVERS[kind](exif))
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    info = info_of(path)
    assert (info.height_px, info.width_px) == upright.shape[:2]
    shown, expected = load_image(path, PAPER)[0], resize_rgb(upright[None], PAPER)[0]
    assert np.abs(shown.astype(int) - expected).mean() < 1.5  # a turn or a mirror: above 60


# --------------------------------------------------------------------- films and photographs


def film(count: int, **options: object) -> list[bytes]:
    return [encoded(numbered_frame(i, 160, 128), **options) for i in range(count)]


@pytest.mark.parametrize("name", ["film.mjpeg", "film.mjpg", "film.MJPEG", "film", "film.jpg"])
def test_jpegs_in_a_row_are_a_film(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"".join(film(12)))
    info = info_of(path)
    assert info.duration_seconds == pytest.approx(12 / 25)
    assert (info.completeness, info.container) == ("complete", "mjpeg")
    assert numbers_of(path) == list(range(12))


def test_films_of_two_of_photographs_and_with_padding(tmp_path: Path) -> None:
    path = tmp_path / "film"
    for data in (film(2), [f + bytes(3) for f in film(5)], film(6, exif=Image.Exif())):
        path.write_bytes(b"".join(data))
        assert numbers_of(path) == list(range(len(data)))
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    path.write_bytes(b"".join(film(4, exif=exif)))  # a time lapse
    assert numbers_of(path) == [0, 1, 2, 3]


def test_a_cut_film_is_incomplete(tmp_path: Path) -> None:
    path = tmp_path / "film.mjpeg"
    data = b"".join(film(12))
    path.write_bytes(data[:-500])
    assert info_of(path).completeness == "incomplete"


def test_what_is_behind_a_photograph_is_no_film(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    photo = encoded(numbered_frame(7, 160, 128), exif=exif)
    same = encoded(numbered_frame(8, 160, 128))
    index = with_segment(encoded(numbered_frame(7, 160, 128)), 0xE2, b"MPF\0" + bytes(20))
    for data in (photo + same, photo + SMALL + SMALL, index + same + same, PHOTO + SMALL):
        path = tmp_path / "photo.jpg"
        path.write_bytes(data)
        assert numbers_of(path) == [7]
        assert info_of(path).duration_seconds == 0


def test_what_is_not_a_film_opens_under_its_name(tmp_path: Path) -> None:
    clip = write_video(tmp_path, Recipe("v.mp4", "libx264", 5))
    for name, data in (("a.mjpeg", clip.read_bytes()), ("b.mjpg", PHOTO)):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "c.mjpeg").write_bytes(encoded(numbered_frame(7, 160, 128), "png"))
    assert numbers_of(tmp_path / "a.mjpeg") == [0, 1, 2, 3, 4]
    assert numbers_of(tmp_path / "b.mjpg") == numbers_of(tmp_path / "c.mjpeg") == [7]


# ------------------------------------------------------------------- names, kinds and codes


@pytest.mark.parametrize(
    "name", ["100% x", "%d", "%03d", "what?", "a*b", "[ab]", "{a,b}", "12:30", "plain"]
)
def test_a_name_decides_nothing(tmp_path: Path, name: str) -> None:
    write_video(tmp_path, Recipe("v.apng", "apng", 12, (64, 48), "rgb24", rate=10))
    animation = (tmp_path / "v.apng").read_bytes()
    for suffix in (".png", ".apng", ".jpg", ""):
        path = tmp_path / (name + suffix)
        path.write_bytes(animation)
        info = info_of(path)
        assert (len(info.seconds), info.duration_seconds) == (12, pytest.approx(1.2))
    for kind, suffix in (("png", ".png"), ("webp", ".webp"), ("tiff", ".tif"), ("bmp", ".bmp")):
        path = tmp_path / (name + suffix)
        path.write_bytes(encoded(numbered_frame(7, 160, 128), kind))
        assert read_number(load_image(path, PAPER)[0]) == 7


@pytest.mark.parametrize("options", [{}, {"lossless": True}])
def test_an_animated_webp_is_not_supported_and_says_what_to_do(
    tmp_path: Path, options: dict[str, object]
) -> None:
    path = tmp_path / "animated.webp"
    frames = [Image.fromarray(numbered_frame(i, 64, 48)) for i in range(4)]
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    with pytest.raises(UnsupportedMediaError, match="animated WebP cannot be read; convert it"):
        VideoReader(path, resize=PAPER)
    path.write_bytes(path.read_bytes()[:20])  # cut in front of the flag
    with pytest.raises(DecodeError):
        VideoReader(path, resize=PAPER)


def test_a_jpeg_that_the_decoder_does_not_know_is_not_supported(tmp_path: Path) -> None:
    path = tmp_path / "arithmetic.jpg"
    path.write_bytes(PHOTO.replace(b"\xff\xc0", b"\xff\xc9", 1))  # SOF9: arithmetic coding
    with pytest.raises(UnsupportedMediaError, match="arithmetic coding"):
        VideoReader(path, resize=PAPER)
    path.write_bytes(PHOTO.replace(b"\xff\xc0", b"\xff\xf7", 1))  # a JPEG-LS frame of that kind
    with pytest.raises(UnsupportedMediaError, match="lacks a feature"):
        VideoReader(path, resize=PAPER)


def big_endian_tiff(gray: np.ndarray, first_entry: bytes = b"") -> bytes:
    """Return an uncompressed TIFF of the byte order that Pillow does not write."""
    height, width = gray.shape
    values = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    values[279] = gray.size
    entries = [
        tag.to_bytes(2, "big") + b"\0\4\0\0\0\1" + v.to_bytes(4, "big")
        for tag, v in values.items()
    ]
    entries[:0] = [first_entry] if first_entry else []
    directory = len(entries).to_bytes(2, "big") + b"".join(entries) + bytes(4)
    return b"MM\0*" + (8 + gray.size).to_bytes(4, "big") + gray.tobytes() + directory


@pytest.mark.parametrize(
    "compression", [None, "tiff_lzw", "tiff_deflate", "packbits", "big endian"]
)
def test_tiff_is_read_and_a_cut_one_is_refused(tmp_path: Path, compression: str | None) -> None:
    pixels = numbered_frame(7, 160, 128)
    path = tmp_path / "image.tif"
    if compression == "big endian":
        data = big_endian_tiff(pixels[..., 0])
    else:
        data = encoded(pixels, "tiff", compression=compression)
    path.write_bytes(data)
    info = info_of(path)
    assert (info.container, info.completeness) == ("tiff_pipe", "complete")
    assert (len(info.seconds), info.duration_seconds) == (1, 0)
    assert read_number(load_image(path, PAPER)[0]) == 7
    for share in (0.02, 0.5, 0.95):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(DecodeError):
            load_image(path, PAPER)


@pytest.mark.parametrize("kind_and_count", [(9, 1), (4, 0), (200, 5)])
def test_a_tag_of_tiff_without_numbers_says_nothing(
    tmp_path: Path, kind_and_count: tuple[int, int]
) -> None:
    kind, count = kind_and_count
    entry = struct.pack(">HHII", 254, kind, count, 0)
    path = tmp_path / "image.tif"
    path.write_bytes(big_endian_tiff(numbered_frame(7, 160, 128)[..., 0], entry))
    assert read_number(load_image(path, PAPER)[0]) == 7


def test_a_tag_of_tiff_has_no_more_numbers_than_the_file() -> None:
    entry = struct.pack(">HHII", 273, 1, 1 << 31, 8)
    data = b"MM\0*" + (8).to_bytes(4, "big") + b"\0\1" + entry
    assert len(tiff_tags(io.BytesIO(data))[273]) == len(data) - 8


@pytest.mark.parametrize("mode", ["L", "LA", "I;16", "1", "P", "RGBA", "CMYK", "YCbCr"])
def test_tiff_of_other_kinds_shows_what_pillow_shows(tmp_path: Path, mode: str) -> None:
    pixels = numbered_frame(7, 160, 128)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    image.save(tmp_path / "image.tiff")
    shown = load_image(tmp_path / "image.tiff", PAPER)[0]
    expected = pixels if mode != "I;16" else np.repeat(pixels[..., :1], 3, 2)
    if mode not in ("1", "P"):
        gray = mode in ("L", "LA")
        expected = np.asarray(
            Image.fromarray(pixels).convert("L").convert("RGB") if gray else expected
        )
        assert np.abs(shown.astype(int) - resize_rgb(expected[None], PAPER)[0]).max() <= 3
    assert read_number(shown) == 7


def test_the_raw_file_of_a_camera_is_not_its_preview(tmp_path: Path) -> None:
    path = tmp_path / "raw.tif"
    data = encoded(numbered_frame(7, 160, 128), "tiff", tiffinfo={254: 1})
    path.write_bytes(data)
    with pytest.raises(UnsupportedMediaError, match="raw file of a camera"):
        VideoReader(path, resize=PAPER)


def test_tiff_that_cannot_be_read_is_not_supported(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    path.write_bytes(encoded(numbered_frame(7, 160, 128), "tiff", compression="jpeg"))
    with pytest.raises(UnsupportedMediaError, match="JPEG compression"):
        VideoReader(path, resize=PAPER)
    Image.fromarray(np.ones((64, 64), np.float32)).save(path)
    with pytest.raises(UnsupportedMediaError, match="TIFF of this kind"):
        VideoReader(path, resize=PAPER)


@needs_avif
def test_an_avif_still_lasts_no_time_and_an_animation_does(tmp_path: Path) -> None:
    path = tmp_path / "image.avif"
    path.write_bytes(encoded(numbered_frame(7, 160, 128), "avif"))
    info = info_of(path)
    assert (len(info.seconds), info.duration_seconds) == (1, 0)
    frames = [Image.fromarray(numbered_frame(i, 160, 128)) for i in range(5)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    assert info_of(path).duration_seconds == pytest.approx(0.5)
    assert numbers_of(path) == [0, 1, 2, 3, 4]


def test_a_video_of_one_frame_keeps_its_duration(tmp_path: Path) -> None:
    for name, codec in (("v.mp4", "libx264"), ("v.mkv", "mjpeg"), ("v.mov", "png")):
        pixel_format = {"mjpeg": "yuvj420p", "png": "rgb24"}.get(codec, "yuv420p")
        path = write_video(tmp_path, Recipe(name, codec, 1, pixel_format=pixel_format))
        assert info_of(path).duration_seconds == pytest.approx(0.04, abs=0.001)


@pytest.mark.parametrize("size", [(1, 65535), (65535, 1), (3, 20000), (20000, 2)])
@pytest.mark.parametrize("kind", ["gif", "png", "bmp"])
def test_long_thin_images_are_read(tmp_path: Path, kind: str, size: tuple[int, int]) -> None:
    """libswscale's filters do not reach that far in one pass."""
    width, height = size
    line = np.linspace(0, 255, max(size)).astype(np.uint8)
    gray = np.broadcast_to(line[:, None] if height > width else line, (height, width))
    path = tmp_path / f"thin.{kind}"
    path.write_bytes(encoded(np.repeat(gray[..., None], 3, axis=2), kind))
    shown = load_image(path, PAPER)[0].astype(int)
    along = shown.mean(axis=(1, 2)) if height > width else shown.mean(axis=(0, 2))
    expected = (np.arange(len(along)) + 0.5) * 255 / len(along)
    assert np.abs(along - expected).max() < 3


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "tiff", "gif", "webp"])
def test_images_that_are_too_large_say_their_size(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(encoded(numbered_frame(7, 64, 48), kind))
    with pytest.raises(MediaLimitError, match="64x48; allowed: at most 100 pixels"):
        load_image(path, PAPER, MediaLimits(max_pixels=100))


@pytest.mark.parametrize("kind", ["png", "bmp"])
def test_what_ffmpeg_never_reads_is_too_large(tmp_path: Path, kind: str) -> None:
    """Its pixels are few, but FFmpeg counts 128 more on each axis."""
    path = tmp_path / "image"
    data = encoded(numbered_frame(7, 64, 48), kind)
    old, new = (
        struct.pack(">II" if kind == "png" else "<ii", *size)
        for size in ((64, 48), (1, 20_000_000))
    )
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    with pytest.raises(MediaLimitError, match="frames are 1x20000000; allowed: at most 268435455"):
        load_image(path, PAPER)


def test_a_multi_picture_file_of_pillow_is_its_first_picture(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    first, *rest = [Image.fromarray(numbered_frame(i, 160, 128)) for i in (7, 8, 9)]
    first.save(path, "MPO", save_all=True, append_images=rest)
    assert numbers_of(path) == [7]
    assert info_of(path).completeness == "complete"


def test_gray_of_still_images_is_of_full_range(tmp_path: Path) -> None:
    gray = np.repeat(np.arange(0, 256, 2, dtype=np.uint8)[None], 128, 0)
    expected = resize_rgb(np.repeat(gray[None, ..., None], 3, 3), PAPER)[0].astype(int)
    for kind in ("png", "tiff", "bmp", "gif", "jpeg"):
        path = tmp_path / f"gray.{kind}"
        path.write_bytes(encoded(gray, kind, **({"quality": 100} if kind == "jpeg" else {})))
        assert np.abs(load_image(path, PAPER)[0] - expected).max() <= 2, kind
    with av.open(str(tmp_path / "gray.jpeg")) as container:
        assert next(container.decode(video=0)).format.name == "gray"
