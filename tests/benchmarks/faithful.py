"""The published form's training step, ours against a straightforward one in plain PyTorch, taking turns.

    python tests/benchmarks/faithful.py batch=64 size=64 record=tests/evidence/faithful.csv

Both learn the same: ResNet-18, an extra token read by a bidirectional post-norm transformer, the cosine to an
EMA encoder, AdamW. Before anything is timed their losses and gradients are compared, from the same weights.
"""

import copy
import csv
import math
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.cli import UserError, option, run_command
from agents.config import load_config
from agents.evidence import COLUMNS
from agents.floor import interleaved_ms
from agents.lessons import as_batch
from agents.provenance import describe_code, spell_commit
from envs.pictures.sequences import Sequences
from worldmodel import Objective, build

OBSERVED, ACTION = 3, 4  # views and the numbers of a rotation, as published
MEAN, STD = (0.5016, 0.5037, 0.5060), (0.1030, 0.0999, 0.0969)
LEARNING: dict[str, Any] = {"lr": 4e-4, "weight_decay": 1e-3}
CPU = torch.device("cpu")


@dataclass
class Faithful:
    """Time the published form's step against a straightforward one."""

    batch: int = option(64, "sequences of three views and the one to predict", low=2)
    size: int = option(64, "pixels on a side", low=32)
    rounds: int = option(9, "timed steps of each, taking turns", low=1)
    threads: int = option(1, "threads of torch", low=1)
    seed: int = option(0, "of weights and pictures")
    record: Path | None = option(None, "append rows of evidence to this file")


