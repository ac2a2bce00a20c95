"""What the container says of a picture: crop, alpha, and which of its tracks to show."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from media import Recipe, numbered_frame, read_number, write_video

from ccl_hub.config import Preprocessing
from ccl_hub.video import VideoReader, load_image
from ccl_hub.video.file import MediaFile
from ccl_hub.video.headers import layout as video_layout
from ccl_hub.video.headers.layout import NO_CROP, Crop, image_layout, matroska_crop, track_crop

PAPER = Preprocessing()
WIDTH, HEIGHT = 200, 160
LEFT, TOP, RIGHT, BOTTOM = 22, 6, 18, 26
CROPPED = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
H264 = {"bf": "2", "g": "12", "preset": "veryfast", "qp": "10"}


def bordered(number: int, width: int, height: int) -> np.ndarray:
    """Return a numbered frame within red borders."""
    picture = np.full((height, width, 3), (220, 0, 0), np.uint8)
    picture[TOP : height - BOTTOM, LEFT : width - RIGHT] = numbered_frame(
        number, width - LEFT - RIGHT, height - TOP - BOTTOM
    )
    return picture


def shown(path: Path) -> tuple[tuple[int, int, int], list[int | None]]:
    """Return width, height and rotation of a video, and the numbers of its frames."""
    with VideoReader(path, resize=PAPER) as reader:
        info = reader.info
        numbers = [read_number(f) for _, f in reader.frames(range(len(info.seconds)))]
    return (info.width_px, info.height_px, info.rotation_degrees), numbers


# ------------------------------------------------------------------------ files with a crop


def mp4_with(data: bytes, path: Sequence[bytes], box: bytes) -> bytes:
    """Put a box at the end of a path of boxes; the index must be the last box of the file."""
    out, start = bytearray(data), 0
    boxes = []
    for name in path:
        while out[start + 4 : start + 8] != name:
            start += int.from_bytes(out[start : start + 4], "big")
        boxes.append(start)
        start += {b"stsd": 16, b"meta": 12}.get(name, 8)
    end = boxes[-1] + int.from_bytes(out[boxes[-1] : boxes[-1] + 4], "big")
    out[end:end] = box
    for position in boxes:
        size = int.from_bytes(out[position : position + 4], "big") + len(box)
        out[position : position + 4] = size.to_bytes(4, "big")
    return bytes(out)


def clap(width: int, height: int, right_of: int, below: int) -> bytes:
    """Return a clap box; offsets in half pixels."""
    body = struct.pack(">8i", width, 1, height, 1, right_of, 2, below, 2)
    return (8 + len(body)).to_bytes(4, "big") + b"clap" + body


ENTRY = b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd"
CLAP = clap(*CROPPED, LEFT - RIGHT, TOP - BOTTOM)


def mkv_with_crop(data: bytes, left: int, top: int, right: int, bottom: int) -> bytes:
    """Put the elements of a crop into the first Video element."""
    names = (b"\x54\xcc", b"\x54\xbb", b"\x54\xdd", b"\x54\xaa")
    crop = b"".join(
        name + b"\x81" + bytes([value])
        for name, value in zip(names, (left, top, right, bottom), strict=True)
        if value
    )
    out, start, elements = bytearray(data), 0, []
    for name in (b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\xae", b"\xe0"):
        while True:
            body = start + 9 - out[start].bit_length()
            width = 9 - out[body].bit_length()
            size = int.from_bytes(out[body : body + width], "big") & ((1 << 7 * width) - 1)
            if out[start:body] == name:
                break
            start = body + width + size
        elements.append((body, width, size))
        start = body + width
    end = sum(elements[-1])
    out[end:end] = crop
    for body, width, size in elements:
        value = (1 << 7 * width) | (size + len(crop))
        out[body : body + width] = value.to_bytes(width, "big")
    return bytes(out)


def write_cropped(folder: Path, name: str, rotation: int = 0) -> Path:
    """Write a video whose container crops its red borders away."""
    recipe = Recipe(
        name, "libx264", 12, (WIDTH, HEIGHT), options=H264, rotation=rotation, make=bordered
    )
    path = write_video(folder, recipe)
    data = path.read_bytes()
    if name.endswith("mkv"):
        path.write_bytes(mkv_with_crop(data, LEFT, TOP, RIGHT, BOTTOM))
    else:
        path.write_bytes(mp4_with(data, (*ENTRY, b"avc1"), CLAP))
    return path


@pytest.mark.parametrize("name", ["v.mp4", "v.mov", "v.mkv"])
def test_the_crop_of_the_container_is_applied(tmp_path: Path, name: str) -> None:
    size, numbers = shown(write_cropped(tmp_path, name))
    assert size == (*CROPPED, 0)
    assert numbers == list(range(12))


@pytest.mark.parametrize("rotation", [90, 180, -90])
@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_the_crop_comes_before_the_rotation(tmp_path: Path, name: str, rotation: int) -> None:
    path = write_cropped(tmp_path, name, rotation)
    with VideoReader(path, resize=PAPER) as reader:
        info = reader.info
        _, frame = next(reader.frames([5]))
    expected = CROPPED if rotation == 180 else CROPPED[::-1]
    assert (info.width_px, info.height_px) == expected
    back = np.rot90(frame, -rotation // 90)
    assert read_number(back) == 5


def test_frames_after_a_seek_are_cropped(tmp_path: Path) -> None:
    recipe = Recipe(
        "v.mkv", "libx264", 60, (WIDTH, HEIGHT), options=H264 | {"bf": "0"}, make=bordered
    )
    path = write_video(tmp_path, recipe)
    path.write_bytes(mkv_with_crop(path.read_bytes(), LEFT, TOP, RIGHT, BOTTOM))
    with VideoReader(path, resize=PAPER) as reader:
        assert [read_number(f) for _, f in reader.frames([1, 50])] == [1, 50]


def test_a_crop_that_leaves_nothing_or_is_negative_is_none(tmp_path: Path) -> None:
    video = write_video(tmp_path, Recipe("v.mp4", "libx264", 3, (64, 48), options=H264))
    data = video.read_bytes()
    for box in (
        clap(100, 48, 0, 0),
        clap(60, 48, 40, 0),
        b"\0\0\0\x0cclap....",
        clap(64, 48, 0, 0),
    ):
        video.write_bytes(mp4_with(data, (*ENTRY, b"avc1"), box))
        assert shown(video) == ((64, 48, 0), [0, 1, 2])


def test_an_odd_crop_is_exact(tmp_path: Path) -> None:
    path = write_video(tmp_path, Recipe("v.mkv", "libx264", 2, (64, 48), options=H264))
    path.write_bytes(mkv_with_crop(path.read_bytes(), 3, 5, 0, 0))
    assert matroska_crop(MediaFile(path), 0) == Crop(3, 5, 0, 0)
    assert shown(path)[0] == (61, 43, 0)


def test_files_without_a_crop_have_none(tmp_path: Path) -> None:
    for name in ("v.mp4", "v.mkv"):
        path = write_video(tmp_path, Recipe(name, "libx264", 3, (64, 48), options=H264))
        media = MediaFile(path)
        crop = track_crop(media, 1) if name == "v.mp4" else matroska_crop(media, 0)
        assert crop == NO_CROP
        data = path.read_bytes()
        for length in range(0, len(data), 41):  # cut anywhere: no answer, no error
            path.write_bytes(data[:length])
            assert track_crop(MediaFile(path), 1) == matroska_crop(MediaFile(path), 0) == NO_CROP
            assert image_layout(MediaFile(path), 1).crop == NO_CROP


# -------------------------------------------------------------------------- HEIF and AVIF


def avif(pixels: np.ndarray, **options: object) -> bytes:
    """Return an image as AVIF; skips where Pillow writes none."""
    image = pytest.importorskip("PIL.Image")
    if not pytest.importorskip("PIL.features").check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    file = io.BytesIO()
    image.fromarray(pixels).save(file, "avif", quality=95, subsampling="4:4:4", **options)
    return file.getvalue()


def with_clap_property(data: bytes, box: bytes) -> bytes:
    """Give the one item of an AVIF a clap property, behind those that it has."""
    media, first, count = data.index(b"mdat"), data.index(b"ipco") + 4, 0
    while data[first + 4 : first + 8] != b"ipma":
        first += int.from_bytes(data[first : first + 4], "big")
        count += 1
    longer = mp4_with(data, (b"meta", b"iprp", b"ipco"), box)
    out = bytearray(mp4_with(longer, (b"meta", b"iprp", b"ipma"), bytes([0x80 | count + 1])))
    out[out.index(b"ipma") + 14] += 1  # properties of the item
    grown, iloc = len(out) - len(data), out.index(b"iloc")
    for position in range(iloc, iloc + int.from_bytes(out[iloc - 4 : iloc], "big") - 8):
        old = int.from_bytes(out[position : position + 4], "big")
        if media <= old < len(data):
            out[position : position + 4] = (old + grown).to_bytes(4, "big")
    return bytes(out)


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_crop_of_an_avif_still_is_applied(tmp_path: Path, orientation: int) -> None:
    image = pytest.importorskip("PIL.Image")
    exif = image.Exif()
    exif[0x0112] = orientation
    plain = avif(bordered(9, WIDTH, HEIGHT), **({"exif": exif} if orientation > 1 else {}))
    path = tmp_path / "v.avif"
    path.write_bytes(with_clap_property(plain, CLAP))
    assert image_layout(MediaFile(path), 1).crop == Crop(LEFT, TOP, RIGHT, BOTTOM)
    with VideoReader(path, resize=PAPER) as reader:
        info = reader.info
        frame = next(reader.frames([0]))[1]
    assert (info.width_px, info.height_px) == (CROPPED if orientation == 1 else CROPPED[::-1])
    assert read_number(frame if orientation == 1 else np.rot90(frame)) == 9


def half_transparent(size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """Return RGBA: left opaque red, then half transparent, right transparent green."""
    rgba = np.zeros((size[1], size[0], 4), np.uint8)
    third = size[0] // 3
    rgba[:, :third] = (255, 0, 0, 255)
    rgba[:, third : 2 * third] = (255, 0, 0, 128)
    rgba[:, 2 * third :] = (0, 255, 0, 0)
    return rgba


def is_composited(frame: np.ndarray) -> bool:
    thirds = [frame[20:-20, x : x + 20].mean(axis=(0, 1)) for x in (20, 76, 130)]
    expected = [(255, 0, 0), (128, 0, 0), (0, 0, 0)]
    return bool(np.abs(np.array(thirds) - expected).max() < 6)


def test_the_alpha_of_an_avif_still_is_composited(tmp_path: Path) -> None:
    path = tmp_path / "v.avif"
    data = avif(half_transparent())
    path.write_bytes(data)
    assert image_layout(MediaFile(path), 1).alpha_item == 2
    assert is_composited(load_image(path, PAPER)[0])
    path.write_bytes(data.replace(b"auxl", b"prem"))  # no alpha any more
    assert image_layout(MediaFile(path), 1).alpha_item is None


def test_alpha_that_is_multiplied_already_is_not_applied_again(tmp_path: Path) -> None:
    path = tmp_path / "v.avif"
    data = avif(half_transparent())
    at = data.index(b"auxl") - 4
    box = data[at : at + int.from_bytes(data[at : at + 4], "big")]
    source, count, target = struct.unpack(">HHH", box[8:14])
    prem = struct.pack(">I4sHHH", 14, b"prem", target, count, source)
    path.write_bytes(mp4_with(data, (b"meta", b"iref"), prem))
    assert image_layout(MediaFile(path), 1).alpha_item is None


# ----------------------------------------------------------------------- alpha of VP8, VP9


def box(name: bytes, *content: bytes) -> bytes:
    data = b"".join(content)
    return (8 + len(data)).to_bytes(4, "big") + name + data


def test_references_without_end_are_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of 5000 references leads to an image with 5000 properties."""
    count = 5000
    kinds = box(b"ipco", *[box(b"auxC", b"\0\0\0\0other\0")] * 200)
    owners = box(b"ipma", bytes(4), b"\0\0\0\1\0\2", b"\xc8", bytes(range(1, 201)))
    one = box(b"auxl", b"\0\2", b"\0\1", b"\0\1")
    meta = box(b"meta", bytes(4), box(b"iprp", kinds, owners), box(b"iref", bytes(4), one * count))
    path = tmp_path / "many.heif"
    path.write_bytes(box(b"ftyp", b"mif1") + meta)
    reads, read = [], video_layout._read
    monkeypatch.setattr(video_layout, "_read", lambda *a: reads.append(a) or read(*a))
    assert image_layout(MediaFile(path), 1) == video_layout.Layout()
    assert count < len(reads) < 1.1 * count


