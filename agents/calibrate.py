"""Whether pictures are neither trivial nor hopeless, before anything is pre-trained on them.

    python -m agents.calibrate data=objects data.tier=t1

Pixels and an untrained encoder must say little, and an encoder that is told the answers must learn them.
"""

import sys
from typing import Any, NamedTuple

from agents.cli import UserError, run_command
from agents.pretrain_schema import COLUMNS

COARSE = 16  # pixels of the pictures that a linear head reads


class Bar(NamedTuple):
    """A number that pictures must stay below, or reach."""

    name: str
    value: float
    limit: float
    most: bool  # whether the limit is the most there may be

    @property
    def holds(self) -> bool:
        """Whether it does."""
        return self.value < self.limit if self.most else self.value >= self.limit


def calibrate(cfg: Any) -> int:
    """Measure all bars for the configured pictures and encoder; the exit code is 0 if all of them hold."""
    from agents.assembly import set_threads
    from agents.progress import counting
    from envs.pictures.sources import make_source

    if cfg.data.kind in COLUMNS:
        text = f"data.kind={cfg.data.kind} has no pictures to measure"
        raise UserError(text, "use data=objects or data=saccades, or pre-train on it at once")
    set_threads(cfg.learning.threads)
    with counting() as tell:
        bars = measure(make_source(cfg.data, tell), cfg, tell)
    for bar in bars:
        sign = "<" if bar.most else "≥"
        print(f"{bar.name:<52} {bar.value:6.3f}  {sign} {bar.limit:.2f}  {'holds' if bar.holds else 'FAILS'}")
    return 0 if all(bar.holds for bar in bars) else 1


def measure(source: Any, cfg: Any, tell: Any) -> list[Bar]:
    """Measure what pixels, an untrained encoder and a supervised one know of held-out things."""
    import torch

    from agents.examination import Subject
    from agents.lessons import shapes_of
    from worldmodel import build

    class Coarse(torch.nn.Module):
        """A model whose latents are coarse pixels."""

        def __init__(self) -> None:
            super().__init__()
            self.device = torch.nn.Parameter(torch.zeros(()))

        def encode(self, obs: Any) -> Any:
            """Average: B T C Y X -> B T C*16*16."""
            flat = torch.nn.functional.adaptive_avg_pool2d(obs["pixels"].flatten(0, 1).float(), COARSE)
            return flat.flatten(1).unflatten(0, obs["pixels"].shape[:2])

    torch.manual_seed(cfg.seed)
    pixels = Subject(Coarse(), source, seed=cfg.seed)  # pyright: ignore[reportArgumentType]
    pair, done = pixels.z[:, :2].flatten(1), pixels.actions[:, 1, source.turn]
    bars = [
        Bar(
            "pixels, linear: class", pixels.ask(pixels.z[:, 0], pixels.labels, "linear").accuracy, 0.45, True
        ),
        Bar("pixels, linear: R² of the action", pixels.ask(pair, done, "linear").uniform, 0.1, True),
    ]
    model = build(cfg.worldmodel, shapes_of(source), seed=cfg.seed).model
    untrained = Subject(model, source, seed=cfg.seed)
    pair = untrained.z[:, :2].flatten(1)
    bars.append(
        Bar("untrained encoder: R² of the action", untrained.ask(pair, done, "mlp").uniform, 0.25, True)
    )
    told = supervised(model.encoder, source, cfg, tell)
    return [
        *bars,
        Bar("told the answers: R² of the action", told[0], 0.8, False),
        Bar("told the answers: class", told[1], 0.9, False),
    ]


def supervised(encoder: Any, source: Any, cfg: Any, tell: Any) -> tuple[float, float]:
    """Train an encoder on actions and classes themselves: -> R2 and share found, on held-out things."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    from agents.pretraining import learning_rate
    from worldmodel.probes import score

    classes, turns = int(source.labels.max()) + 1, len(range(source.action_size)[source.turn])
    width = encoder.size
    between = nn.Sequential(nn.Linear(2 * width, 256), nn.ReLU(), nn.Linear(256, turns))
    heads = nn.ModuleDict({"encoder": encoder, "between": between, "kind": nn.Linear(width, classes)})
    optimiser = torch.optim.AdamW(heads.parameters(), weight_decay=1e-3, fused=True)
    known, new = (~source.held_out).nonzero()[:, 0], source.held_out.nonzero()[:, 0]
    generator = torch.Generator().manual_seed(cfg.seed)

    def look(things: Any) -> tuple[Any, Any, Any]:
        drawn = source.draw(things, 2, generator)
        z = encoder({"pixels": drawn.images})
        return between(z.flatten(1)), heads["kind"](z[:, 0]), drawn.actions[:, 1, source.turn]

    heads.train()
    for update in range(cfg.learning.updates):
        for group in optimiser.param_groups:
            group["lr"] = 2 * learning_rate(update, cfg.learning)
        things = known[torch.randint(len(known), (cfg.learning.batch,), generator=generator)]
        turn, kind, truth = look(things)
        loss = (turn - truth).square().mean() / truth.var() + F.cross_entropy(kind, source.labels[things])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        tell("supervised updates", update + 1)
    heads.eval()
    with torch.no_grad():
        things = new.repeat(-(-1000 // len(new)))
        turn, kind, truth = (torch.cat(c) for c in zip(*(look(t) for t in things.split(256)), strict=True))
    found = (kind.argmax(1) == source.labels[things]).float().mean().item()
    return score(turn, truth).uniform, found


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    return run_command("calibrate", calibrate, argv, load="load_pretraining")


if __name__ == "__main__":
    sys.exit(main())