class PlainBlock(nn.Module):
    """A residual block, as everybody writes it."""

    def __init__(self, wide: int, narrow: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(wide, narrow, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(narrow)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(narrow)
        self.relu, self.shortcut = nn.ReLU(inplace=True), nn.Sequential()
        if stride > 1:
            shrink = nn.Conv2d(wide, narrow, 1, stride, bias=False)
            self.shortcut = nn.Sequential(shrink, nn.BatchNorm2d(narrow))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def plain_resnet() -> nn.Sequential:
    """ResNet-18 with its standard stem, and the pooled features instead of classes."""
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    layers: list[nn.Module] = [*stem, nn.MaxPool2d(3, 2, 1)]
    for wide, narrow, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)):
        layers += [PlainBlock(wide, narrow, stride), PlainBlock(narrow, narrow, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Plain(nn.Module):
    """The published form, straight from its description: one module or line for each of its sentences."""

    mean: Tensor
    std: Tensor

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.encoder = plain_resnet()
        self.embed, self.scale = nn.Linear(ACTION, 128, bias=False), nn.BatchNorm1d(128, affine=False)
        self.token = nn.Parameter(torch.zeros(1, 1, 640))
        layer = nn.TransformerEncoderLayer(640, 4, 2560, dropout, batch_first=True)
        self.aggregator = nn.TransformerEncoder(layer, 3, nn.LayerNorm(640), enable_nested_tensor=False)
        self.predictor = nn.Sequential(
            nn.Linear(768, 1024, bias=False), nn.BatchNorm1d(1024), nn.ReLU(), nn.Linear(1024, 512)
        )
        self.target = copy.deepcopy(self.encoder).requires_grad_(False)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(STD)[:, None, None])

    def forward(self, images: Tensor, actions: Tensor) -> Tensor:
        """Grade sequences, all observed views in one batch: B V 3 Y X, B V A -> scalar."""
        batch, views = images.shape[:2]
        x = (images.float() / 255.0 - self.mean) / self.std
        z = self.encoder(x[:, :-1].flatten(0, 1)).view(batch, views - 1, 512)
        e = self.scale(self.embed(actions[:, 1:-1].flatten(0, 1))).view(batch, views - 2, 128)
        tokens = torch.cat([z, torch.cat([e, torch.zeros(batch, 1, 128)], 1)], -1)
        belief = self.aggregator(torch.cat([self.token.expand(batch, 1, 640), tokens], 1))[:, 0]
        asked = self.scale(self.embed(actions[:, -1]))
        prediction = self.predictor(torch.cat([belief, asked], -1))
        with torch.no_grad():
            answer = self.target(x[:, -1])
        return (1.0 - F.cosine_similarity(prediction, answer, dim=-1)).mean()

    @torch.no_grad()
    def follow(self, tau: float) -> None:
        """Move the target encoder."""
        for old, new in zip(self.target.parameters(), self.encoder.parameters(), strict=True):
            old.mul_(tau).add_((1.0 - tau) * new)


def make_ours(size: int, dropout: float, seed: int) -> Objective:
    """Our published form, built from its configuration."""
    settings = load_config(["worldmodel=seq_jepa_paper", f"worldmodel.aggregator.dropout={dropout}"])
    images = {"pixels": {"shape": [3, size, size], "dtype": "uint8"}}
    shapes = {"observation": images, "action": {"kind": "continuous", "size": ACTION}}
    return build(settings.worldmodel, shapes, seed=seed)


def make_batch(batch: int, size: int, seed: int) -> dict[str, Tensor]:
    """Random pictures and actions, with the keys of a training batch."""
    g, rows = torch.Generator().manual_seed(seed), (batch, OBSERVED + 1)
    images = torch.randint(0, 256, (*rows, 3, size, size), dtype=torch.uint8, generator=g)
    actions = torch.randn(*rows, ACTION, generator=g)
    return as_batch(Sequences(images, actions, poses=actions))


def paired(ours: Any, plain: Any) -> list[tuple[str, Any, Any]]:
    """Name every learned tensor of ours beside its twin; both were written in the same order."""
    model = ours.model
    parts = [
        ("encoder", model.encoder, plain.encoder),
        ("action", model.action, plain.embed),
        ("layers", model.aggregator.layers, plain.aggregator.layers),
        ("norm", model.aggregator.norm, plain.aggregator.norm),
        ("predictor", model.predictor, plain.predictor),
    ]
    pairs = [("token", model.aggregator.summary, plain.token)]
    for part, mine, theirs in parts:
        twins = zip(mine.named_parameters(), theirs.parameters(), strict=True)
        pairs += [(f"{part}.{name}", first, second) for (name, first), second in twins]
    learned = [
        sum(w.numel() for w in all_ if w.requires_grad) for all_ in (ours.parameters(), plain.parameters())
    ]
    if learned[0] != learned[1] or learned[0] != sum(w.numel() for _, w, _ in pairs):
        raise UserError(f"ours has {learned[0]:,} parameters to learn, the plain version {learned[1]:,}")
    return pairs


def differences(batch: int, size: int, seed: int = 0) -> dict[str, float]:
    """Relative differences of loss, gradients and moved target between ours and plain, from equal weights."""
    ours: Any = make_ours(size, 0.0, seed)
    plain, g = Plain(dropout=0.0), torch.Generator().manual_seed(seed)
    pairs = paired(ours, plain)
    targets = [
        (f"target.{name}", mine, theirs)
        for (name, mine), theirs in zip(
            ours.target.encoder.named_parameters(), plain.target.parameters(), strict=True
        )
    ]
    with torch.no_grad():
        for _, mine, theirs in pairs + targets:  # shaken: fresh weights have zeros that hide errors
            mine += 0.02 * torch.randn(mine.shape, generator=g)
            theirs.copy_(mine)
    data = make_batch(batch, size, seed)
    losses = ours(data)[0], plain(data["pixels"], data["prev_action"])
    for loss in losses:
        loss.backward()
    ours.target.update()
    plain.follow(rate(0))
    slopes = [(name, mine.grad, theirs.grad) for name, mine, theirs in pairs]
    # Gradients that are zero but for rounding (those of keys' biases) count relative to the largest.
    least = 1e-3 * max(float(theirs.norm()) for _, _, theirs in slopes)
    found = [("loss", losses[0].detach(), losses[1].detach()), *slopes, *targets]
    return {name: float((a - b).norm() / b.norm().clamp_min(least)) for name, a, b in found}


def rate(update: int, updates: int = 82_000) -> float:
    """The published schedule of tau."""
    return 1.0 - (1.0 - 0.996) * (math.cos(math.pi * update / updates) + 1.0) / 2.0


def plain_step(data: dict[str, Tensor]) -> Callable[[], None]:
    """A training step without any thought of speed."""
    plain, done = Plain(dropout=0.1), 0
    optimiser = torch.optim.AdamW([w for w in plain.parameters() if w.requires_grad], **LEARNING)

    def step() -> None:
        nonlocal done
        loss = plain(data["pixels"], data["prev_action"])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        plain.follow(rate(done))
        done += 1

    return step


def our_step(data: dict[str, Tensor], size: int, seed: int) -> Callable[[], None]:
    """A training step as pre-training takes it."""
    ours = make_ours(size, 0.1, seed)
    optimiser = torch.optim.AdamW(ours.trainable(), **LEARNING, fused=True)

    def step() -> None:
        loss, _ = ours(data)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        ours.target.update()

    return step


def measure(options: Faithful) -> None:
    """Compare, then time, the published form's step: ours and a straightforward one."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    worst = max(differences(8, options.size, options.seed).items(), key=lambda pair: pair[1])
    if worst[1] > 0.02:  # of single precision, through eighteen layers of kinked functions
        raise UserError(f"the two steps are not the same: {worst[0]} differs by {worst[1]:.2g} of its size")
    print(f"same loss and gradients; the largest difference is {worst[1]:.1g} of {worst[0]}")
    start, data = time.monotonic(), make_batch(options.batch, options.size, options.seed)
    steps = our_step(data, options.size, options.seed), plain_step(data)
    for step in steps * 2:
        step()
    ours, plain = interleaved_ms(*steps, rounds=options.rounds, device=CPU)
    images = options.batch * (OBSERVED + 1)
    for name, ms in (("ours", ours), ("plain PyTorch", plain)):
        print(f"{name:<14} {ms:9.1f} ms/step {images / ms * 1e3:9.1f} images/s")
    print(f"ratio          {plain / ours:9.2f} x")
    if options.record is not None:
        rows = [
            ("ours", "step_ms", ours),
            ("plain PyTorch", "step_ms", plain),
            ("ours", "ratio", plain / ours),
        ]
        record(options, rows, time.monotonic() - start)


def record(options: Faithful, rows: list[tuple[str, str, float]], seconds: float) -> None:
    """Append rows of evidence."""
    assert options.record is not None
    commit, fresh = spell_commit(describe_code()), not options.record.exists()
    command = shlex.join(["python", "tests/benchmarks/faithful.py", *sys.argv[1:]])
    where = f"pictures_{options.size}px_batch_{options.batch}"
    with options.record.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if fresh:
            writer.writerow(COLUMNS)
        for method, metric, value in rows:
            row = ["faithful", where, method, options.seed, 0, f"bench/{metric}", f"{value:.3f}"]
            writer.writerow([*row, f"{seconds:.1f}", commit, command])


if __name__ == "__main__":
    raise SystemExit(run_command("faithful", measure, options=Faithful))
