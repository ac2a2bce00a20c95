"""Int8 models on disk: found by the weights they were made of, read only if their hash is right.

    $CCL_CACHE/int8/WEIGHTS-CONFIGURATION-GRAPH/int8.json    which network it is, how it was made
                                                SHA256.xml   the network, of OpenVINO
                                                SHA256.bin

The record is written last. Two processes that build at once thus leave a whole model, that of the
last; a network that no record names any more does no harm.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._util.files import write_atomically
from .._util.machine import cache_folder
from ..config import parse_dataclass
from ..errors import WeightsError
from ..network.frame_maps import GRAPH_VERSION
from ..network.stored import tensors_sha256

if TYPE_CHECKING:
    from ..network.architecture import CCLNetwork

RECORD_NAME = "int8.json"
REBUILD = "make it again with 'ccl-hub quantize MODEL VIDEOS --force'"


@dataclass(frozen=True)
class Int8Facts:
    """What ``int8.json`` says of an int8 model.

    Args:
        sha256: Hash of the network: of the bytes of its .xml, then of its .bin.
        model: Name of the float32 model.
        weights_sha256: Hash of the file it was loaded from, or "".
        tensors_sha256: Hash of its weights themselves.
        config_fingerprint: Hash of its architecture and preprocessing.
        calibration_frames: Frames that the ranges come from.
        compared_frames: Frames held out, in clips of the model's length.
        frame_cosine: Lowest cosine between the two networks' vectors of these frames.
        clip_cosine: Lowest cosine between their vectors of the clips.
        versions: Versions of the packages that made it.
    """

    sha256: str
    model: str
    weights_sha256: str
    tensors_sha256: str
    config_fingerprint: str
    calibration_frames: int
    compared_frames: int
    frame_cosine: float
    clip_cosine: float
    versions: dict[str, Any]


@dataclass(frozen=True)
class Int8Model:
    """An int8 model in the cache.

    Args:
        path: The network's .xml; its .bin is beside it.
        facts: What is known of it.
    """

    path: Path
    facts: Int8Facts

    @property
    def sha256(self) -> str:
        """Hash of the network, which tells it from every other."""
        return self.facts.sha256

    def read(self) -> tuple[bytes, bytes]:
        """Return the bytes of .xml and .bin, whose hash is right.

        Raises:
            WeightsError: A file is missing or damaged.
        """
        try:
            data = self.path.read_bytes(), self.path.with_suffix(".bin").read_bytes()
        except OSError as error:
            raise WeightsError(
                f"{self.path}: the int8 network cannot be read ({error.strerror or error}); "
                f"{REBUILD}."
            ) from error
        sha256 = network_sha256(*data)
        if sha256 != self.sha256:
            raise WeightsError(
                f"{self.path}: sha256 of the int8 network is {sha256}, it was written with "
                f"{self.sha256}; it is damaged: {REBUILD}."
            )
        return data


def find_int8(model: CCLNetwork, cache: str | Path | None = None) -> Int8Model | None:
    """Return the int8 model that :func:`~ccl_hub.backends.quantize.build_int8` made, or None.

    Args:
        model: The model as it was then, known by its weights, whatever file they came from.
        cache: Folder; None is :func:`ccl_hub._util.machine.cache_folder`.

    Raises:
        WeightsError: The int8 model is damaged.
    """
    path = model_folder(model, cache) / RECORD_NAME
    try:
        values = json.loads(path.read_bytes())
        facts = parse_dataclass(Int8Facts, values, str(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:  # ConfigError is one
        raise WeightsError(
            f"{path}: not a record of an int8 model ({error}); {REBUILD}."
        ) from error
    expected = (tensors_sha256(model), model.config.fingerprint())
    if (facts.tensors_sha256, facts.config_fingerprint) != expected or not re.fullmatch(
        "[0-9a-f]{64}", facts.sha256
    ):
        raise WeightsError(f"{path}: the record of another model; {REBUILD}.")
    int8_model = Int8Model(path.with_name(f"{facts.sha256}.xml"), facts)
    int8_model.read()
    return int8_model


def model_folder(model: CCLNetwork, cache: str | Path | None) -> Path:
    """Return the folder of a model in a cache: ``int8/``, then its weights, config and graph."""
    folder = cache_folder() if cache is None else Path(cache).expanduser()
    kind = f"{tensors_sha256(model)[:16]}-{model.config.fingerprint()}-{GRAPH_VERSION}"
    return folder / "int8" / kind


def write_int8(folder: Path, facts: Int8Facts, data: tuple[bytes, bytes]) -> Int8Model:
    """Write the pair, then the record that names it."""
    path = folder / f"{facts.sha256}.xml"
    write_atomically(path, data[0])
    write_atomically(path.with_suffix(".bin"), data[1])
    write_atomically(folder / RECORD_NAME, json.dumps(asdict(facts), indent=2) + "\n")
    return Int8Model(path, facts)


def network_sha256(xml: bytes, weights: bytes) -> str:
    """Hash a network: the bytes of its .xml, then of its .bin."""
    return hashlib.sha256(xml + weights).hexdigest()
