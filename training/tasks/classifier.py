"""A model with a classifier on its video feature: its update, and the folder that keeps it.

A fine-tuned model is a model folder like any other (``model.safetensors``, ``config.json``), so
that it can embed videos and be compared. Beside these, ``classifier.safetensors`` is the FC layer,
and ``classes.json`` names the classes, the model that was fine-tuned, the labelled set and the
recipe.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import safetensors.torch
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ccl_hub import CCLModel
from ccl_hub._util.files import file_sha256, write_atomically
from ccl_hub.config import Provenance, parse_dataclass
from ccl_hub.errors import ModelNotFoundError, WeightsError
from ccl_hub.network.model_files import WEIGHTS_NAME
from ccl_hub.network.weights import load_strictly

from ..distributed.averaging import GradientMean, average_buffers
from ..distributed.world import World
from ..evaluation.results import DataRecord, ModelRecord

CLASSIFIER_NAME = "classifier.safetensors"
RECORD_NAME = "classes.json"
RECORD_VERSION = 1
FC_STD = 0.01


class Classifier(nn.Module):
    """A fresh FC layer on the video feature of a model; all layers are trained.

    Args:
        backbone: The model. Its projection is unused and stays as it is.
        classes: Number of classes.
        freeze_batchnorm: Keep BatchNorm in eval mode, whatever the mode of the other layers.

    Source:
        Paper, Section 4.1 (fine-tuning): the 512-d video feature, one FC layer.
    """

    def __init__(self, backbone: CCLModel, classes: int, freeze_batchnorm: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.fc = nn.Linear(backbone.config.architecture.feature_dim, classes)
        self.freeze_batchnorm = freeze_batchnorm
        nn.init.normal_(self.fc.weight, std=FC_STD)
        nn.init.zeros_(self.fc.bias)
        for projection in (backbone.projection, backbone.video_projection):
            if projection is not None:
                projection.requires_grad_(False)

    def forward(self, clips: Tensor) -> Tensor:
        """Logits of clips: (B,3,T,H,W) float, normalised -> (B,C) float32."""
        logits: Tensor = self.fc(self.backbone(clips).video)
        return logits.float()

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen BatchNorm stays in eval mode."""
        super().train(mode)
        if self.freeze_batchnorm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


