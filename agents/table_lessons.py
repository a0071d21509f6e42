"""Learning from a table, and what frozen latents of its rows are worth beside honest baselines.

Settings of heads and baselines are chosen alike, on rows of their own; what is reported is of the rest.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.lessons import Tell, nothing_else
from agents.tables import Table
from worldmodel import Objective, WorldModel, build_model
from worldmodel.diagnostics import latent_std, participation_rank
from worldmodel.views import draw_columns


class TableLessons:
    """Rows to train with, some columns shown and others asked for."""

    each = 1

    def __init__(self, table: Table) -> None:
        self.table, self.rows = table, table.train.nonzero()[:, 0]
        observation: dict[str, Any] = {}
        if table.numbers.shape[1]:
            observation["numbers"] = {"shape": [table.numbers.shape[1]], "dtype": "float32"}
        if table.words.shape[1]:
            facts = {"shape": [table.words.shape[1]], "dtype": "uint8", "cardinalities": table.cardinalities}
            observation["words"] = facts
        self.shapes = {"observation": observation, "action": {"kind": "continuous", "size": table.columns}}

    def prepare(self, model: WorldModel) -> None:
        """Nothing: columns are scaled already."""

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw so many rows, and which columns of each are seen and asked for."""
        rows = self.rows[torch.randint(len(self.rows), (count,), generator=generator)]
        keep, asked = draw_columns(count, self.table.columns, generator)
        actions = torch.zeros(count, 1, self.table.columns)
        masks = {"keep": keep, "asked": asked, "prev_action": actions}
        return self.observe(rows) | masks | nothing_else(count, 1)

    def observe(self, rows: Tensor) -> dict[str, Tensor]:
        """These rows as observations of one time step: R -> R 1 ..."""
        seen = {"numbers": self.table.numbers[rows, None], "words": self.table.words[rows, None]}
        return {key: seen[key] for key in self.shapes["observation"]}

    def examine(self, objective: Objective, seed: int, home: Path, tell: Tell) -> dict[str, float]:
        """Hold frozen latents against raw columns, a random encoder and boosted trees, all tuned alike."""
        table, model = self.table, objective.model
        twin = build_model(model.config, model.shapes, seed=10_000 + seed)
        sources = {"frozen": self.latents(model), "random": self.latents(twin), "raw": _raw(table)}
        found = dict(health(sources["frozen"][table.judge].unflatten(1, (table.columns, -1))))
        for name, features in sources.items():
            for head, hidden in (("linear", ()), ("mlp", (128, 128))):
                found[f"score/{name}_{head}"] = fit_head(features, table, hidden, seed=seed)
                tell("heads fitted", len(found))
        boosted = boost(_raw(table), table, seed=seed)
        return found if boosted is None else found | {"score/raw_boosted": boosted}

    @torch.no_grad()
    def latents(self, model: WorldModel) -> Tensor:
        """What a model makes of every row, column by column: R N*D."""
        device = next(model.parameters()).device
        chunks = []
        for rows in torch.arange(len(self.table.labels)).split(1024):
            obs = {key: value.to(device) for key, value in self.observe(rows).items()}
            chunks.append(model.encode(obs).float().flatten(1).cpu())
        return torch.cat(chunks)


def fit_head(features: Tensor, table: Table, hidden: Sequence[int], *, seed: int) -> float:
    """Fit a head with each setting, keep the one that is best where one chooses, and judge it: R F -> score.

    The share of classes found, or of numbers the root of the mean squared error in their own unit.
    """
    mean, spread = features[table.train].mean(0), features[table.train].std(0)
    # What does not vary where one learns says nothing there; a word seen only elsewhere would be a million.
    x = torch.where(spread > 1e-6, (features - mean) / spread.clamp_min(1e-6), 0.0)
    best: tuple[float, float] | None = None
    for rate in (1e-3, 1e-2):
        for decay in (0.0, 0.1):
            chosen, judged = _fit(x, table, hidden, rate, decay, seed)
            if best is None or chosen > best[0]:
                best = chosen, judged
    assert best is not None
    return best[1]


