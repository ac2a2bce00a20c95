"""What a decoding process says: messages come as they went, and nothing else is taken for one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from watched_pool import PAPER

from ccl_hub.decoding.confinement import Walls
from ccl_hub.decoding.messages import Decoded, DecodeSettings, Ended, Failed, Planned, Ready
from ccl_hub.decoding.wire import MOST_BYTES, Inbox, WireError, packed, unpacked
from ccl_hub.sampling import ClipPlan, Sampling
from ccl_hub.video import MediaLimits, SourceFacts

SETTINGS = DecodeSettings(PAPER, Sampling(), MediaLimits())
FACTS = SourceFacts(123, 40, 4.04, "incomplete", "the file is cut short", 640, 360)


@pytest.mark.parametrize(
    "message",
    [
        Ready(Walls(7, True), True),
        Decoded(3, 15, 16),
        Ended(3, FACTS),
        Failed(3, "damaged", "frame 3, at 0.1 s; größer"),
        Failed(3, "internal", "unexpected KeyError"),
    ],
)
def test_messages_come_as_they_went(message: Ready | Decoded | Ended | Failed) -> None:
    assert unpacked(packed(message), SETTINGS) == message


def test_plans_come_bit_for_bit() -> None:
    shape = (5, PAPER.clip_frames)
    indices = np.arange(40).reshape(shape)
    plan = ClipPlan(indices, np.random.default_rng(0).random((5, 2)), indices / 25)
    found = unpacked(packed(Planned(9, plan)), SETTINGS)
    assert isinstance(found, Planned) and found.job == 9
    for name in ("indices", "clip_seconds", "frame_seconds"):
        one, other = getattr(found.plan, name), getattr(plan, name)
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype and one.flags.owndata


def test_words_cannot_steer_a_terminal() -> None:
    words = "a\x1b[2Jb\rc\nd\x9be\u202ef\u2028g\udcff"
    found = unpacked(packed(Failed(0, "damaged", words)), SETTINGS)
    assert found == Failed(0, "damaged", "a [2Jb c d e f g\\udcff")
    long = unpacked(packed(Failed(0, "damaged", "x" * 100_000)), SETTINGS)
    assert isinstance(long, Failed) and len(long.reason) == 8000


@pytest.mark.parametrize(
    "fields",
    [
        None,
        [],
        7,
        ["Free", 1],
        ["Ready", 7, 1, True],
        ["Ready", 7, True],
        ["Decoded", 0, 16, 16],  # slots are 0 to 15
        ["Decoded", 0, 0, 17],
        ["Decoded", 0, -1, 1],
        ["Decoded", 0, 0, 0],
        ["Decoded", 0.0, 1, 1],
        ["Decoded", True, 1, 1],
        ["Ended", 0, 1, 1, float("nan"), "complete", "", 64, 36],
        ["Ended", 0, 1, 1, -1.0, "complete", "", 64, 36],
        ["Ended", 0, 1, 1, 1e300, "complete", "", 64, 36],
        ["Ended", 0, 1, 1, 1.0, "complete", "", 64, 0],
        ["Ended", 0, 1, 1, 1.0, "perfect", "", 64, 36],
        ["Ended", 0, 1, 1, 1.0, "complete", None, 64, 36],
        ["Failed", 0, "fine", "x"],
        ["Failed", 0, ["damaged"], "x"],
        ["Failed", 0, "damaged", "x" * 10_000],
        ["Planned", 0, 1, 8],  # without its arrays
        ["Planned", 0, 0, 8],
        ["Planned", 0, 10**12, 8],
        ["Planned", 0, 1, 9],
    ],
)
def test_what_is_not_a_message_is_refused(fields: object) -> None:
    with pytest.raises(WireError):
        unpacked(json.dumps(fields).encode() + b"\n", SETTINGS)


def test_a_known_message_with_its_fields_is_one() -> None:
    """So that the rows above are refused for their values, not for a field that is missing."""
    fields = ["Ended", 0, 1, 1, 1.0, "complete", "", 64, 36]
    assert isinstance(unpacked(json.dumps(fields).encode() + b"\n", SETTINGS), Ended)


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"\xff\n", b"\x80\x04K\x01.", b"[" * 100_000, b"[" + b"0," * (1 << 18)]
)
def test_what_is_not_json_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        unpacked(data, SETTINGS)


@pytest.mark.parametrize("value", [-1, 2**62])
def test_plans_of_impossible_frames_are_refused_or_kept_small(value: int) -> None:
    length = PAPER.clip_frames
    plan = ClipPlan(np.full((1, length), value), np.zeros((1, 2)), np.zeros((1, length)))
    data = packed(Planned(0, plan))
    if value < 0:
        with pytest.raises(WireError):
            unpacked(data, SETTINGS)
        return
    assert isinstance(unpacked(data, SETTINGS), Planned)  # of one frame, whatever its number


def test_plans_of_impossible_times_are_refused() -> None:
    length = PAPER.clip_frames
    spans = np.array([[0.0, np.inf]])
    plan = ClipPlan(np.zeros((1, length), np.int64), spans, np.zeros((1, length)))
    with pytest.raises(WireError):
        unpacked(packed(Planned(0, plan)), SETTINGS)


def test_an_inbox_waits_for_whole_messages() -> None:
    inbox, found = Inbox(), []
    data = b"".join(len(m).to_bytes(4, "big") + m for m in (b"one", b"", b"three"))
    for byte in data:
        found += inbox.add(bytes([byte]))
    assert found == [b"one", b"", b"three"]
    assert list(inbox.add(data * 2)) == found * 2
    with pytest.raises(WireError):
        list(inbox.add((MOST_BYTES + 1).to_bytes(4, "big")))
    with pytest.raises(WireError):
        list(Inbox().add(b"\xff" * 8))
