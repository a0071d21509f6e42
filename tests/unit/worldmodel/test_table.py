"""Columns as positions: what is hidden is unseen, registers are not, and the last column is reached."""

import pytest
import torch

from worldmodel import ModelError, build, build_model
from worldmodel.views import draw_columns, hidden_columns

COLUMNS = 6
CONFIG = {
    "encoder": {"name": "table", "positions": "columns", "width": 8, "ff": 16, "scaling": "none"},
    "action": {"name": "linear", "width": 8},
    "aggregator": {"name": "none"},
    "predictor": {"name": "tokens", "width": 8},
    "target": {"name": "moving", "tau": 0.99},
    "views": {"name": "hidden_columns"},
    "terms": {"mse": {"weight": 1.0}},
}
MIXED = {
    "numbers": {"shape": [4], "dtype": "float32"},
    "words": {"shape": [2], "dtype": "uint8", "cardinalities": [3, 5]},
}


def shapes(observation=None):
    observation = observation or {"numbers": {"shape": [COLUMNS], "dtype": "float32"}}
    return {"observation": observation, "action": {"kind": "continuous", "size": COLUMNS}}


def changed(**encoder):
    return {**CONFIG, "encoder": CONFIG["encoder"] | encoder}


def table(rows, *, noise=0.1, seed=0):
    """Six columns that two hidden numbers decide."""
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 2, generator=g)
    mix = torch.randn(2, COLUMNS, generator=torch.Generator().manual_seed(5))
    values = hidden @ mix / 2 + noise * torch.randn(rows, COLUMNS, generator=g)
    return values[:, None]


def batch_of(values, generator):
    keep, asked = draw_columns(len(values), COLUMNS, generator)
    no = torch.zeros(len(values), 1, dtype=torch.bool)
    return {
        "numbers": values,
        "keep": keep,
        "asked": asked,
        "prev_action": torch.zeros(len(values), 1, COLUMNS),
        "reward": torch.zeros(len(values), 1),
        "terminated": no,
        "is_first": no,
        "valid": ~no,
    }


def test_masks_reach_every_column_and_nothing_is_both_seen_and_asked_for():
    generator = torch.Generator().manual_seed(0)
    seen, wanted, sizes = set(), set(), set()
    for _ in range(60):
        keep, asked = draw_columns(5, COLUMNS, generator)
        sizes.add((keep.shape[1], asked.shape[1]))
        assert asked.shape[1] % 4 == 0
        for kept, hidden in zip(keep.tolist(), asked.tolist(), strict=True):
            assert not set(kept) & set(hidden)
            assert len(set(kept)) == len(kept)
            for part in torch.tensor(hidden).chunk(4):
                assert len(part.unique()) == len(part)
            seen |= set(kept)
            wanted |= set(hidden)
    assert seen == wanted == set(range(COLUMNS))
    assert len(sizes) > 2
    with pytest.raises(ModelError, match="one column"):
        draw_columns(5, 1, generator)


def test_what_is_hidden_changes_nothing_of_what_is_seen():
    objective = build(CONFIG, shapes(), seed=0)
    batch = batch_of(table(8), torch.Generator().manual_seed(1))
    views = hidden_columns(batch, ("numbers",))
    before = objective.model.encode(views.obs, views.keep)
    hidden = torch.ones(8, COLUMNS, dtype=torch.bool).scatter(1, batch["keep"], False)
    batch["numbers"] = torch.where(hidden[:, None], batch["numbers"] + 9, batch["numbers"])
    again = hidden_columns(batch, ("numbers",))
    assert torch.equal(objective.model.encode(again.obs, again.keep), before)
    assert not torch.equal(objective.target(again), objective.target(views))
    everything = objective.model.encode(again.obs)
    assert everything.shape == (8, COLUMNS, 8)


def test_the_target_answers_for_the_columns_that_are_asked_for():
    objective = build(CONFIG, shapes(), seed=0)
    batch = batch_of(table(8), torch.Generator().manual_seed(1))
    views = hidden_columns(batch, ("numbers",))
    everything = objective.target.encoder({"numbers": batch["numbers"]})
    answers = objective.target(views)
    for row in range(8):
        assert torch.equal(answers[row], everything[row, batch["asked"][row]])


def test_sets_of_questions_do_not_see_each_other_and_all_see_what_is_seen():
    predictor = build(CONFIG, shapes(), seed=0).model.predictor.eval()
    belief, asked = torch.randn(2, 3, 8), torch.randn(2, 8, 8)
    before = predictor(belief, asked).latent
    asked[:, 7] += 1.0  # of the last set
    after = predictor(belief, asked).latent
    torch.testing.assert_close(after[:, :6], before[:, :6])
    assert not torch.allclose(after[:, 6:], before[:, 6:])
    moved = predictor(belief + 1, asked).latent
    assert ((moved - after).abs().amax((0, 2)) > 1e-3).all()
    with pytest.raises(ModelError, match="sets=4"):
        predictor(belief, asked[:, :7])


def test_registers_are_seen_by_every_column_and_are_not_among_them():
    model = build(CONFIG, shapes(), seed=0).model
    values = table(3)
    before = model.encode({"numbers": values})
    assert before.shape[1] == COLUMNS
    with torch.no_grad():
        model.encoder.registers += 1.0
    assert ((model.encode({"numbers": values}) - before).abs().amax((0, 2)) > 1e-4).all()
    assert build(changed(registers=0), shapes(), seed=0).model.encode({"numbers": values}).shape[1] == COLUMNS


