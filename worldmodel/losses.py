"""Loss terms: functions of what was predicted and what is true, one value per question or a scalar."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import ModelError
from .model import WorldModel


class Graded(NamedTuple):
    """What a term sees."""

    prediction: Tensor  # B Q D
    answer: Tensor  # B Q D
    trunk: Tensor  # B Q F
    reward: Tensor  # B Q
    continues: Tensor  # B Q
    weight: Tensor  # B Q
    latents: Tensor  # B N D
    valid: Tensor  # B N


Term = Callable[[Graded, WorldModel], Tensor]  # -> B Q, or a scalar


def masked_mean(value: Tensor, weight: Tensor) -> Tensor:
    """Average over what exists; zero when nothing does: ... -> scalar."""
    return (value * weight).sum() / weight.sum().clamp_min(1.0)


def cosine() -> Term:
    """Make one minus the cosine similarity, from 0 (parallel) to 2 (opposite): B Q."""
    return lambda g, model: 1.0 - F.cosine_similarity(g.prediction.float(), g.answer.float(), dim=-1)


def mse() -> Term:
    """Make the mean squared difference of the features: B Q."""
    return lambda g, model: (g.prediction.float() - g.answer.float()).square().mean(-1)


def change() -> Term:
    """Make the mean squared difference in units of how much the answers change from row to row: B Q.

    Repeating the last answer costs 1 whatever the latents' scale, so small but steady changes (a velocity is
    all there is of them) count as much beside the other terms as large ones, and shrinking pays nothing.
    """

    error = mse()

    def term(g: Graded, model: WorldModel) -> Tensor:
        answer = g.answer.float()
        if answer.shape[1] < 2:
            raise ModelError("the term change needs windows of several transitions; use the term mse")
        both = g.weight[:, 1:] * g.weight[:, :-1]
        size = masked_mean((answer[:, 1:] - answer[:, :-1]).square().mean(-1), both).clamp_min(1e-8)
        return error(g, model) / size

    return term


def smooth_l1(*, beta: float = 1.0) -> Term:
    """Make the mean Huber difference, quadratic below beta: B Q."""
    return lambda g, model: F.smooth_l1_loss(
        g.prediction.float(), g.answer.float(), reduction="none", beta=beta
    ).mean(-1)


def infonce(*, temperature: float = 0.1) -> Term:
    """Make the contrastive loss that picks the own answer among the batch's at the same position: B Q."""
    if temperature <= 0:
        raise ModelError(f"infonce temperature={temperature} must be positive")

    def term(g: Graded, model: WorldModel) -> Tensor:
        p, a = F.normalize(g.prediction.float(), dim=-1), F.normalize(g.answer.float(), dim=-1)
        logits = torch.einsum("bqd,cqd->qbc", p, a) / temperature
        own = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
        # Answers that do not exist are nobody's negatives; a row keeps its own: a softmax needs something.
        logits = logits.masked_fill(~((g.weight.t() > 0)[:, None] | own), float("-inf"))
        return -logits.log_softmax(-1).diagonal(dim1=-2, dim2=-1).t()

    return term


def _centred(g: Graded) -> tuple[Tensor, Tensor]:
    """Flatten the latents, subtract their mean and blank padding: B N D, B N -> B*N D and the count."""
    rows, weight = g.latents.float().flatten(0, 1), g.valid.float().flatten()[:, None]
    count = weight.sum().clamp_min(2.0)
    return (rows - (rows * weight).sum(0) / count) * weight, count


def variance(*, floor: float = 1.0) -> Term:
    """Make a hinge that keeps every latent's standard deviation over the batch above floor: scalar."""

    def term(g: Graded, model: WorldModel) -> Tensor:
        rows, count = _centred(g)
        std = (rows.square().sum(0) / (count - 1) + 1e-6).sqrt()
        return (floor - std).relu().mean()

    return term


def covariance() -> Term:
    """Make the squared off-diagonal covariances of the latents, summed and divided by D: scalar."""

    def term(g: Graded, model: WorldModel) -> Tensor:
        rows, count = _centred(g)
        matrix = rows.t() @ rows / (count - 1)
        return (matrix.square().sum() - matrix.diagonal().square().sum()) / matrix.shape[0]

    return term


