"""States are columns: scaled once, hidden from each other, judged on rows that nobody learned from."""

import pytest
import torch

from agents.cli import UserError
from agents.config import load_pretraining
from agents.states import StateLessons, read_states
from worldmodel import build

CONFIG = {
    "encoder": {"name": "table", "positions": "columns", "width": 8, "ff": 16},
    "action": {"name": "linear", "width": 8},
    "aggregator": {"name": "none"},
    "predictor": {"name": "tokens", "width": 8},
    "target": {"name": "moving", "tau": 0.98},
    "views": {"name": "hidden_columns"},
    "terms": {"mse": {"weight": 1.0}},
}


def states(rows=600, seed=0):
    """Two vectors whose six entries two hidden numbers decide, far from a mean of 0 and a spread of 1."""
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 2, generator=g)
    mix = torch.randn(2, 6, generator=torch.Generator().manual_seed(3))
    values = 5 + 3 * hidden @ mix
    return {"a": values[:, :2].contiguous(), "b": values[:, 2:].contiguous()}


def lessons_of(observations, **settings):
    return StateLessons(observations, torch.arange(len(next(iter(observations.values())))), **settings)


def test_the_encoder_is_told_the_scale_of_the_rows_to_learn_from():
    lessons = lessons_of(states())
    model = build(CONFIG, lessons.shapes, seed=0).model
    lessons.prepare(model)
    assert model.encoder.vectors.count == 480
    scaled = model.encoder.vectors(lessons.observations)
    assert scaled.mean().abs() < 0.2
    assert scaled.std() == pytest.approx(1, abs=0.2)


def test_marks_of_dead_sensors_are_no_columns():
    observations = states() | {"missing": torch.zeros(600, 6)}
    lessons = lessons_of(observations)
    assert lessons.columns == 6
    batch = lessons.draw(16, torch.Generator().manual_seed(0))
    assert batch["asked"].max() == 5
    assert build(CONFIG, lessons.shapes, seed=0)(batch)[0].isfinite()


def test_learning_shows_in_what_is_predicted_and_asking_changes_nothing():
    lessons = lessons_of(states())
    objective = build(CONFIG, lessons.shapes, seed=0)
    lessons.prepare(objective.model)
    before = lessons.examine(objective, 0, None, lambda *_: None)
    optimiser = torch.optim.Adam(objective.trainable(), 2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        loss, _ = objective(lessons.draw(128, generator))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        objective.target.update()
    weights = {name: value.clone() for name, value in objective.model.state_dict().items()}
    after = lessons.examine(objective, 0, None, lambda *_: None)
    assert after["predicted/r2"] > max(before["predicted/r2"], 0.1)
    assert all(torch.equal(value, weights[name]) for name, value in objective.model.state_dict().items())
    assert after == lessons.examine(objective, 0, None, lambda *_: None)


def test_random_play_is_a_function_of_the_seed_and_mistakes_are_named():
    data = load_pretraining(
        ["data=states", "worldmodel=t_jepa", "data.env=toy_point_mass", "data.rows=150"]
    ).data
    (first, keys), (again, _), (other, _) = (read_states(data, seed, lambda *_: None) for seed in (0, 0, 1))
    assert len(keys) == 150
    assert (keys.diff() >= 1).all()
    assert first["state"].shape[0] == 150
    assert torch.equal(first["state"], again["state"])
    assert not torch.equal(first["state"], other["state"])
    with pytest.raises(UserError, match="too few"):
        lessons_of(states(rows=20))
    with pytest.raises(UserError, match="vectors alone"):
        lessons_of({"pixels": torch.zeros(200, 3, 8, 8, dtype=torch.uint8)})


def test_tables_of_several_rows_stay_within_episodes_and_within_their_part():
    time = torch.arange(600.0)
    keys = torch.arange(600) + torch.arange(600) // 37  # a gap after every 37 rows
    lessons = StateLessons({"time": time[:, None].expand(-1, 3)}, keys, steps=4)
    assert lessons.columns == 12
    batch = lessons.draw(6000, torch.Generator().manual_seed(0))
    assert batch["time"].shape == (6000, 4, 3)
    first = batch["time"][:, 0, 0].long()
    assert torch.equal(batch["time"][..., 0], first[:, None] + torch.arange(4.0))
    assert torch.equal(first // 37, (first + 3) // 37)
    assert int(first.max()) + 3 < lessons.train <= int(lessons.judged.min())
    assert set(first.tolist()) == set(lessons.learned.tolist())
    assert batch["asked"].max() == 11


def test_a_table_of_several_rows_is_learned_and_serves_single_rows():
    values = states()
    lessons = lessons_of(values, steps=3)
    config = {**CONFIG, "encoder": CONFIG["encoder"] | {"steps": 3}}
    objective = build(config, lessons.shapes, seed=0)
    lessons.prepare(objective.model)
    loss, _ = objective(lessons.draw(32, torch.Generator().manual_seed(0)))
    loss.backward()
    assert objective.model.encoder.moments.grad.abs().sum() > 0
    assert lessons.examine(objective, 0, None, lambda *_: None)["latent/std"] > 0
    single = build(CONFIG, lessons_of(values).shapes, seed=1).model.encoder
    theirs = objective.model.encoder.state_dict()
    missing, odd = single.load_state_dict(theirs, strict=False)
    assert (missing, odd) == ([], ["moments"])


def test_the_same_number_of_rows_is_asked_of_data_and_encoder():
    for settings in (["data.steps=4", "worldmodel.encoder.steps=1"], ["worldmodel.encoder.steps=2"]):
        with pytest.raises(UserError, match=r"data\.steps"):
            load_pretraining(["experiment=table_walker", *settings])
    assert load_pretraining(["experiment=table_walker", "data.steps=4"]).worldmodel["encoder"]["steps"] == 4
    with pytest.raises(UserError, match=r"data\.steps"):
        load_pretraining(["experiment=table", "data.steps=4"])
