"""Tables to pre-train on: rows of numbers and words, a label that heads are asked for, and honest baselines.

Rows are dealt out to train, choose and judge before anything is fitted: scales, encoders and heads see the
first part only, all settings of heads are chosen on the second, and what is reported is of the third.
"""

import csv
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.cli import UserError, suggest
from agents.lessons import Tell, nothing_else
from worldmodel import Objective, WorldModel, build_model
from worldmodel.diagnostics import latent_std, participation_rank
from worldmodel.views import draw_columns

BUNDLED = ("breast_cancer", "diabetes", "digits", "iris", "wine")
MOST_WORDS = 255  # different words of a column
MOST_CLASSES = 100
SHARES = (0.64, 0.16)  # of rows to train and to choose with; the rest judges
LARGEST_CSV = 500_000_000  # bytes


class Table(NamedTuple):
    """Rows of a table, scaled by what the rows to train with say."""

    name: str
    numbers: Tensor  # R V, every column near a normal distribution
    words: Tensor  # R C, uint8 codes
    cardinalities: list[int]  # of the C columns of words
    labels: Tensor  # R, a class (int64) or a number (float32)
    classes: int  # 0 where labels are numbers
    train: Tensor  # R, bool
    choose: Tensor
    judge: Tensor

    @property
    def columns(self) -> int:
        """How many there are, the label not counted."""
        return self.numbers.shape[1] + self.words.shape[1]


def read_table(name: str, label: str | None = None, *, seed: int = 0) -> Table:
    """Read a CSV file with a header, or a table that scikit-learn brings along, and deal out its rows."""
    header, rows = _bundled(name) if name in BUNDLED else _read_csv(Path(name))
    label = header[-1] if label is None else label
    if label not in header:
        raise UserError(
            f"data.label={label} is no column{suggest(label, header)}", f"choose of {', '.join(header)}"
        )
    if len(rows) < 50 or len(header) < 3:
        text = f"{name} has {len(rows)} rows of {len(header)} columns"
        raise UserError(text, "give a table of at least 50 rows, two columns and a label")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    first, second = (int(len(rows) * share) for share in (SHARES[0], sum(SHARES)))
    parts = [
        torch.zeros(len(rows), dtype=torch.bool).index_fill(0, part, True)
        for part in order.tensor_split((first, second))
    ]
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    labels, classes = _labels(label, columns.pop(label))
    numbers, words, cardinalities = [], [], []
    for column, texts in columns.items():
        values = _numbers(texts)
        if values is not None:
            numbers.append(_normal(values, parts[0]))
            continue
        known = sorted(set(texts))
        if len(known) > MOST_WORDS:
            text = f"column {column} of {name} has {len(known)} different words"
            raise UserError(text, f"leave it out of the file; up to {MOST_WORDS} are categories")
        codes = {word: code for code, word in enumerate(known)}
        words.append(torch.tensor([codes[text] for text in texts], dtype=torch.uint8))
        cardinalities.append(len(known))
    empty = torch.zeros(len(rows), 0)
    return Table(
        Path(name).stem,
        torch.stack(numbers, 1) if numbers else empty,
        torch.stack(words, 1) if words else empty.byte(),
        cardinalities,
        labels,
        classes,
        *parts,
    )


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
    mean, spread = features[table.train].mean(0), features[table.train].std(0).clamp_min(1e-6)
    x = (features - mean) / spread
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


def _labels(name: str, texts: Sequence[str]) -> tuple[Tensor, int]:
    """Classes where there are words or few whole numbers, numbers elsewhere."""
    values = _numbers(texts)
    if values is not None and not bool(values.isfinite().all()):
        raise UserError(f"column {name}, the label, has rows without a value", "leave these rows out")
    if values is not None and (len(values.unique()) > 20 or bool((values != values.round()).any())):
        return values.float(), 0
    known = sorted(set(texts))
    if not 2 <= len(known) <= MOST_CLASSES:
        text = f"column {name}, the label, has {len(known)} different values"
        raise UserError(text, f"choose a data.label of 2 to {MOST_CLASSES} classes, or of numbers")
    codes = {word: code for code, word in enumerate(known)}
    return torch.tensor([codes[text] for text in texts]), len(known)


def _numbers(texts: Sequence[str]) -> Tensor | None:
    """A column as numbers, nan where it is empty; None where there is a word."""
    try:
        return torch.tensor(
            [float(text) if text.strip() else math.nan for text in texts], dtype=torch.float64
        )
    except ValueError:
        return None


def _normal(values: Tensor, train: Tensor) -> Tensor:
    """A column by its quantiles among the rows to train with, as a normal distribution: R -> R.

    What is missing, or not a number, stands at the median.
    """
    known = values[train & values.isfinite()].sort().values
    if not len(known):
        return torch.zeros(len(values))
    filled = torch.where(values.isfinite(), values, known[len(known) // 2])
    # The middle of the places that a value takes: equal values stay equal.
    low, high = (torch.searchsorted(known, filled, right=right).double() for right in (False, True))
    share = ((low + high) / 2 / len(known)).clamp(1e-3, 1 - 1e-3)
    return torch.special.ndtri(share).float()


def _bundled(name: str) -> tuple[list[str], list[list[str]]]:
    try:
        from sklearn import datasets
    except ModuleNotFoundError:
        text = f"data.table={name} comes with scikit-learn, which is not installed"
        raise UserError(text, "pip install scikit-learn, or name a CSV file") from None
    found = getattr(datasets, f"load_{name}")()
    names = [
        str(feature).replace(" ", "_")
        for feature in getattr(found, "feature_names", range(found.data.shape[1]))
    ]
    rows = [
        [repr(float(v)) for v in row] + [f"{label:g}"]
        for row, label in zip(found.data, found.target, strict=True)
    ]
    return [*names, "label"], rows


def _read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    if not path.is_file():
        text = f"data.table={path} is neither a file nor one of {', '.join(BUNDLED)}"
        raise UserError(text, "name a CSV file whose first line names the columns")
    if path.stat().st_size > LARGEST_CSV:
        raise UserError(f"{path} has more than {LARGEST_CSV:,} bytes", "take a sample of its rows")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV file: {error}", "save it as UTF-8, with commas") from None
    if not lines or len(set(lines[0])) < len(lines[0]):
        raise UserError(f"{path} does not begin with the names of its columns", "add a first line that does")
    header = [name.strip() for name in lines[0]]
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(header):
            text = f"row {number} of {path} has {len(line)} columns, and the header {len(header)}"
            raise UserError(text, "mend the file")
    return header, [[text.strip() for text in line] for line in lines[1:]]
