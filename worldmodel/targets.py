"""Target providers: the answers to be predicted. Never a gradient, never in an optimiser."""

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn

from .encoders import Encoder
from .errors import ModelError
from .views import Views

# The schedules of a moving target, and what their `steps` are.
SCHEDULES = {
    "constant": "",
    "cosine": "the number of updates until tau reaches 1",
    "linear": "the number of updates until tau reaches 1",
    "interval": "the number of updates between two copies",
}


class Target(nn.Module):
    """Answer without gradient; update() is called once after every optimiser step."""

    def forward(self, views: Views) -> Tensor:
        """Answer: views -> B Q D."""
        with torch.no_grad():
            return _pick(self.answer(views), views).detach()

    def answer(self, views: Views) -> Tensor:
        """Compute the answers: views -> B Q D."""
        raise NotImplementedError

    def update(self) -> None:
        """Follow the online encoder; a provider with nothing to move does nothing."""


def _pick(answers: Tensor, views: Views) -> Tensor:
    """Of the answers for all positions those that are asked for, if not all are: B N D -> B Q D."""
    if views.picked is None:
        return answers
    return answers.gather(1, views.picked[..., None].expand(-1, -1, answers.shape[-1]))


class Online(Target):
    """Answer with the online encoder as it is, behind a stop-gradient.

    `gradient=true` takes the stop-gradient away, to show what it is for: latents collapse.
    """

    def __init__(self, encoder: Encoder, *, gradient: bool = False) -> None:
        super().__init__()
        self.gradient = gradient
        # In a tuple, so that the encoder is not registered (and saved, and optimised) a second time.
        self._online = (encoder,)

    def forward(self, views: Views) -> Tensor:
        """Answer, without gradient unless sabotaged: views -> B Q D."""
        return _pick(self.answer(views), views) if self.gradient else super().forward(views)

    def answer(self, views: Views) -> Tensor:
        """Encode what is to be predicted: views -> B Q D."""
        return self._online[0](views.target)


class Input(Target):
    """Answer with what the encoder reads, scaled as it reads it: reconstruction."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        vectors = getattr(encoder, "vectors", None)
        if vectors is None or not vectors.size or hasattr(encoder, "convolutions"):
            raise ModelError("target input needs observations that are vectors; use worldmodel/target=online")
        self.size: int = vectors.size
        self._vectors = (vectors,)  # not registered a second time

    def answer(self, views: Views) -> Tensor:
        """Join and scale what is to be predicted: views -> B Q D."""
        return self._vectors[0](views.target)


class Frozen(Target):
    """Answer with a copy of the encoder as it was when built."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = deepcopy(encoder).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Frozen":
        """Stay in evaluation mode: a frozen answer has no batch statistics."""
        return super().train(False)

    def answer(self, views: Views) -> Tensor:
        """Encode what is to be predicted: views -> B Q D."""
        return self.encoder(views.target)


class Moving(Target):
    """Answer with an exponential moving average of the encoder's parameters.

    batch_stats="copied" normalises with the online encoder's tracked statistics, "own" with the target's own
    batches (the paper's form). `steps` counts updates: the length of a cosine or linear schedule, or how
    often an interval schedule, which does not read `tau`, copies the encoder as it is.
    """

    step: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        tau: float = 0.99,
        schedule: str = "constant",
        steps: int = 0,
        batch_stats: str = "copied",
    ) -> None:
        super().__init__()
        if schedule not in SCHEDULES:
            raise ModelError(f"target schedule={schedule!r} is unknown; choose {', '.join(SCHEDULES)}")
        if SCHEDULES[schedule] and steps < 1:
            raise ModelError(f"target schedule={schedule} needs steps, {SCHEDULES[schedule]}")
        if batch_stats not in ("copied", "own"):
            raise ModelError(f"target batch_stats={batch_stats!r} is unknown; choose copied or own")
        if not 0 <= tau <= 1:
            raise ModelError(f"target tau={tau} must lie between 0 and 1")
        self._online = (encoder,)
        self._tau, self._schedule, self._steps, self._own = tau, schedule, steps, batch_stats == "own"
        self.encoder = deepcopy(encoder).requires_grad_(False)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.train()

    def train(self, mode: bool = True) -> "Moving":
        """Stay in evaluation mode unless batch normalisation is to use the target's own batches."""
        return super().train(mode and self._own)

    def tau(self) -> Tensor:
        """Say how much of the target the next update keeps, as a 0-d tensor."""
        if self._schedule == "constant":
            return torch.full_like(self.step, self._tau, dtype=torch.float64)
        if self._schedule == "interval":
            return ((self.step + 1) % self._steps > 0).double()
        gone = self.step.clamp(max=self._steps).double() / self._steps
        if self._schedule == "linear":
            return self._tau + (1.0 - self._tau) * gone
        return 1.0 - (1.0 - self._tau) * ((gone * torch.pi).cos() + 1.0) / 2.0

    @torch.no_grad()
    def update(self) -> None:
        """Move once: target <- tau target + (1 - tau) online; buffers are copied."""
        online = self._online[0]
        mine, theirs = dict(self.encoder.named_parameters()), dict(online.named_parameters())
        targets: list[Tensor] = [mine[name] for name in theirs]
        sources: list[Tensor] = list(theirs.values())
        if self._schedule == "constant":
            torch._foreach_lerp_(targets, sources, 1.0 - self._tau)  # pyright: ignore[reportPrivateImportUsage]
        else:
            # tau stays a tensor: reading it would stop a GPU, and a number would freeze in a graph.
            tau = self.tau().to(targets[0].dtype)
            torch._foreach_mul_(targets, tau)  # pyright: ignore[reportPrivateImportUsage]
            torch._foreach_add_(targets, torch._foreach_mul(sources, 1.0 - tau))  # pyright: ignore[reportPrivateImportUsage]
        for old, new in zip(self._followed(self.encoder), self._followed(online), strict=True):
            old.copy_(new)
        self.step += 1

    def _followed(self, encoder: nn.Module) -> Iterator[Tensor]:
        """Yield the buffers that are copied: all, or all but batch statistics if they are its own."""
        for module in encoder.modules():
            if not (self._own and isinstance(module, nn.modules.batchnorm._BatchNorm)):
                yield from module.buffers(recurse=False)

    def answer(self, views: Views) -> Tensor:
        """Encode what is to be predicted: views -> B Q D."""
        return self.encoder(views.target)


TARGETS: dict[str, type[Online] | type[Moving] | type[Frozen] | type[Input]] = {
    "online": Online,
    "moving": Moving,
    "frozen": Frozen,
    "input": Input,
}