def supervised_step(
    model: Classifier,
    chunks: Sequence[Tensor],
    targets: Tensor,
    world: World,
    autocast_dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Leave in ``.grad`` the gradient of the mean cross-entropy over the global batch.

    Except by rounding, and by BatchNorm's statistics in training mode, the result is the same
    however the batch is spread over processes and chunks.

    Args:
        model: Not wrapped. Gradients that it has are dropped first.
        chunks: This process's share, (b,3,T,H,W) float each; as many clips as on other processes.
        targets: int64 (B,), classes of the clips of all chunks, on their device.
        world: This process among its peers.
        autocast_dtype: ``torch.bfloat16`` to run the network in mixed precision, or None.

    Returns:
        ``loss`` and ``accuracy``: 0-d tensors, means over the global batch, equal on all ranks.
    """
    model.zero_grad(set_to_none=True)
    truths = targets.split([len(chunk) for chunk in chunks])
    sums = torch.zeros(2, dtype=torch.float32, device=targets.device)
    with GradientMean(model.parameters(), world.size) as mean:
        for i, (clips, truth) in enumerate(zip(chunks, truths, strict=True)):
            with torch.autocast(clips.device.type, autocast_dtype, enabled=bool(autocast_dtype)):
                logits = model(clips)
            loss = F.cross_entropy(logits, truth, reduction="sum") / len(targets)
            if i == len(chunks) - 1:
                mean.start()
            loss.backward()
            hits = (logits.detach().argmax(1) == truth).sum()
            sums += torch.stack([loss.detach(), hits / len(targets)])
    if model.training:
        average_buffers(model, world.size)
    if world.size > 1:
        dist.all_reduce(sums)
        sums /= world.size
    return {"loss": sums[0], "accuracy": sums[1]}


@dataclass(frozen=True)
class ClassifierRecord:
    """What ``classes.json`` says.

    Args:
        classes: Names; the position of a name is its row of the FC layer.
        start: The model that was fine-tuned.
        data: The labelled set.
        recipe: As ``FinetuneRecipe.to_dict`` gives it.
        figures: Of the test split, by metric, in [0, 1].
        model_sha256: Of ``model.safetensors``; filled in when written.
        classifier_sha256: Of ``classifier.safetensors``; likewise.
    """

    classes: tuple[str, ...]
    start: ModelRecord
    data: DataRecord
    recipe: dict[str, Any]
    figures: dict[str, Any]
    model_sha256: str = ""
    classifier_sha256: str = ""


def save_classifier(model: Classifier, record: ClassifierRecord, folder: Path) -> None:
    """Write a fine-tuned model into ``folder``, float32.

    ``classes.json`` is written last and holds the hashes of the others, so that files of different
    trainings are never loaded together.

    Raises:
        OutputError: The folder cannot be written.
    """
    backbone, start = model.backbone, record.start
    finetuned = {"from": start.label, "on": record.data.name, "figures": record.figures}
    details = {"finetuned": finetuned, "before": backbone.config.provenance.details}
    provenance = Provenance(
        name=f"{start.label} fine-tuned on {record.data.name}",
        trained_on=f"{record.data.name}, with labels, from {start.label}",
        details=details,
    )
    before = backbone.config
    backbone.config = dataclasses.replace(before, provenance=provenance)
    try:
        backbone.save_pretrained(folder, torch.float32)
    finally:
        backbone.config = before
    tensors = {name: t.detach().float().cpu() for name, t in model.fc.state_dict().items()}
    write_atomically(folder / CLASSIFIER_NAME, safetensors.torch.save(tensors))
    whole = dataclasses.replace(
        record,
        model_sha256=file_sha256(folder / WEIGHTS_NAME),
        classifier_sha256=file_sha256(folder / CLASSIFIER_NAME),
    )
    values = {"schema": RECORD_VERSION, **dataclasses.asdict(whole)}
    write_atomically(folder / RECORD_NAME, json.dumps(values, indent=1) + "\n")


def load_classifier(folder: Path) -> tuple[Classifier, ClassifierRecord]:
    """Read a fine-tuned model, in eval mode, on the CPU.

    Args:
        folder: As :func:`save_classifier` wrote it.

    Raises:
        ModelNotFoundError: The folder holds no fine-tuned model.
        WeightsError: A file is damaged, or belongs to another training than the others.
        ConfigError: ``classes.json`` or ``config.json`` cannot be read.
    """
    record = _read_record(folder)
    backbone = CCLModel.from_pretrained(folder)
    path = folder / CLASSIFIER_NAME
    for file, sha256 in (
        (folder / WEIGHTS_NAME, record.model_sha256),
        (path, record.classifier_sha256),
    ):
        if not file.is_file() or file_sha256(file) != sha256:
            raise WeightsError(
                f"{file}: is missing, damaged or of another fine-tuning than {RECORD_NAME} beside "
                f"it, by which its sha256 is {sha256}; copy the folder again, or fine-tune again."
            )
    with torch.random.fork_rng(devices=[]):
        model = Classifier(backbone, len(record.classes))
    load_strictly(model.fc, safetensors.torch.load(path.read_bytes()), path)
    return model.eval(), record


def _read_record(folder: Path) -> ClassifierRecord:
    path = folder / RECORD_NAME
    if not path.is_file():
        raise ModelNotFoundError(
            f"{folder}: holds no fine-tuned model ({RECORD_NAME} is missing); give the --out "
            "folder of a finished 'python -m training.finetune'."
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path}: is not JSON ({error}); copy the folder again.") from error
    version = values.pop("schema", None) if isinstance(values, dict) else None
    if version != RECORD_VERSION:
        raise WeightsError(
            f"{path}: is of version {version!r}, and this program reads {RECORD_VERSION}; "
            "fine-tune again."
        )
    return parse_dataclass(ClassifierRecord, values, str(path))
