"""The network of Table 1: counts, shapes, and equality with a literal Conv3d version."""

from __future__ import annotations

import pytest
import torch
from reference import Conv3dReference, randomise_norms
from tiny_models import tiny_model

from ccl_hub.errors import InputError
from ccl_hub.model import CCLModel
from ccl_hub.network.architecture import TemporalHead


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts_are_those_of_the_paper() -> None:
    model = CCLModel()
    assert count(model) == 12_128_192
    assert count(model.trunk) == 11_176_512  # 11.18 M
    assert count(model.head) == 787_456  # 0.79 M
    assert count(model.projection) == 164_224  # 0.16 M


@pytest.mark.parametrize("shape", [(2, 3, 8, 112, 112), (1, 3, 1, 96, 64), (1, 3, 3, 33, 50)])
def test_equals_literal_conv3d(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = CCLModel().eval()
    randomise_norms(model)
    reference = Conv3dReference().load_from(model).eval()
    clips = torch.randn(shape)
    with torch.inference_mode():
        output = model(clips)
        frames, video = reference(clips)
    scale = frames.abs().max()
    assert scale > 0.1, "the comparison must not be between zeros"
    torch.testing.assert_close(output.frames, frames, rtol=1e-5, atol=1e-5 * float(scale))
    torch.testing.assert_close(
        output.video, video, rtol=1e-5, atol=1e-5 * float(video.abs().max())
    )


def test_gradients_equal_literal_conv3d_in_training_mode() -> None:
    model = tiny_model().train()
    reference = Conv3dReference((8, 8, 16, 16), (1, 1, 1, 1)).load_from(model).train()
    clips = torch.randn(3, 3, 4, 32, 48)
    output = model(clips)
    (output.frames.square().sum() + output.video.square().sum()).backward()
    frames, video = reference(clips)
    (frames.square().sum() + video.square().sum()).backward()
    ours = [p.grad for n, p in model.named_parameters() if not n.startswith("projection")]
    theirs = [p.grad for p in reference.parameters()]
    for a, b in zip(ours, theirs, strict=True):
        assert a is not None and b is not None
        torch.testing.assert_close(
            a, b.reshape(a.shape), rtol=1e-3, atol=1e-4 * float(b.abs().max())
        )


def test_stage_sizes_follow_table_1() -> None:
    trunk = CCLModel().eval().trunk
    with torch.inference_mode():
        x = torch.relu(trunk.bn1(trunk.conv1(torch.zeros(1, 3, 112, 112))))
        sizes = [tuple(x.shape[1:])]
        for stage in (trunk.res2, trunk.res3, trunk.res4, trunk.res5):
            x = stage(x)
            sizes.append(tuple(x.shape[1:]))
    assert sizes == [(64, 56, 56), (64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]


def test_output_is_float32_at_any_model_dtype() -> None:
    clips = torch.randn(2, 3, 4, 64, 64)
    exact = tiny_model()(clips)
    half = tiny_model().to(torch.bfloat16)(clips, project=True)
    assert half.frames.dtype == half.video.dtype == torch.float32
    assert half.frame_projections is not None and half.frame_projections.dtype == torch.float32
    similarity = torch.cosine_similarity(half.video, exact.video)
    assert (similarity > 0.999).all()


def test_projection_shapes_and_absence() -> None:
    model = tiny_model()
    clips = torch.randn(2, 3, 5, 32, 32)
    plain, projected = model(clips), model(clips, project=True)
    assert plain.frame_projections is None and plain.video_projections is None
    assert projected.frame_projections.shape == (2, 5, 128)
    assert projected.video_projections.shape == (2, 128)
    torch.testing.assert_close(projected.video_projections, model.projection(plain.video))
    torch.testing.assert_close(projected.frame_projections, model.projection(plain.frames))


def test_separate_projection_is_an_option() -> None:
    model = tiny_model(projection_shared=False, projection_norm=True)
    output = model(torch.randn(2, 3, 2, 32, 32), project=True)
    torch.testing.assert_close(output.video_projections, model.video_projection(output.video))
    assert output.frame_projections.shape == (2, 2, 128)


def test_a_clip_alone_equals_the_clip_in_a_batch() -> None:
    model = CCLModel().eval()
    clips = torch.randn(5, 3, 8, 64, 64)
    with torch.inference_mode():
        together = model(clips)
        alone = [model(clip[None]) for clip in clips]
    scale = float(together.video.abs().max())
    for i, one in enumerate(alone):
        torch.testing.assert_close(one.video[0], together.video[i], rtol=0, atol=1e-5 * scale)
        torch.testing.assert_close(
            one.frames[0],
            together.frames[i],
            rtol=0,
            atol=1e-5 * float(together.frames.abs().max()),
        )


def test_frames_do_not_see_each_other_but_the_video_sees_order() -> None:
    model = tiny_model()
    clips = torch.randn(1, 3, 6, 32, 32)
    forward, backward = model(clips), model(clips.flip(2))
    torch.testing.assert_close(forward.frames, backward.frames.flip(1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(forward.video, backward.video, rtol=1e-3)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (torch.zeros(3, 8, 112, 112), "(3, 8, 112, 112)"),
        (torch.zeros(1, 8, 112, 112, 3), "(1, 8, 112, 112, 3)"),
        (torch.zeros(1, 3, 8, 112, 112, dtype=torch.uint8), "uint8"),
        (torch.zeros(1, 3, 8, 31, 112), "31"),
        (torch.zeros(1, 3, 0, 112, 112), "T >= 1"),
        (torch.zeros(0, 3, 8, 112, 112), "(0, 3, 8, 112, 112)"),
    ],
)
def test_bad_input_is_named(clips: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError) as caught:
        tiny_model()(clips)
    assert message in str(caught.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_cpu() -> None:
    model = CCLModel().eval()
    randomise_norms(model)
    clips = torch.randn(2, 3, 8, 112, 112)
    with torch.inference_mode():
        here = model(clips)
        there = model.cuda()(clips.cuda())
    for a, b in ((here.frames, there.frames.cpu()), (here.video, there.video.cpu())):
        assert float((a - b).norm() / a.norm()) < 2e-3  # TF32 convolutions


def test_a_calibrated_head_passes_frames_on_in_training_mode_too() -> None:
    """With the identity alone BatchNorm rescales every channel while training."""
    torch.manual_seed(0)
    maps = torch.randn(4 * 6, 8, 3, 3).mul(torch.arange(1.0, 9)[:, None, None]).relu()
    head = TemporalHead(8).train()
    head.start_calibrated(maps)
    means = maps.unflatten(0, (4, 6)).mean((1, 3, 4))  # (4,8)
    torch.testing.assert_close(head.eval()(maps, clips=4), means, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(head.train()(maps, clips=4), means, rtol=1e-5, atol=1e-5)
    head.start_as_identity()
    torch.nn.init.ones_(head.bn6.weight)
    torch.nn.init.zeros_(head.bn6.bias)
    assert (head(maps, clips=4) - means).abs().max() > 0.5