class SIGReg(nn.Module):
    """Measure the Epps-Pulley distance of random projections of the latents from a standard normal: scalar.

    The directions are drawn once from `seed`, where the original draws new ones each step: a compiled step
    then holds no random state, and with more slices than features they pin down the same moments.
    """

    directions: Tensor
    points: Tensor

    def __init__(self, latent_size: int, *, slices: int = 256, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        directions = F.normalize(torch.randn(latent_size, slices, generator=generator), dim=0)
        self.register_buffer("directions", directions.t().contiguous(), persistent=False)
        self.register_buffer("points", torch.linspace(0.0, 3.0, 13), persistent=False)

    def forward(self, g: Graded, model: WorldModel) -> Tensor:
        """Compare characteristic functions: latents B N D -> scalar."""
        rows, weight = g.latents.float().flatten(0, 1), g.valid.float().flatten()
        # In float32 though the product may be in bfloat16: a recurrence adds up its errors.
        angle = (self.directions @ rows.t()).float() * self.points[1]
        cosines, sines = multiples(angle, len(self.points))
        count = weight.sum().clamp_min(1.0)
        real = torch.stack([(each * weight).sum(1) for each in cosines], -1) / count
        imaginary = torch.stack([(each * weight).sum(1) for each in sines], -1) / count
        normal = (-0.5 * self.points.square()).exp()
        error = ((real - normal).square() + imaginary.square()) * normal
        return torch.trapezoid(error, self.points, dim=-1).mean()


def multiples(angle: Tensor, count: int) -> tuple[list[Tensor], list[Tensor]]:
    """Cosines and sines of 0, 1, ... count - 1 times an angle, each of its shape.

    By recurrence from the first two: asking for every one took a tenth of an update.
    """
    cosines, sines = [torch.ones_like(angle), angle.cos()], [torch.zeros_like(angle), angle.sin()]
    twice = 2 * cosines[1]
    for known in (cosines, sines):
        while len(known) < count:
            known.append(twice * known[-1] - known[-2])
    return cosines, sines


def sparsity() -> Term:
    """Make the sizes of what the encoder multiplies each input with, summed: a group lasso, scalar.

    Inputs that nothing needs fade away; without it, noise in a small replay is learned by heart.
    """

    def term(g: Graded, model: WorldModel) -> Tensor:
        encoder: Any = model.encoder  # one that has them: the builder asks
        return (encoder.input_weights().float().square().sum(0) + 1e-8).sqrt().sum()

    return term


def reward() -> Term:
    """Make the cross-entropy of the reward head: B Q."""
    return lambda g, model: model.reward.loss(model.reward(g.trunk), g.reward)


def continuation() -> Term:
    """Make the cross-entropy of the continuation head: B Q."""
    return lambda g, model: model.continuation.loss(model.continuation(g.trunk), g.continues)


def reconstruction() -> Term:
    """Make the mean squared difference of the decoded prediction from the input to come: B Q."""
    return lambda g, model: _decoded(g.prediction, g, model)


def autoencoding() -> Term:
    """Make the same of the decoded latents themselves, so that what is predicted is what is encoded: B Q."""

    def term(g: Graded, model: WorldModel) -> Tensor:
        if g.latents.shape[1] != g.answer.shape[1] + 1:
            raise ModelError("autoencoding needs views.name=next_step, where every answer is encoded as well")
        return _decoded(g.latents[:, 1:], g, model)

    return term


def _decoded(latents: Tensor, g: Graded, model: WorldModel) -> Tensor:
    return (model.decoder(latents).float() - g.answer.float()).square().mean(-1)


TERMS: dict[str, Callable[..., Term]] = {
    "cosine": cosine,
    "mse": mse,
    "smooth_l1": smooth_l1,
    "change": change,
    "infonce": infonce,
    "variance": variance,
    "covariance": covariance,
    "sigreg": SIGReg,
    "sparsity": sparsity,
    "reward": reward,
    "continuation": continuation,
    "reconstruction": reconstruction,
    "autoencoding": autoencoding,
}
NEEDS_HEAD = {
    "reward": "reward",
    "continuation": "continuation",
    "reconstruction": "decoder",
    "autoencoding": "decoder",
}
OF_LATENTS = {"variance", "covariance", "sigreg", "autoencoding"}
OF_ENCODERS = {"sparsity"}
OF_ANSWERS = {"change", "cosine", "mse", "smooth_l1", "infonce"}  # predictions against answers, of one size
OF_INPUTS = {"reconstruction", "autoencoding"}  # what is decoded against the input
