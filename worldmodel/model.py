"""The world model: what survives training. No losses, targets or optimisers inside."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .aggregators import Aggregator, Memory
from .blocks import ActionEmbedding
from .encoders import Encoder, TableEncoder
from .encoders.vectors import Observations
from .errors import ModelError
from .heads import Continuation, Decoder, TwoHot
from .predictors import Prediction, Predictor

Policy = Callable[
    [Tensor, int], Tensor
]  # belief B W and step h -> action B A; a plan is `lambda b, h: plan[:, h]`


class State(NamedTuple):
    """Where B streams stand: the belief now and the memory it grows from."""

    belief: Tensor  # B W
    cache: Memory

    def repeat(self, samples: int) -> "State":
        """Copy every stream for its candidate plans: B -> B*S, a stream's copies in a row."""
        cache = type(self.cache)(*(x.repeat_interleave(samples, 0) for x in self.cache))
        return State(self.belief.repeat_interleave(samples, 0), cache)


class Imagined(NamedTuple):
    """What a policy meets inside the model; rewards and continuations are None without those heads."""

    latents: Tensor  # B H D
    beliefs: Tensor  # B H+1 W
    actions: Tensor  # B H A
    rewards: Tensor | None  # B H
    continuations: Tensor | None  # B H, probabilities


class WorldModel(nn.Module):
    """Encode observations, aggregate them with actions into beliefs, predict, imagine."""

    def __init__(
        self,
        encoder: Encoder,
        action: ActionEmbedding,
        aggregator: Aggregator,
        predictor: Predictor,
        heads: dict[str, TwoHot | Continuation | Decoder],
        config: dict[str, Any],
        shapes: dict[str, Any],
    ) -> None:
        super().__init__()
        self.encoder, self.action, self.aggregator, self.predictor = encoder, action, aggregator, predictor
        self.reward: Any = heads.get("reward")
        self.continuation: Any = heads.get("continuation")
        self.decoder: Any = heads.get("decoder")
        self.config, self.shapes = config, shapes
        self.observation_keys = tuple(sorted(shapes["observation"]))
        self.latent_size: int = encoder.size
        self.belief_size: int = aggregator.size
        self.action_size: int = shapes["action"]["size"]

    def encode(self, obs: Observations, keep: Tensor | None = None) -> Tensor:
        """Encode positions, only those in keep (B M) if given: dict of [B, T, ...] -> B N D or B M D."""
        if isinstance(self.encoder, TableEncoder) and self.encoder.positions == "columns":
            return self.encoder(obs, keep)
        if keep is not None:
            rows = torch.arange(keep.shape[0], device=keep.device)[:, None]
            obs = {key: obs[key][rows, keep] for key in self.observation_keys}
        return self.encoder(obs)

    def observe(self, obs: Observations) -> None:
        """Add observations to the running normalisation, which nothing else moves: dict of [..., *shape]."""
        self.encoder.observe(obs)

    def start(self, batch: int) -> Memory:
        """Make the empty memory of `batch` streams."""
        return self.aggregator.start(batch, self.action.linear.weight.detach())

    def aggregate(
        self,
        z: Tensor,
        prev_action: Tensor,
        is_first: Tensor | None = None,
        valid: Tensor | None = None,
        cache: Memory | None = None,
    ) -> tuple[Tensor, Memory | None]:
        """Update beliefs with latents and the actions that led to them: B T D, B T A, B T, B T -> B T W."""
        told = self.action.shown(prev_action, "aggregator")
        return self.aggregator(z, told, self.action, is_first, valid, cache)

    def predict(self, belief: Tensor, action: Tensor) -> Prediction:
        """Predict what follows an action: ... W, ... A -> latent ... D and trunk ... F."""
        return self.predictor(belief, self.action(self.action.shown(action, "predictor")))

    def imagine(self, state: State, policy: Policy, horizon: int) -> Imagined:
        """Roll a policy out inside the model, feeding predictions back: State of B -> B H ..."""
        belief, cache = state
        if cache is None:
            text = "a state to imagine from needs the memory behind its belief"
            raise ModelError(f"{text}: belief, cache = model.aggregate(…, cache=model.start(batch))")
        beliefs, actions, predictions = [belief], [], []
        for step in range(horizon):
            action = policy(belief, step)
            prediction = self.predict(belief, action)
            now, cache = self.aggregate(prediction.latent[:, None], action[:, None], cache=cache)
            belief = now[:, 0]
            beliefs.append(belief)
            actions.append(action)
            predictions.append(prediction)
        trunk = torch.stack([p.trunk for p in predictions], 1)
        return Imagined(
            latents=torch.stack([p.latent for p in predictions], 1),
            beliefs=torch.stack(beliefs, 1),
            actions=torch.stack(actions, 1),
            rewards=None if self.reward is None else self.reward.mean(self.reward(trunk)),
            continuations=None
            if self.continuation is None
            else self.continuation.mean(self.continuation(trunk)),
        )
