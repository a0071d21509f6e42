"""Tables are read as they are, scaled by what one trains with, and mistakes in them are named."""

import math

import pytest
import torch

from agents.cli import UserError
from agents.table_lessons import TableLessons, boost, fit_head
from agents.tables import read_table


def write(path, lines):
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def houses(path, rows=200, gap=None):
    """A file with numbers, words, holes, and a price that follows from two of the columns."""
    lines = ["rooms,ocean,age,price"]
    for k in range(rows):
        rooms, ocean = (37 * k) % 11, ("near", "far", "island")[k % 3]
        age = "" if k % 7 == 0 else str(k % 50)
        lines.append(f"{rooms},{ocean},{age},{rooms * 2.5 + (k % 3) + 0.25}")
    if gap:
        lines[gap] = lines[gap].rsplit(",", 1)[0] + ","
    return write(path, lines)


def test_numbers_words_and_holes_are_told_apart(tmp_path):
    table = read_table(houses(tmp_path / "houses.csv"))
    assert table.numbers.shape == (200, 2)
    assert table.words.shape == (200, 1)
    assert table.cardinalities == [3]
    assert table.classes == 0
    assert table.labels[0] == 0.25
    assert table.numbers.isfinite().all()
    assert table.numbers[0, 1].abs() < 0.1  # a hole stands at the median
    counts = [int(part.sum()) for part in (table.train, table.choose, table.judge)]
    assert counts == [128, 32, 40]
    assert (table.train.int() + table.choose.int() + table.judge.int() == 1).all()


def test_the_label_may_be_another_column_or_words(tmp_path):
    path = houses(tmp_path / "houses.csv")
    table = read_table(path, "ocean")
    assert table.classes == 3
    assert table.numbers.shape == (200, 3)
    assert not torch.equal(read_table(path, seed=1).train, table.train)
    assert torch.equal(read_table(path).train, table.train)


def test_scales_know_nothing_of_the_rows_that_judge(tmp_path):
    path = houses(tmp_path / "houses.csv")
    table = read_table(path)
    lines = (tmp_path / "houses.csv").read_text().splitlines()
    row = int(table.judge.nonzero()[0])
    lines[row + 1] = "1000000,far,3,0.5"
    again = read_table(write(tmp_path / "houses.csv", lines))
    others = torch.arange(200) != row
    assert torch.equal(again.numbers[others], table.numbers[others])
    assert again.numbers[row, 0] == pytest.approx(
        math.sqrt(2) * torch.erfinv(torch.tensor(0.998)).item(), abs=1e-3
    )


def test_rows_to_learn_from_are_those_to_train_with(tmp_path):
    table = read_table(houses(tmp_path / "houses.csv"))
    lessons = TableLessons(table)
    assert lessons.shapes["action"]["size"] == 3
    assert lessons.shapes["observation"]["words"]["cardinalities"] == [3]
    known = {tuple(row) for row in table.numbers[table.train].tolist()}
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        batch = lessons.draw(16, generator)
        assert {tuple(row) for row in batch["numbers"][:, 0].tolist()} <= known
        assert batch["valid"].all()


def test_heads_find_what_is_there_and_nothing_in_noise(tmp_path):
    table = read_table(houses(tmp_path / "houses.csv", rows=400))
    words = torch.nn.functional.one_hot(table.words[:, 0].long(), 3).float()
    features = torch.cat([table.numbers, words], 1)
    spread = float(table.labels[table.judge].std())
    assert fit_head(features, table, (32,), seed=0) < 0.2 * spread
    noise = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    assert fit_head(noise, table, (), seed=0) > 0.9 * spread
    pytest.importorskip("sklearn")
    assert boost(features, table, seed=0) < 0.4 * spread


@pytest.mark.parametrize("part", ["choose", "judge"])
def test_a_word_that_nobody_learned_from_spoils_no_head(tmp_path, part):
    table = read_table(houses(tmp_path / "houses.csv", rows=400))
    rare = torch.zeros(400, 1)
    rare[getattr(table, part).nonzero()[0]] = 1.0
    plain, other = (
        fit_head(x, table, (), seed=0) for x in (table.numbers, torch.cat([table.numbers, rare], 1))
    )
    assert other < 1.1 * plain


@pytest.mark.parametrize("name", ["diabetes", "wine"])
def test_a_linear_head_on_few_rows_is_no_straw_man(name):
    """In batches of 256 a hundred rows are one step per epoch; heads of raw columns must get there too."""
    pytest.importorskip("sklearn")
    from sklearn.linear_model import LogisticRegression, Ridge

    table = read_table(name, seed=0)
    x, y, known, judge = table.numbers.numpy(), table.labels.numpy(), table.train.numpy(), table.judge.numpy()
    ours = fit_head(table.numbers, table, (), seed=0)
    solver = LogisticRegression() if table.classes else Ridge()
    said = solver.fit(x[known], y[known]).predict(x[judge])
    if table.classes:
        assert ours >= (said == y[judge]).mean() - 0.03
    else:
        assert ours <= 1.03 * ((said - y[judge]) ** 2).mean() ** 0.5


@pytest.mark.parametrize(
    ("lines", "label", "said"),
    [
        (None, None, "neither a file nor"),
        (["a,b,c"] + ["1,2,3"] * 10, None, "at least 50 rows"),
        (["a,b,c"] + ["1,2,3"] * 60 + ["1,2"], None, "row 62 of"),
        (["a,a,c"] + ["1,2,3"] * 60, None, "names of its columns"),
        (["a,b,c"] + ["1,2,3"] * 60, "d", "data.label=d is no column"),
        (["a,b,c"] + ["1,2,3"] * 60, None, "1 different values"),
        (["a,b,c", *(f"1,word{k},{k % 2}" for k in range(300))], None, "300 different words"),
        (["a,b,c", *(f"1,{k},{k + 0.5}" for k in range(60)), "1,2,"], None, "without a value"),
    ],
)
def test_mistakes_are_named(tmp_path, lines, label, said):
    path = write(tmp_path / "t.csv", lines) if lines else str(tmp_path / "none.csv")
    with pytest.raises(UserError, match=said):
        read_table(path, label)


def test_a_bundled_table_is_read():
    pytest.importorskip("sklearn")
    table = read_table("wine")
    assert table.classes == 3
    assert table.numbers.shape == (178, 13)
    assert not table.words.numel()
