"""Groups of the optimizer, frozen modules, and how fast they may compute."""

from __future__ import annotations

import pytest
import torch
from tiny_models import whitened_model

from ccl_hub.errors import ConfigError
from training.recipes.sections import Optim
from training.run.optimizer import FrozenInBfloat16, freeze, new_optimizer

FROZEN = ("trunk.stem", "trunk.stages.0", "trunk.stages.1")


def test_trunk_and_vectors_have_groups_of_their_own() -> None:
    model = whitened_model("efficientnet_lite0")
    freeze(model, FROZEN)
    optim = Optim(kind="adamw", lr=0.1, trunk_lr=0.3, decay_norm_and_bias=False)
    groups = new_optimizer(optim, model).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    seen = []
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen.append(name)
            assert not name.startswith(FROZEN)
            assert group["lr_share"] == (0.3 if name.startswith("trunk.") else 1.0)
            assert (group["weight_decay"] > 0) == (parameter.ndim > 1)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert sorted(seen) == sorted(trained)


def test_an_unknown_module_cannot_be_frozen() -> None:
    with pytest.raises(ConfigError, match=r"names 'trunk\.stem2', which the model lacks"):
        freeze(whitened_model("resnet18"), ("trunk.stem2",))


@pytest.mark.parametrize(
    ("trunk", "frozen"),
    [("efficientnet_lite0", FROZEN), ("resnet18", ("trunk.conv1", "trunk.bn1", "trunk.res2"))],
)
def test_frozen_modules_in_bfloat16_are_near_and_leave_no_trace(
    trunk: str, frozen: tuple[str, ...]
) -> None:
    model = whitened_model(trunk).train()
    modules = freeze(model, frozen)
    for module in modules:
        module.eval()
    clips = torch.randn(2, 3, 2, 64, 64)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.eval()
    exact = model(clips).frames
    fast = FrozenInBfloat16(modules)
    with fast.used():
        near = model(clips)
        near.video.sum().backward()
    assert torch.equal(model(clips).frames, exact)
    assert not torch.equal(near.frames, exact)
    assert torch.cosine_similarity(near.frames.flatten(0, 1), exact.flatten(0, 1)).min() > 0.95
    assert all("forward" not in vars(module) for module in modules)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    for name, parameter in model.named_parameters():
        if not name.startswith("projection"):
            assert (parameter.grad is not None) == (not name.startswith(frozen)), name
