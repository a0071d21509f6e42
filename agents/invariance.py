"""Whether it matters to a world model how a state looks: states drawn again, encoded and compared."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from agents.answers import Answer
from agents.recording import FEWEST, Recording, Redrawn
from envs import Spec
from worldmodel.probes import Split, probe, split

if TYPE_CHECKING:
    from agents.probing import View

SIDE = 16  # pictures are averaged to this before heads read them: enough to see light, tints and limbs
ROUNDING = 1e-5  # a channel that varies less is constant; whitened, its rounding errors would count as much


def spread_ratio(features: Tensor) -> float:
    """Share of the variance of whitened channels that is between looks of one state: M K F -> 0 to 1."""
    h = features.double()
    total = h.flatten(0, 1).var(0, unbiased=False)
    within = (h - h.mean(1, keepdim=True)).square().mean((0, 1))
    alive = total > ROUNDING**2
    # Every whitened channel has variance 1, so the ratio of the sums is the mean of the ratios.
    return (within[alive] / total[alive]).mean().item()


def nuisances(recording: Recording, ours: "View", floor: "View", *, seed: int) -> Iterator[Answer]:
    """What looks do to latents and beliefs; no answers where nothing was redrawn, or in too few episodes."""
    redrawn = recording.redrawn
    if redrawn is None:
        return
    kept = recording.valid[:, redrawn.rows].flatten()
    number = torch.arange(recording.episodes).repeat_interleave(len(redrawn.rows))[kept]
    if len(number.unique()) < FEWEST:
        return
    sources = {name: h.flatten(0, 1)[kept] for name, h in _sources(redrawn, ours, floor).items()}
    for (role, source), h in sources.items():
        yield Answer("nuisance", "spread", source, role, "none", 0, "spread_ratio", spread_ratio(h))
    looks = torch.arange(redrawn.looks)
    parts, shared, fresh = split(number, seed=seed), looks < redrawn.shared, looks >= redrawn.shared

    def read(h: Tensor, labels: Tensor, split: Split) -> Iterator[tuple[str, float]]:
        found = probe(h.flatten(0, 1), labels.flatten(0, 1), split, seed=seed)
        yield from (("r2", found.uniform), ("r2_weighted", found.weighted))

    parameters = redrawn.nuisance.flatten(0, 1)[kept]
    for (role, source), h in sources.items():
        for metric, value in read(h, parameters, Split(*(_pairs(part, fresh) for part in parts))):
            yield Answer("nuisance", "look", source, role, "linear", 0, metric, value)
    for name, truth in recording.states.items():
        labels = truth[:, redrawn.rows].flatten(0, 1)[kept][:, None].expand(-1, redrawn.looks, -1)
        for (role, source), h in sources.items():
            for suffix, judged in (("fitted looks", shared), ("new looks", fresh)):
                fit, choose = _pairs(parts.fit, shared), _pairs(parts.choose, shared)
                for metric, value in read(h, labels, Split(fit, choose, _pairs(parts.judge, judged))):
                    label = ("nuisance", name, f"{source}, {suffix}", role, "linear", 0)
                    yield Answer(*label, metric, value)


def omitted(spec: Spec, answers: list[Answer]) -> str:
    """Why the question was not asked, or nothing."""
    if any(answer.question == "nuisance" for answer in answers):
        return ""
    if not any(array.dtype == "uint8" for array in spec.observation.values()):
        return "nuisance: nothing is rendered"
    return f"nuisance: pictures cannot be redrawn here, or fewer than {FEWEST} episodes last"


def _sources(redrawn: Redrawn, ours: "View", floor: "View") -> Mapping[tuple[str, str], Tensor]:
    """What is compared, by role and name: E R K F."""
    found = {}
    for role, view, suffix in (("ours", ours, ""), ("floor", floor, ", untrained")):
        z = latents(view, redrawn)
        found[role, f"latent{suffix}"], found[role, f"belief{suffix}"] = z, beliefs(view, redrawn, z)
    small = [F.adaptive_avg_pool2d(v.flatten(0, 2).float(), SIDE).flatten(1) for v in redrawn.obs.values()]
    found["floor", "pixels"] = torch.cat(small, 1).unflatten(0, redrawn.nuisance.shape[:3])
    return found


@torch.no_grad()
def latents(view: "View", redrawn: Redrawn) -> Tensor:
    """What the model makes of each row under each look, one episode at a time: E R K D."""
    out = []
    for e in range(view.recording.episodes):
        obs = {
            key: value[e, redrawn.rows].repeat_interleave(redrawn.looks, 0)
            for key, value in view.recording.obs.items()
        }
        obs |= {key: value[e].flatten(0, 1) for key, value in redrawn.obs.items()}
        z = view.model.encode({key: value[None].to(view.device) for key, value in obs.items()})
        out.append(z[0].unflatten(0, (-1, redrawn.looks)))
    return torch.stack(out).float().cpu()


@torch.no_grad()
def beliefs(view: "View", redrawn: Redrawn, z: Tensor) -> Tensor:
    """What it believes if the last row of what it saw had looked otherwise: E R K D -> E R K W."""
    model, rows, out = view.model, redrawn.rows.tolist(), []
    first, cache = view.recording.is_first.to(view.device), model.start(view.recording.episodes)
    for t in range(max(rows) + 1):
        now = slice(t, t + 1)
        told = view.done[:, now], first[:, now]
        if t in rows:
            other = z[:, rows.index(t), :, None].to(view.device)
            looks = range(redrawn.looks)
            seen = [model.aggregate(other[:, k], *told, cache=cache)[0][:, 0] for k in looks]
            out.append(torch.stack(seen, 1))
        _, cache = model.aggregate(view.z[:, now], *told, cache=cache)
    return torch.stack(out, 1).float().cpu()


def _pairs(rows: Tensor, looks: Tensor) -> Tensor:
    """Rows in question under looks in question: M, K -> M*K."""
    return (rows[:, None] & looks).flatten()
