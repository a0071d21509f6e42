"""From a configuration to an agent on a device."""

from collections.abc import Callable
from typing import Any

import torch

from agents.actor_critic import ActorCritic
from agents.cli import UserError
from envs import Spec
from worldmodel import Objective, build
from worldmodel.views import next_step


def choose_device(name: str) -> torch.device:
    """`auto` is a GPU if there is one; a device that does not exist is an error that says so."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device={name!r} is not a device", "use device=auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda was asked for, but torch sees no GPU", "use device=auto or device=cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device={name} was asked for, but torch sees {torch.cuda.device_count()} GPUs",
            "count from 0, or use device=cuda",
        )
    return device


def set_threads(threads: int) -> int:
    """Set torch's thread count and return it; results repeat bit for bit only with the same one."""
    torch.set_num_threads(threads)
    return threads


def shapes_of(spec: Spec) -> dict[str, Any]:
    """Describe observations and actions as the world model wants them."""
    observation = {key: {"shape": list(a.shape), "dtype": a.dtype} for key, a in spec.observation.items()}
    return {"observation": observation, "action": {"kind": spec.action.kind, "size": spec.action.size}}


def build_agent(
    cfg: Any,
    spec: Spec,
    device: torch.device,
    *,
    encoder: str | None = None,
    say: Callable[[str], None] = print,
) -> ActorCritic:
    """Build the agent of a configuration for an environment; seed the global generators first.

    `encoder` names a pre-trained world model whose encoder this one begins with.
    """
    objective = build(cfg.worldmodel, shapes_of(spec))
    _check_can_act(objective, cfg.agent.planner)
    if encoder:
        say(f"{begin_with(objective, encoder)} tensors of the encoder come from {encoder}")
    return ActorCritic(objective, spec, cfg.agent, seed=cfg.seed, device=device, say=say)


def begin_with(objective: Objective, path: str) -> int:
    """Copy what fits of a pre-trained encoder into this one, and into its target: -> how many tensors."""
    from worldmodel import load

    ours, theirs = objective.model.encoder, load(path).encoder.state_dict()
    fitting = {k: v for k, v in ours.state_dict().items() if k in theirs and theirs[k].shape == v.shape}
    if not any(name in fitting for name, _ in ours.named_parameters()):
        text = f"nothing of the encoder of {path} fits worldmodel.encoder={objective.model.config['encoder']}"
        raise UserError(text, "use the same encoder, of the same sizes, for the same observations")
    ours.load_state_dict({name: theirs[name] for name in fitting}, strict=False)
    copy = getattr(objective.target, "encoder", None)
    if copy is not None:
        copy.load_state_dict(ours.state_dict())
    return len(fitting)


def _check_can_act(objective: Objective, planner: str) -> None:
    """Refuse world models that an agent cannot live on; they are for pre-training."""
    if objective.views is not next_step:
        text = "this world model is for agents.pretrain: an agent needs a belief and a question at every row"
        raise UserError(
            text, "use worldmodel=seq_jepa (or worldmodel/views=next_step worldmodel/terms=rollout)"
        )
    missing = [name for name in ("reward", "continuation") if getattr(objective.model, name) is None]
    if planner != "none" and missing:
        fix = "use agent=policy, or a worldmodel= with both heads, such as seq_jepa"
        raise UserError(f"the planner needs the {' and '.join(missing)} head of the world model", fix)
