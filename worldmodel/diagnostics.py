"""Is the representation alive? Numbers that a loss value does not show."""

from torch import Tensor


def latent_std(z: Tensor) -> Tensor:
    """Return the standard deviation over samples, averaged over features: ... D -> scalar (0: collapsed)."""
    return z.detach().float().flatten(0, -2).std(0, correction=0).mean()


def participation_rank(z: Tensor) -> Tensor:
    """Return how many directions carry the variance, tr(C)^2 / |C|^2: ... D -> scalar (0 when collapsed).

    Matrix products only, so it can live inside a compiled update; never above D.
    """
    rows = z.detach().float().flatten(0, -2)
    rows = rows - rows.mean(0)
    matrix = rows.t() @ rows
    return matrix.trace().square() / matrix.square().sum().clamp_min(1e-20)