def test_a_missing_sensor_is_not_read_and_the_others_are():
    observation = {
        "numbers": {"shape": [4], "dtype": "float32"},
        "missing": {"shape": [4], "dtype": "float32"},
    }
    encoder = CONFIG["encoder"] | {"positions": "rows", "latent": 16}
    parts = {"aggregator": {"name": "none"}, "predictor": {"name": "mlp", "hidden": [8]}}
    model = build_model({"encoder": encoder, **parts}, shapes(observation), seed=0)
    missing = torch.tensor([0.0, 0.0, 1.0, 0.0]).expand(5, 2, 4)
    obs = {"numbers": torch.randn(5, 2, 4), "missing": missing}
    before = model.encode(obs)
    assert before.shape == (5, 2, 16)
    obs["numbers"] = obs["numbers"] + torch.tensor([0.0, 0.0, 7.0, 0.0])
    torch.testing.assert_close(model.encode(obs), before)
    obs["numbers"] = obs["numbers"] + torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert not torch.allclose(model.encode(obs), before)
    nothing = {"numbers": obs["numbers"], "missing": torch.ones(5, 2, 4)}
    assert model.encode(nothing).isfinite().all()  # registers are left


def test_categories_are_columns_too():
    model = build(CONFIG, shapes(MIXED), seed=0).model
    obs = {
        "numbers": torch.randn(4, 1, 4),
        "words": torch.tensor([[0, 4], [1, 3], [2, 0], [0, 1]])[:, None].byte(),
    }
    before = model.encode(obs)
    assert before.shape == (4, 6, 8)
    keep = torch.tensor([[0, 1]] * 4)
    alone = model.encode(obs, keep)
    obs["words"] = obs["words"].flip(0)
    assert torch.equal(model.encode(obs, keep), alone)
    assert not torch.equal(model.encode(obs), before)


@pytest.mark.parametrize(
    ("encoder", "observation", "said"),
    [
        ({"positions": "cells"}, None, "rows or columns"),
        ({"width": 7}, None, "divisible by heads"),
        ({"frozen": True}, None, "positions=rows"),
        ({"steps": 0}, None, "steps=0"),
        ({"steps": 2, "positions": "rows"}, None, "only columns"),
        ({}, {"words": {"shape": [2], "dtype": "uint8"}}, "2 categorical"),
        ({}, {"words": {"shape": [2], "dtype": "uint8", "cardinalities": [3]}}, "2 categorical"),
        ({}, {"pixels": {"shape": [3, 32, 32], "dtype": "uint8"}}, "encoder=conv"),
        ({}, shapes()["observation"] | {"missing": {"shape": [2], "dtype": "float32"}}, "as long as"),
    ],
)
def test_mistakes_are_named(encoder, observation, said):
    with pytest.raises(ModelError, match=said):
        build(changed(**encoder), shapes(observation))


def test_hidden_columns_are_learned_to_be_predicted():
    """The prediction must come to know the row: better than the mean of what the target says of a column."""
    objective = build(CONFIG, shapes(), seed=0)
    optimiser = torch.optim.Adam(objective.trainable(), 2e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(400):
        loss, _ = objective(batch_of(table(128, seed=step), generator))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        objective.target.update()
    batch = batch_of(table(512, seed=9999), generator)
    outputs = objective.outputs(batch)
    codes = torch.nn.functional.one_hot(batch["asked"], COLUMNS).float()
    means = torch.einsum("bqn,bqd->nd", codes, outputs.answer) / codes.sum((0, 1))[:, None]
    spread = (outputs.answer - means[batch["asked"]]).square().mean()
    assert (
        outputs.prediction - outputs.answer
    ).square().mean() < 0.85 * spread  # one or two of six columns are seen


def test_rows_in_time_are_one_table_whose_order_counts():
    observation = {
        "numbers": {"shape": [COLUMNS], "dtype": "float32"},
        "missing": {"shape": [COLUMNS], "dtype": "float32"},
    }
    model = build(changed(steps=2), shapes(observation), seed=0).model
    with torch.no_grad():
        model.encoder.moments.normal_()
    rows, missing = torch.randn(3, 2, COLUMNS), torch.zeros(3, 2, COLUMNS)
    missing[:, 0, 1] = 1.0  # of the older row
    obs = {"numbers": rows, "missing": missing}
    before = model.encode(obs)
    assert before.shape == (3, 2 * COLUMNS, 8)
    hidden = rows.clone()
    hidden[:, 0, 1] += 9
    torch.testing.assert_close(model.encode({**obs, "numbers": hidden})[:, 2:], before[:, 2:])
    assert not torch.allclose(model.encode({**obs, "numbers": rows.flip(1)}), before)
    moved = rows.clone()
    moved[:, 1, 0] += 9  # the first column, now
    seen, unseen = (torch.tensor([[0, COLUMNS + column]]).expand(3, 2) for column in (0, 1))
    assert not torch.allclose(model.encode({**obs, "numbers": moved}, seen), model.encode(obs, seen))
    torch.testing.assert_close(model.encode({**obs, "numbers": moved}, unseen), model.encode(obs, unseen))
    with pytest.raises(ModelError, match="steps=2"):
        model.encode({"numbers": rows[:, :1], "missing": missing[:, :1]})


def test_a_frozen_encoder_learns_no_more_than_to_read_its_tokens():
    encoder = CONFIG["encoder"] | {"positions": "rows", "latent": 16, "scaling": "running", "frozen": True}
    parts = {"aggregator": {"name": "none"}, "predictor": {"name": "mlp", "hidden": [8]}}
    model = build_model({"encoder": encoder, **parts}, shapes(), seed=0)
    obs = {"numbers": 5 + torch.randn(4, 2, COLUMNS)}
    before = model.encode(obs)
    model.observe(obs)
    assert torch.equal(model.encode(obs), before)
    before.square().sum().backward()
    learned = {name for name, weight in model.encoder.named_parameters() if weight.grad is not None}
    assert learned == {"read.weight", "read.bias"}