def _fit(
    x: Tensor, table: Table, hidden: Sequence[int], rate: float, decay: float, seed: int, *, epochs: int = 200
) -> tuple[float, float]:
    """Fit one head, stopped where its loss is least: minus that loss, and the score where it is judged."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes, layers = [x.shape[1], *hidden], []
        for wide, narrow in pairwise(sizes):
            layers += [nn.Linear(wide, narrow), nn.ReLU(), nn.Dropout(0.1)]
        head = nn.Sequential(*layers, nn.Linear(sizes[-1], max(table.classes, 1)))
        labels, scale = table.labels, 1.0
        if not table.classes:
            scale = float(labels[table.train].std())
            labels = (labels - labels[table.train].mean()) / scale
        optimiser = torch.optim.AdamW(head.parameters(), rate, weight_decay=decay)
        rows, best, patience = table.train.nonzero()[:, 0], (-math.inf, 0.0), 0
        batch = max(16, min(256, len(rows) // 8))  # or a hundred rows would be a step per epoch
        for _ in range(epochs):
            head.train()
            for some in rows[torch.randperm(len(rows))].split(batch):
                loss = _loss(head(x[some]), labels[some], table.classes)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            head.eval()
            with torch.no_grad():
                chosen = -float(_loss(head(x[table.choose]), labels[table.choose], table.classes))
                judged = _score(head(x[table.judge]), labels[table.judge], table.classes)
            if chosen > best[0]:
                best, patience = (chosen, judged), 0
            elif (patience := patience + 1) >= 20:
                break
    chosen, judged = best
    return chosen, judged if table.classes else -judged * scale


def _loss(said: Tensor, labels: Tensor, classes: int) -> Tensor:
    return F.cross_entropy(said, labels) if classes else F.mse_loss(said[:, 0], labels)


def _score(said: Tensor, labels: Tensor, classes: int) -> float:
    """More is better: the share that is right, or minus the root of the mean squared error."""
    if classes:
        return float((said.argmax(1) == labels).float().mean())
    return -float((said[:, 0] - labels).square().mean().sqrt())


def boost(features: Tensor, table: Table, *, seed: int) -> float | None:
    """Boosted trees on the same rows, tuned where one chooses; None where scikit-learn is not installed."""
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    except ModuleNotFoundError:
        return None
    kind: Any = HistGradientBoostingClassifier if table.classes else HistGradientBoostingRegressor
    x, y, best = features.numpy(), table.labels.numpy(), None
    train, choose, judge = (part.numpy() for part in (table.train, table.choose, table.judge))
    for rate in (0.03, 0.1):
        for leaves in (7, 31):
            trees = kind(learning_rate=rate, max_leaf_nodes=leaves, max_iter=200, random_state=seed)
            trees.fit(x[train], y[train])
            scores = []
            for part in (choose, judge):
                said = torch.from_numpy(trees.predict(x[part]))
                right = torch.from_numpy(y[part])
                wrong = -float((said - right).square().mean().sqrt()) if not table.classes else 0.0
                scores.append(float((said == right).double().mean()) if table.classes else wrong)
            if best is None or scores[0] > best[0]:
                best = scores
    assert best is not None
    return best[1] if table.classes else -best[1]


def health(tokens: Tensor) -> dict[str, float]:
    """Whether latents of columns tell rows apart: R N D."""
    rows = tokens.flatten(1)[:512]
    distance = torch.pdist(rows)
    directions = F.normalize(rows - rows.mean(0), dim=1)
    return {
        "latent/std": float(torch.stack([latent_std(column) for column in tokens.unbind(1)]).mean()),
        "latent/rank": float(participation_rank(rows)),
        "latent/distance": float(distance.mean()),
        "latent/uniformity": -float(torch.pdist(directions).square().mul(-2).exp().mean().log()),
    }


def _raw(table: Table) -> Tensor:
    """Columns as they are, words as one-hot codes: R F."""
    codes = [F.one_hot(c.long(), n) for c, n in zip(table.words.unbind(1), table.cardinalities, strict=True)]
    return torch.cat([table.numbers, *(code.float() for code in codes)], 1)