def write_alpha(
    path: Path, codec: str, frames: int = 6, moving: bool = False, **options: str
) -> Path:
    """Encode frames of half transparent red and transparent green, which may move."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            codec, rate=25, options={"crf": "4", "b": "2M", **options, "auto-alt-ref": "0"}
        )
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuva420p"
        stream.codec_context.thread_count = 1
        for i in range(frames):
            rgba = np.roll(half_transparent((96, 64)), i if moving else 0, axis=1)
            frame = av.VideoFrame.from_ndarray(rgba, "rgba")
            container.mux(stream.encode(frame.reformat(format="yuva420p")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
@pytest.mark.parametrize("suffix", ["webm", "mkv"])
@pytest.mark.parametrize("threads", [1, 4])
def test_the_alpha_of_vp8_and_vp9_is_composited(
    tmp_path: Path, codec: str, suffix: str, threads: int
) -> None:
    path = write_alpha(tmp_path / f"v.{suffix}", codec, 20, g="5")
    with VideoReader(path, resize=PAPER, threads=threads) as reader:
        assert len(reader.info.seconds) == 20
        assert reader.info.completeness == "complete"
        whole = dict(reader.frames(range(20)))
        assert all(map(is_composited, whole.values()))
        for number, frame in reader.frames([3, 17]):
            np.testing.assert_array_equal(frame, whole[number])


def test_alpha_with_key_frames_of_its_own_is_exact(tmp_path: Path) -> None:
    """Decoding may start only where both streams have a key frame."""
    paths = [
        write_alpha(tmp_path / f"{g}.webm", "libvpx-vp9", 60, g=g, moving=True)
        for g in ("10", "15")
    ]
    path = tmp_path / "v.webm"
    with av.open(str(paths[0])) as colours, av.open(str(paths[1])) as alphas:
        with av.open(str(path), "w") as container:
            stream = container.add_stream_from_template(colours.streams.video[0])
            stream.metadata.update(colours.streams.video[0].metadata)
            for colour, alpha in zip(colours.demux(), alphas.demux(), strict=True):
                if colour.size:
                    colour.set_sidedata(alpha.get_sidedata("matroska_block_additional"))
                    colour.stream = stream
                    container.mux(colour)
    with VideoReader(path, resize=PAPER) as reader:
        assert reader.info.key_frames.tolist() == [0, 30]
        whole = dict(reader.frames(range(60)))
        assert len({frame.tobytes() for frame in whole.values()}) == 60
        for numbers in ([45], [22, 52]):
            for number, frame in reader.frames(numbers):
                np.testing.assert_array_equal(frame, whole[number])


def test_vp9_without_alpha_keeps_its_pixels_and_its_index(tmp_path: Path) -> None:
    path = write_video(tmp_path, Recipe("v.webm", "libvpx-vp9", 12, options={"g": "4"}))
    with VideoReader(path, resize=PAPER) as reader:
        assert len(reader.info.key_frames) == 3
        assert [read_number(f) for _, f in reader.frames(range(12))] == list(range(12))


# ---------------------------------------------------------------------- which track to show


def write_two_tracks(
    path: Path, still_first: bool, still_is_default: bool, **options: str
) -> Path:
    """Write one track of one large picture and one of 10 small frames."""
    with av.open(str(path), "w", options=options) as container:
        tracks = {}
        for kind in ("still", "film") if still_first else ("film", "still"):
            codec, pixels = ("mjpeg", "yuvj420p") if kind == "still" else ("libx264", "yuv420p")
            track = container.add_stream(codec, rate=25)
            track.width, track.height = (320, 240) if kind == "still" else (160, 128)
            track.pix_fmt = pixels
            is_default = (kind == "still") == still_is_default
            track.disposition = av.stream.Disposition.default if is_default else 0
            tracks[kind] = track
        picture = av.VideoFrame.from_ndarray(numbered_frame(300, 320, 240), "rgb24")
        packets = tracks["still"].encode(picture) + tracks["still"].encode(None)
        for i in range(10):
            frame = av.VideoFrame.from_ndarray(numbered_frame(i, 160, 128), "rgb24")
            packets += tracks["film"].encode(frame)
        for packet in packets + tracks["film"].encode(None):
            container.mux(packet)
    return path


@pytest.mark.parametrize("name", ["v.mkv", "v.mp4", "v.mov", "v.avi", "fragments.mp4"])
@pytest.mark.parametrize("still_first", [False, True])
@pytest.mark.parametrize("still_is_default", [False, True])
def test_the_moving_track_is_shown(
    tmp_path: Path, name: str, still_first: bool, still_is_default: bool
) -> None:
    options = {"movflags": "frag_keyframe+empty_moov"} if name == "fragments.mp4" else {}
    path = write_two_tracks(tmp_path / name, still_first, still_is_default, **options)
    size, numbers = shown(path)
    assert size == (160, 128, 0)
    assert numbers == list(range(10))


def test_the_default_of_two_moving_tracks_is_shown(tmp_path: Path) -> None:
    path, sizes = tmp_path / "v.mkv", [(96, 64), (80, 64)]
    with av.open(str(path), "w") as container:
        tracks = [container.add_stream("mpeg4", rate=25) for _ in sizes]
        for i, (track, size) in enumerate(zip(tracks, sizes, strict=True)):
            track.width, track.height = size
            track.pix_fmt = "yuv420p"
            track.disposition = av.stream.Disposition.default if i else 0
        for number in range(60):
            for track, size in zip(tracks, sizes, strict=True):
                pixels = numbered_frame(number, *size)
                container.mux(track.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        for track in tracks:
            container.mux(track.encode(None))
    size, numbers = shown(path)
    assert size == (80, 64, 0)
    assert numbers == list(range(60))
