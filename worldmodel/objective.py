"""The objective: views -> model -> target -> terms. Everything of training that is not the agent's."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .diagnostics import latent_std, participation_rank
from .errors import ModelError
from .losses import Graded, Term, masked_mean
from .model import WorldModel
from .targets import Target
from .views import Batch, ViewMaker, Views, next_step

ROLLOUT = (
    "rollout_"  # a term with this prefix grades the open-loop rollout instead of the one-step predictions
)


class Rollout(NamedTuple):
    """Predictions 1..K steps ahead of the last row that was seen, each made from the previous prediction."""

    latents: Tensor  # B K D
    trunk: Tensor  # B K F
    weight: Tensor  # B K, 1 while every transition so far exists


class Outputs(NamedTuple):
    """What the model made of a batch: for the terms, and for an agent that wants the beliefs."""

    latents: Tensor  # B N D
    beliefs: Tensor  # B N W
    prediction: Tensor  # B Q D
    trunk: Tensor  # B Q F
    answer: Tensor  # B Q D, no gradient
    weight: Tensor  # B Q, 1 where the transition exists
    rollout: Rollout | None


class Objective(nn.Module):
    """Grade a world model on a batch; weights and terms have the same keys, and terms are not reduced."""

    def __init__(
        self,
        model: WorldModel,
        target: Target,
        terms: Mapping[str, Term],
        weights: Mapping[str, float],
        views: ViewMaker = next_step,
        rollout_steps: int = 0,
        rollout_after: int = 1,
    ) -> None:
        super().__init__()
        if terms.keys() != weights.keys():
            odd = ", ".join(sorted(terms.keys() ^ weights.keys()))
            raise ValueError(f"terms and weights must have the same keys; only in one of them: {odd}")
        if any(name.startswith(ROLLOUT) for name in terms) != (rollout_steps > 0):
            raise ModelError(
                f"rollout_steps={rollout_steps} and the terms {', '.join(terms)} disagree: "
                f"set rollout_steps above 0 exactly when there are terms named {ROLLOUT}..."
            )
        if rollout_steps and views is not next_step:
            raise ModelError(
                "an open-loop rollout needs views.name=next_step; choose worldmodel/views=next_step, or "
                "worldmodel/terms=mse, which has none"
            )
        self.model, self.target = model, target
        self.terms, self.weights = dict(terms), dict(weights)
        self.views, self.rollout_steps = views, rollout_steps
        # The rows that are graded: a chain of predictions starts from the belief of the row before the first.
        self.rollout_rows = slice(rollout_after - 1, rollout_after - 1 + rollout_steps)
        # Terms with buffers (fixed projections) follow the objective to its device.
        self.term_modules = nn.ModuleList(term for term in terms.values() if isinstance(term, nn.Module))

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Grade a batch: B T -> scalar loss and detached 0-d metrics."""
        return self.grade(self.outputs(batch), batch)

    def trainable(self) -> list[nn.Parameter]:
        """List what an optimiser may move: the model's parameters, never the target's."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def outputs(self, batch: Batch) -> Outputs:
        """Run the model and the target on a batch: B T -> Outputs."""
        model, views = self.model, self.views(batch, self.model.observation_keys)
        latents = model.encode(views.obs, views.keep)
        # A set aggregator gives one belief per call; with a memory, one per row over its last C rows.
        every = self.views is next_step and not model.aggregator.causal
        memory = model.start(latents.shape[0]) if every else None
        beliefs, _ = model.aggregate(latents, views.prev_action, views.is_first, views.valid, memory)
        prediction = model.predict(beliefs[:, views.asked], views.query)
        return Outputs(
            latents=latents,
            beliefs=beliefs,
            prediction=prediction.latent,
            trunk=prediction.trunk,
            answer=self.target(views),
            weight=views.weight,
            rollout=self._rollout(views, latents, prediction.latent, prediction.trunk)
            if self.rollout_steps
            else None,
        )

    def _rollout(self, views: Views, latents: Tensor, prediction: Tensor, trunk: Tensor) -> Rollout:
        """Feed predictions back after the first rows, gradients through the chain: -> B K ..."""
        model, rows = self.model, self.rollout_rows
        if rows.stop > views.query.shape[1]:
            raise ModelError(
                f"rollout_steps={self.rollout_steps} after {rows.start + 1} rows needs windows of at least "
                f"{rows.stop + 1} rows, not {latents.shape[1]}; lengthen the windows or shorten the rollout"
            )
        seen, start = slice(rows.start + 1), slice(rows.start, rows.start + 1)
        _, cache = model.aggregate(
            latents[:, seen],
            views.prev_action[:, seen],
            views.is_first[:, seen],
            views.valid[:, seen],
            cache=model.start(len(latents)),
        )
        predicted, trunks = [prediction[:, start]], [trunk[:, start]]
        for step in range(rows.start + 1, rows.stop):
            taken, next_action = views.query[:, step - 1 : step], views.query[:, step : step + 1]
            belief, cache = model.aggregate(predicted[-1], taken, cache=cache)
            ahead = model.predict(belief, next_action)
            predicted.append(ahead.latent)
            trunks.append(ahead.trunk)
        return Rollout(torch.cat(predicted, 1), torch.cat(trunks, 1), views.weight[:, rows].cumprod(1))

    def grade(self, outputs: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Grade what `outputs` made of the batch: -> scalar loss and detached 0-d metrics."""
        views, o = self.views(batch, self.model.observation_keys), outputs
        truth = {"reward": views.reward, "continues": views.continues}
        seen = {"latents": o.latents, "valid": views.valid}
        graded = Graded(o.prediction, o.answer, o.trunk, weight=o.weight, **truth, **seen)
        ahead = graded
        if o.rollout is not None:
            r, rows = o.rollout, self.rollout_rows
            truth = {name: value[:, rows] for name, value in truth.items()}
            ahead = Graded(r.latents, o.answer[:, rows], r.trunk, weight=r.weight, **truth, **seen)
        loss, metrics = o.latents.new_zeros((), dtype=torch.float32), {}
        for name, term in self.terms.items():
            about = ahead if name.startswith(ROLLOUT) else graded
            value = term(about, self.model)
            value = masked_mean(value, about.weight) if value.ndim else value
            loss = loss + self.weights[name] * value
            metrics[f"loss/{name}"] = value.detach()
        metrics["loss/worldmodel"] = loss.detach()
        metrics["model/latent_std"] = latent_std(o.latents[:, 0])
        metrics["model/latent_rank"] = participation_rank(o.latents[:, 0])
        return loss, metrics
