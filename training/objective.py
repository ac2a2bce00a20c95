"""The Cycle-Contrastive objective and its baseline, as pure functions of projected features.

Source: "Cycle-Contrast for Self-Supervised Video Representation Learning", NeurIPS 2020,
https://arxiv.org/abs/2010.14810, Sections 3.2 to 3.5, Equations 1 to 6.

For every video i of a batch, with unit vectors s_i (videos) and z_nm (frame m of video n):

    s_i -> soft neighbour z^ among all N*L frames      (Eq. 1)  -> forward term  Lf (Eq. 2)
    z^  -> soft neighbour s^ among all N videos        (Eq. 3)  -> backward term Lv (Eq. 4)
    the L frames of video i must differ from another            -> penalty       P  (Eq. 5)
    total = w1 Lf + w2 Lv + w3 P, mean over the batch                               (Eq. 6)

What the paper leaves open is a field of :class:`Objective`. Axis letters: N videos, L frames of a
video, D dimensions, A anchors (the videos of one similarity matrix).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ccl_hub._util.checks import require
from ccl_hub.errors import InputError

PRESETS: dict[str, dict[str, float | str]] = {
    # Literal. With a fresh network the gradients of the other terms are tiny beside the penalty's.
    "paper": {"tau": 1.0, "tau_nn": 1.0, "penalty_reduction": "sum"},
    # The three terms start with gradients of the same size.
    "tuned": {"tau": 0.1, "tau_nn": 0.1, "penalty_reduction": "mean"},
}
TERMS = ("forward", "backward", "penalty")
_CHOICES = {
    "kind": ("cycle_contrast", "mse"),
    "preset": tuple(PRESETS),
    "forward_reduction": ("mean", "sum"),
    "penalty_reduction": ("sum", "mean"),
    "detach": ("none", "neighbours", "candidates"),
}
_MASKED = -1e30  # exp() of it is 0 in every dtype used here, and unlike -inf it has a gradient


class CycleContrast(NamedTuple):
    """The objective of one batch: 0-d tensors, float32 (float64 for float64 input).

    ``total``: what is minimised, Eq. 6 over the chosen terms.
    ``forward``, ``backward``, ``penalty``: Lf, Lv and P before weighting, mean over the batch,
    whether or not they are among the chosen terms.
    ``cycle_rate``: share of videos whose nearest frame's nearest video is the video itself
    (Section 3.2, the hard cycle), in [0, 1]; no gradient.
    """

    total: Tensor
    forward: Tensor
    backward: Tensor
    penalty: Tensor
    cycle_rate: Tensor


@dataclass(frozen=True)
class Objective:
    """The objective of a recipe; call it with projected videos (N,D) and frames (N,L,D).

    Args:
        preset: ``"paper"`` (literal) or ``"tuned"`` (tau = tau_nn = 0.1, penalty as a mean); sets
            those of the three fields ``tau``, ``tau_nn`` and ``penalty_reduction`` that are None.
        kind: ``"cycle_contrast"``, or ``"mse"`` for the baseline of Tables 2, 3 and 7.
        tau: Temperature of Eq. 2 and 4, above 0 (paper: 1).
        tau_nn: Temperature of the soft neighbours, Eq. 1 and 3, above 0 (the paper has none: 1).
        weights: w1, w2, w3 of Eq. 6, each at least 0.
        terms: Which of forward, backward and penalty enter the total (Table 7's rows).
        forward_reduction: Lf as ``"mean"`` or ``"sum"`` over the L positives of a video.
        penalty_reduction: P as ``"sum"`` or ``"mean"`` of the L*L squares of a video.
        penalty_unit_rows: Unit frame vectors in P; only then can its diagonal vanish.
        exclude_other_positives: Leave the video's other L-1 frames out of Eq. 2's denominator, as
            the text ("L x (N-1) negatives") has it; the equation itself sums over all N*L.
        mix_unit: Soft neighbours are mixtures of unit vectors; False mixes raw ones.
        detach: ``"none"`` (gradient through everything), ``"neighbours"`` (z^ and s^ are
            constants in Eq. 2 and 4) or ``"candidates"`` (what they are compared with is).
        mse_unit: Unit vectors in the ``"mse"`` baseline.
        max_pairs: Video-frame pairs in one similarity matrix; a larger batch is computed in groups
            of anchors, and again in the backward pass. The result is the same with less memory:
            4,096 videos of 8 frames take 0.4 GiB, and 2.7 GiB in one matrix.

    Raises:
        ConfigError: A value is not allowed.

    Example:
        >>> objective = Objective(preset="tuned", terms=("forward", "backward"))
        >>> objective.tau, objective.penalty_reduction
        (0.1, 'mean')
        >>> result = objective(torch.eye(3), torch.eye(3)[:, None])
        >>> float(result.cycle_rate)
        1.0
    """

    preset: str = "paper"
    kind: str = "cycle_contrast"
    tau: float | None = None
    tau_nn: float | None = None
    weights: tuple[float, ...] = (0.2, 0.2, 0.4)
    terms: tuple[str, ...] = TERMS
    forward_reduction: str = "mean"
    penalty_reduction: str | None = None
    penalty_unit_rows: bool = True
    exclude_other_positives: bool = False
    mix_unit: bool = True
    detach: str = "none"
    mse_unit: bool = False
    max_pairs: int = 1 << 23

    def __post_init__(self) -> None:
        require(self.preset in PRESETS, "preset", self.preset, " or ".join(map(repr, PRESETS)))
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            require(value in allowed, name, value, " or ".join(map(repr, allowed)))
        for name in ("tau", "tau_nn"):
            value = getattr(self, name)
            require(0 < value < float("inf"), name, value, "a finite number above 0")
        weights_ok = len(self.weights) == 3 and all(0 <= w < float("inf") for w in self.weights)
        require(weights_ok, "weights", self.weights, "3 finite numbers of at least 0")
        terms_ok = 0 < len(set(self.terms)) == len(self.terms) and set(self.terms) <= set(TERMS)
        require(terms_ok, "terms", self.terms, f"some of {', '.join(TERMS)}, each once")
        require(self.max_pairs >= 1, "max_pairs", self.max_pairs, "a whole number >= 1")

    def __call__(self, videos: Tensor, frames: Tensor) -> CycleContrast:
        """Compute the objective of a batch.

        Args:
            videos: (N, D) projected videos, any floating dtype, raw or normalised.
            frames: (N, L, D) projected frames of the same videos, on the same device.

        Returns:
            A :class:`CycleContrast`, computed in at least float32 whatever the input dtype or
            autocast state. For ``kind="mse"`` only ``total`` has a gradient; the rest are metrics.

        Raises:
            InputError: Shapes or dtypes are not allowed.
        """
        _check(videos, frames)
        with torch.autocast(videos.device.type, enabled=False):
            videos, frames = _at_least_float32(videos), _at_least_float32(frames)
            if self.kind == "cycle_contrast":
                return self._cycle_contrast(videos, frames)
            with torch.no_grad():
                metrics = self._cycle_contrast(videos, frames)
            return metrics._replace(total=mse_baseline(videos, frames, unit=self.mse_unit))

    def two_views(self, videos: Tensor, frames: Tensor) -> CycleContrast:
        """Compute the symmetrised objective of two views of the same videos.

        Args:
            videos: (2, N, D) projected videos of both views.
            frames: (2, N, L, D) projected frames of both views.

        Returns:
            The mean of both directions: s from one view with the frames of the other.
        """
        if videos.shape[0] != 2 or frames.shape[0] != 2:
            raise InputError(
                f"two_views got {len(videos)} views of videos and {len(frames)} of frames; "
                "allowed: 2 and 2."
            )
        pair = self(videos[0], frames[1]), self(videos[1], frames[0])
        return CycleContrast(*((a + b) / 2 for a, b in zip(*pair, strict=True)))

    def _cycle_contrast(self, videos: Tensor, frames: Tensor) -> CycleContrast:
        n, length, _ = frames.shape
        s, z = F.normalize(videos, dim=-1), F.normalize(frames, dim=-1)  # (N,D), (N,L,D)
        candidates = (s, z, s, z) if self.mix_unit else (s, z, videos, frames)
        group = max(1, self.max_pairs // (n * length))
        sums = []
        for first in range(0, n, group):
            anchors = torch.arange(first, min(first + group, n), device=s.device)  # (A,)
            if group >= n:
                sums.append(self._cycles(anchors, *candidates))
            else:
                options = {"use_reentrant": False, "preserve_rng_state": False}
                sums.append(checkpoint(self._cycles, anchors, *candidates, **options))
        forward, backward, cycles = (torch.stack(sums).sum(0) / n).unbind()
        penalty = self._penalty(z if self.penalty_unit_rows else frames)
        terms = dict(zip(TERMS, (forward, backward, penalty), strict=True))
        weights = dict(zip(TERMS, self.weights, strict=True))
        total = sum(weights[name] * terms[name] for name in self.terms)
        return CycleContrast(total, forward, backward, penalty, cycles.detach())

    def _cycles(
        self, anchors: Tensor, s: Tensor, z: Tensor, s_mix: Tensor, z_mix: Tensor
    ) -> Tensor:
        """Lf, Lv and hard cycles, each summed over the videos ``anchors`` (A,): (3,)."""
        n, length, _ = z.shape
        flat = z.flatten(0, 1)  # (N*L,D)
        similarity = s[anchors] @ flat.T  # (A,N*L)
        with torch.no_grad():
            nearest = flat[similarity.argmax(1)]  # (A,D)
            cycles = (nearest @ s.T).argmax(1).eq(anchors).sum()
        z_hat = _soft_neighbour(similarity / self.tau_nn, z_mix.flatten(0, 1))  # (A,D), Eq. 1
        s_hat = _soft_neighbour(z_hat @ s.T / self.tau_nn, s_mix)  # (A,D), Eq. 3
        if self.detach == "neighbours":
            z_hat, s_hat = z_hat.detach(), s_hat.detach()
        elif self.detach == "candidates":
            flat, s = flat.detach(), s.detach()
        logits = (z_hat @ flat.T / self.tau).unflatten(1, (n, length))  # (A,N,L)
        forward = self._forward_term(logits, anchors)
        backward = F.cross_entropy(s_hat @ s.T / self.tau, anchors, reduction="sum")  # Eq. 4
        return torch.stack([forward, backward, cycles.to(forward.dtype)])

    def _forward_term(self, logits: Tensor, anchors: Tensor) -> Tensor:
        """Eq. 2 for logits (A,N,L) of the anchors against all frames, summed over anchors: ()."""
        rows = torch.arange(len(anchors), device=anchors.device)
        positive = logits[rows, anchors]  # (A,L)
        if self.exclude_other_positives:
            same_video = F.one_hot(anchors, logits.shape[1]).bool()[..., None]  # (A,N,1)
            masked = logits.masked_fill(same_video, _MASKED)
            negative = masked.flatten(1).logsumexp(1, keepdim=True)
            losses = torch.logaddexp(positive, negative) - positive  # (A,L)
        else:
            losses = logits.flatten(1).logsumexp(1, keepdim=True) - positive  # (A,L)
        return losses.mean(1).sum() if self.forward_reduction == "mean" else losses.sum()

    def _penalty(self, rows: Tensor) -> Tensor:
        """Eq. 5 for the frames (N,L,D) of each video, mean over videos: ()."""
        identity = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
        squares = (rows @ rows.mT - identity).square()  # (N,L,L)
        if self.penalty_reduction == "mean":
            return squares.mean()
        return squares.sum((1, 2)).mean()


def cycle_contrast(
    videos: Tensor,
    frames: Tensor,
    *,
    tau: float = 1.0,
    tau_nn: float = 1.0,
    weights: Sequence[float] = (0.2, 0.2, 0.4),
    forward_reduction: str = "mean",
    penalty_reduction: str = "sum",
    exclude_other_positives: bool = False,
    terms: Sequence[str] = TERMS,
    **options: object,
) -> CycleContrast:
    """Compute the Cycle-Contrastive objective of a batch of projected features.

    Args:
        videos: (N, D) projected videos s_i, any floating dtype; normalised here.
        frames: (N, L, D) projected frames z_nm of the same videos.
        tau: Temperature of Eq. 2 and 4.
        tau_nn: Temperature of the soft neighbours, Eq. 1 and 3.
        weights: w1, w2, w3 of Eq. 6.
        forward_reduction: ``"mean"`` or ``"sum"`` over a video's L positives.
        penalty_reduction: ``"sum"`` or ``"mean"`` over a video's L*L squares.
        exclude_other_positives: Leave a video's other frames out of Eq. 2's denominator.
        terms: Which of forward, backward and penalty enter the total.
        options: Further fields of :class:`Objective`.

    Returns:
        A :class:`CycleContrast` of 0-d tensors.

    Raises:
        InputError: Shapes or dtypes are not allowed.
        ConfigError: An option's value is not allowed.

    Example:
        >>> torch.manual_seed(0).initial_seed()
        0
        >>> result = cycle_contrast(torch.randn(4, 128), torch.randn(4, 8, 128))
        >>> result.total.shape, result.total.dtype
        (torch.Size([]), torch.float32)

    Source:
        Equations 1 to 6.
    """
    objective = Objective(
        tau=tau,
        tau_nn=tau_nn,
        weights=tuple(weights),
        forward_reduction=forward_reduction,
        penalty_reduction=penalty_reduction,
        exclude_other_positives=exclude_other_positives,
        terms=tuple(terms),
        **options,
    )
    return objective(videos, frames)


def mse_baseline(videos: Tensor, frames: Tensor, unit: bool = False) -> Tensor:
    """Mean squared distance between each video and its frames, without negatives.

    Args:
        videos: (N, D) projected videos, any floating dtype.
        frames: (N, L, D) projected frames of the same videos.
        unit: Normalise both first.

    Returns:
        The mean over videos and frames of ``||s_i - z_ik||^2``: 0-d, at least float32.

    Raises:
        InputError: Shapes or dtypes are not allowed.

    Source:
        Section 4.5 ("MSE"); the paper gives no formula.
    """
    _check(videos, frames)
    with torch.autocast(videos.device.type, enabled=False):
        videos, frames = _at_least_float32(videos), _at_least_float32(frames)
        if unit:
            videos, frames = F.normalize(videos, dim=-1), F.normalize(frames, dim=-1)
        return (videos[:, None] - frames).square().sum(-1).mean()  # (N,L,D) -> ()


def _soft_neighbour(logits: Tensor, candidates: Tensor) -> Tensor:
    """Unit softmax mixture of candidates (M,D) for each row of logits (A,M): (A,D)."""
    return F.normalize(logits.softmax(1) @ candidates, dim=-1)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check(videos: Tensor, frames: Tensor) -> None:
    """Raise InputError unless videos are (N,D) and frames (N,L,D) of floats, none empty."""
    fits = videos.ndim == 2 and frames.ndim == 3 and 0 not in frames.shape
    fits = fits and (frames.shape[0], frames.shape[2]) == tuple(videos.shape)
    if not fits or not videos.is_floating_point() or not frames.is_floating_point():
        raise InputError(
            f"the objective got videos {tuple(videos.shape)} {videos.dtype}, frames "
            f"{tuple(frames.shape)} {frames.dtype}; allowed: videos (N, D) and frames (N, L, D) "
            "of floats with the same N, D and N, L, D >= 1."
        )
