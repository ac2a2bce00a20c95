"""Strict configuration: exact round trip, nothing unknown, nothing guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ccl_hub.config import Architecture, CCLConfig, Preprocessing, Provenance, parse_dataclass
from ccl_hub.errors import ConfigError


def test_json_round_trip_is_exact() -> None:
    config = CCLConfig(
        Architecture(projection_norm=True),
        Preprocessing(clip_frames=16, resize="short_side", mean=(0.5, 0.5, 0.5)),
        Provenance(name="x", trained_on="y", details={"epochs": 3, "nested": {"a": [1, 2]}}),
    )
    assert CCLConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "unknown key 'extra'"),
        ({"model_type": "bert"}, "'bert'"),
        ({"schema_version": 99}, "upgrade"),
        ({"preprocessing": {"crop_pixels": 5}}, "unknown key 'crop_pixels'"),
        ({"preprocessing": {"crop_px": "112"}}, "crop_px is '112', expected int"),
        ({"preprocessing": {"crop_px": True}}, "crop_px is True"),
        ({"preprocessing": {"crop_px": 129}}, "32 to 128"),
        ({"preprocessing": {"resize": "squash"}}, "'stretch' or 'short_side'"),
        ({"preprocessing": {"clip_frames": 0}}, ">= 1"),
        ({"preprocessing": {"frame_interval_seconds": 0.0}}, "more than 0"),
        ({"preprocessing": {"std": [1.0, 0.0, 1.0]}}, "above 0"),
        ({"preprocessing": {"mean": 3.0}}, "expected a list"),
        ({"preprocessing": {"frame_choice": "next"}}, "'nearest' or 'on_screen'"),
        ({"preprocessing": {"mean": [0.5, float("nan"), 0.5]}}, "finite"),
        ({"preprocessing": {"std": [0.5, float("inf"), 0.5]}}, "finite"),
        ({"architecture": {"stage_channels": [1, 2]}}, "4 widths"),
        ({"architecture": []}, "expected a table"),
        ({"provenance": {"details": 3}}, "expected a table"),
    ],
)
def test_wrong_values_are_named(change: dict, message: str) -> None:
    values = {**CCLConfig().to_dict(), **change}
    with pytest.raises(ConfigError) as caught:
        CCLConfig.from_json(json.dumps(values), "some/config.json")
    assert message in str(caught.value)
    assert "some/config.json" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "[" * 200_000], ids=["empty", "cut", "list", "3", "deep"]
)
def test_not_a_configuration(text: str) -> None:
    with pytest.raises(ConfigError, match=r"config\.json"):
        CCLConfig.from_json(text)


def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: cannot be read"):
        CCLConfig.from_file(tmp_path / "config.json")


def test_whole_numbers_are_floats_where_floats_are_wanted() -> None:
    assert parse_dataclass(Preprocessing, {"std": [1, 1, 1]}, "x").std == (1.0, 1.0, 1.0)


def test_fingerprint_ignores_provenance_and_sees_everything_else() -> None:
    plain = CCLConfig()
    assert plain.fingerprint() == CCLConfig(provenance=Provenance(name="z")).fingerprint()
    assert (
        plain.fingerprint() != CCLConfig(preprocessing=Preprocessing(clip_frames=16)).fingerprint()
    )
    assert plain.fingerprint() != CCLConfig(Architecture(projection_dim=64)).fingerprint()


def test_a_checkpoint_from_before_the_frame_choice_is_as_it_was() -> None:
    """Job folders, datasets and int8 models of users hold these fingerprints."""
    values = CCLConfig().to_dict()
    assert values["preprocessing"].pop("frame_choice") == "nearest"  # always stated from now on
    old = CCLConfig.from_dict(values)
    assert old == CCLConfig() and old.preprocessing.frame_choice == "nearest"
    assert old.fingerprint() == "82f1948bbb4244dd"
    square = Preprocessing(resize="short_side", crop_px=96)
    assert CCLConfig(preprocessing=square).fingerprint() == "71513c692604cc20"
    new = CCLConfig(preprocessing=Preprocessing(frame_choice="on_screen"))
    assert new.fingerprint() != old.fingerprint()
    assert CCLConfig.from_json(new.to_json()) == new
    assert "on_screen" in new.to_json() and "nearest" in old.to_json()
