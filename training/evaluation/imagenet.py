"""torchvision's supervised ResNet-18 inside our trunk: the ``imagenet`` row (paper, Table 4).

Before conv6 our network is a ResNet-18 on single frames, so inflating that one over time means
taking its weights as they are: conv1, then layer1..layer4 as res2..res5. Two things differ. Our
trunk has no max-pool, so maps after conv1 are twice as fine as those the weights were trained on;
and conv6 has no counterpart, so it starts by passing frames on unchanged.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from ccl_hub import CCLModel
from ccl_hub.config import CCLConfig, Provenance
from ccl_hub.errors import ConfigError, ModelNotFoundError, WeightsError
from ccl_hub.network.model_files import expanded

from ..teachers.weight_file import read_weights

IMAGENET_FILE = "resnet18-f37072fd.pth"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PUBLISHED_SHA256_START = "f37072fd"
# torchvision's -> ours
TRUNK_NAMES = {f"layer{i}": f"res{i + 1}" for i in range(1, 5)} | {"downsample": "shortcut"}


def find_imagenet_file(file: str = "") -> Path:
    """Return the file with torchvision's weights; nothing is ever downloaded.

    Args:
        file: A ``.pth`` or ``.safetensors`` file; "" looks in torch.hub's cache.

    Raises:
        ModelNotFoundError: It is not there; the message says how to get it.
    """
    path = expanded(file) if file else Path(torch.hub.get_dir()) / "checkpoints" / IMAGENET_FILE
    if not path.is_file():
        raise ModelNotFoundError(
            f"{path}: no such file. The imagenet row needs torchvision's ResNet-18 "
            f"(IMAGENET1K_V1, {IMAGENET_FILE}, 45 MB). Where there is a connection, "
            "`python -c \"import torchvision; torchvision.models.resnet18(weights='IMAGENET1K_V1')"
            "\"` puts it into torch.hub's cache; copy it to the same path here, or elsewhere and "
            "give imagenet=FILE."
        )
    return path


def imagenet_model(
    path: Path, *, seed: int = 0, like: CCLConfig | None = None
) -> tuple[CCLModel, str]:
    """Build our network with a ResNet-18's weights in its trunk.

    Args:
        path: State dict of ``torchvision.models.resnet18``, ``.pth`` or ``.safetensors``.
        seed: Of the projection, which stays random and means nothing here.
        like: Gives architecture, frame size and sampling; those of the paper if None. Mean and
            standard deviation are always those of the weights.

    Returns:
        The model, conv6 starting as identity, and one line that says what it is.

    Raises:
        WeightsError: The file is damaged, or holds something other than a ResNet-18.
        ConfigError: ``like`` is not a ResNet-18.
    """
    base = CCLConfig() if like is None else like
    config = CCLConfig(
        base.architecture,
        dataclasses.replace(base.preprocessing, mean=MEAN, std=STD),
        Provenance("imagenet", "ImageNet-1k, with labels"),
    )
    tensors, sha256 = read_weights(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CCLModel(config)
    try:
        model.trunk.load_state_dict(trunk_tensors(tensors))
    except RuntimeError as error:
        resnet18, architecture = CCLConfig().architecture, config.architecture
        for name in ("stage_channels", "stage_blocks"):
            if getattr(architecture, name) != getattr(resnet18, name):
                raise ConfigError(
                    f"imagenet fits {name} {getattr(resnet18, name)} only, the model beside it "
                    f"has {getattr(architecture, name)}; leave one out."
                ) from error
        reason = str(error).splitlines()[-1].strip()
        raise WeightsError(
            f"{path}: not the weights of torchvision's resnet18 ({reason}); fetch them again."
        ) from error
    model.head.start_as_identity()
    model.name, model.weights_sha256 = "imagenet", sha256
    known = sha256.startswith(PUBLISHED_SHA256_START)
    weights = "torchvision IMAGENET1K_V1" if known else f"{path.name}, not verified"
    return model.eval(), f"ResNet-18 trained with ImageNet labels ({weights}); conv6 as identity"


def trunk_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename torchvision's ResNet tensors to those of our trunk; the classifier is left out.

    Args:
        tensors: State dict of a ``torchvision.models.ResNet`` of basic blocks.

    Returns:
        State dict of :class:`ccl_hub.network.resnet.ResNet18`. Files older than BatchNorm's
        step counters get counters of 0, which nothing in eval mode reads.
    """
    renamed = {}
    for name, tensor in tensors.items():
        if not name.startswith("fc."):
            renamed[".".join(TRUNK_NAMES.get(part, part) for part in name.split("."))] = tensor
    for name in list(renamed):
        if name.endswith("running_var"):
            counter = name.removesuffix("running_var") + "num_batches_tracked"
            renamed.setdefault(counter, torch.zeros((), dtype=torch.int64))
    return renamed
