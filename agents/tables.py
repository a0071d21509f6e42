"""Tables to pre-train on: rows of numbers and words, and a label that heads are asked for.

Rows are dealt out to train, choose and judge before anything is fitted: scales, encoders and heads see the
first part only, all settings of heads are chosen on the second, and what is reported is of the third.
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from agents.cli import UserError, suggest

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
