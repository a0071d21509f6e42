"""What an objective promises, for every configuration that ships."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tensordict import TensorDict

from worldmodel import build
from worldmodel.views import draw_columns

CONFIGS = Path(__file__).parents[2] / "configs"
VARIANTS = sorted(path.stem for path in (CONFIGS / "worldmodel").glob("*.yaml"))
PARTS = sorted(
    str(path.relative_to(CONFIGS / "worldmodel"))[:-5] for path in (CONFIGS / "worldmodel").glob("*/*.yaml")
)
IMAGES = ("resnet18", "conv", "conv_batch", "pixels", "paper", "views")


def compose_config(variant="seq_jepa", *overrides):
    with initialize_config_dir(str(CONFIGS), version_base=None):
        composed = compose(f"worldmodel/{variant}", overrides=list(overrides))
    return OmegaConf.to_container(composed, resolve=True)["worldmodel"]


def make_shapes(images):
    observation = (
        {"pixels": {"shape": [3, 32, 32], "dtype": "uint8"}}
        if images
        else {"state": {"shape": [5], "dtype": "float32"}}
    )
    return {"observation": observation, "action": {"kind": "continuous", "size": 3}}


def make_batch(shapes, batch=4, time=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    rows = (batch, time)
    no = torch.zeros(rows, dtype=torch.bool)
    obs = {
        key: torch.randint(0, 256, (*rows, *fact["shape"]), dtype=torch.uint8, generator=g)
        if fact["dtype"] == "uint8"
        else torch.randn(*rows, *fact["shape"], generator=g)
        for key, fact in shapes["observation"].items()
    }
    return {
        **obs,
        "prev_action": torch.rand(*rows, 3, generator=g) * 2 - 1,
        "reward": torch.rand(rows, generator=g),
        "terminated": no.clone(),
        "truncated": no.clone(),
        "is_first": no.clone(),
        "valid": ~no,
    }


def make_table(batch=6, columns=5, seed=0):
    """Rows of a table whose columns are seen or asked for, and their shapes."""
    shapes = make_shapes(False) | {"action": {"kind": "continuous", "size": columns}}
    made = make_batch(shapes, batch, 1, seed)
    keep, asked = draw_columns(batch, columns, torch.Generator().manual_seed(seed))
    return made | {"keep": keep, "asked": asked, "prev_action": torch.zeros(batch, 1, columns)}, shapes


def take_step(config, shapes, batch=None):
    objective = build(config, shapes, seed=0)
    batch = batch or make_batch(shapes)
    objective.model.observe({key: batch[key] for key in shapes["observation"]})
    optimiser = torch.optim.AdamW(objective.trainable(), 1e-3)
    before = [parameter.clone() for parameter in objective.trainable()]
    loss, metrics = objective(batch)
    loss.backward()
    optimiser.step()
    objective.target.update()
    assert loss.isfinite()
    assert loss.ndim == 0
    assert all(value.ndim == 0 and not value.requires_grad and value.isfinite() for value in metrics.values())
    assert any(not torch.equal(a, b) for a, b in zip(before, objective.trainable(), strict=True))
    return objective, metrics


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_builds_and_takes_a_step(variant):
    config = compose_config(variant)
    columns = config["views"]["name"] == "hidden_columns"
    batch, shapes = make_table() if columns else (None, make_shapes(any(word in variant for word in IMAGES)))
    objective, metrics = take_step(config, shapes, batch)
    assert metrics.keys() == {f"loss/{name}" for name in config["terms"]} | {
        "loss/worldmodel",
        "model/latent_std",
        "model/latent_rank",
    }
    assert objective.model.config["encoder"] == config["encoder"]


@pytest.mark.parametrize("part", PARTS)
def test_every_part_builds_and_takes_a_step_in_the_default(part):
    group, name = part.split("/")
    overrides = [f"worldmodel/{group}={name}"]
    if part == "views/last_step":  # it has one question, and an open loop needs several
        overrides.append("worldmodel/terms=mse")
    if part in ("target/input", "terms/reconstruction"):  # what is to come, and what decodes latents into it
        overrides = ["worldmodel/target=input", "worldmodel/terms=reconstruction"]
    if part in ("views/hidden_columns", "predictor/tokens"):  # parts of another kind of question
        batch, shapes = make_table()
        take_step(compose_config("t_jepa", *overrides), shapes, batch)
        return
    take_step(compose_config("seq_jepa", *overrides), make_shapes(name in IMAGES))


def default(*overrides):
    shapes = make_shapes(False)
    return build(compose_config("seq_jepa", *overrides), shapes, seed=0), make_batch(shapes)


@pytest.mark.parametrize("terms", ["mse", "rollout"])
def test_padding_and_missing_transitions_do_not_count(terms):
    shapes = make_shapes(False)
    objective, batch = (
        build(compose_config("seq_jepa", f"worldmodel/terms={terms}"), shapes, seed=0),
        make_batch(shapes),
    )
    torch.nn.init.normal_(objective.model.reward.linear.weight)  # an untrained head's loss knows no reward
    batch["valid"][1, 3:] = False
    batch["is_first"][2, 2] = True
    loss, _ = objective(batch)
    other = {key: value.clone() for key, value in batch.items()}
    other["state"][1, 3:] += 5.0
    other["reward"][1, 3:] += 5.0
    other["terminated"][1, 3:] = True
    other["reward"][2, 2] += 5.0  # nothing was received on an episode's first row
    assert objective(other)[0] == loss
    other["reward"][2, 3] += 5.0
    assert objective(other)[0] != loss


def test_a_tensordict_is_a_batch():
    objective, batch = default()
    loss, _ = objective(batch)
    assert objective(TensorDict(batch, batch_size=[4, 5]))[0] == loss


def test_an_all_padding_batch_gives_a_zero_loss():
    objective, batch = default()
    batch["valid"][:] = False
    loss, _ = objective(batch)
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or not p.grad.isnan().any() for p in objective.trainable())


def test_the_rollout_feeds_predictions_back_and_starts_as_the_one_step_prediction():
    shapes = make_shapes(False)
    objective, batch = build(compose_config("seq_jepa"), shapes, seed=0), make_batch(shapes)
    outputs = objective.outputs(batch)
    ahead = outputs.rollout.latents
    assert torch.equal(ahead[:, 0], outputs.prediction[:, 0])
    model = objective.model
    latents = torch.cat([outputs.latents[:, :1], ahead[:, :2]], 1)
    beliefs, _ = model.aggregate(latents, batch["prev_action"][:, :3])
    torch.testing.assert_close(
        model.predict(beliefs, batch["prev_action"][:, 1:4]).latent, ahead, atol=1e-5, rtol=1e-4
    )
    batch["state"][:, 1:] += 1.0  # the open loop sees the first row only
    torch.testing.assert_close(objective.outputs(batch).rollout.latents, ahead)


def test_a_rollout_after_some_rows_begins_from_the_belief_they_make():
    shapes = make_shapes(False)
    config = compose_config("seq_jepa", "worldmodel.rollout_steps=2", "worldmodel.rollout_after=3")
    objective, batch = build(config, shapes, seed=0), make_batch(shapes)
    outputs, model = objective.outputs(batch), objective.model
    ahead = outputs.rollout.latents
    latents = torch.cat([outputs.latents[:, :3], ahead[:, :1]], 1)
    beliefs, _ = model.aggregate(latents, batch["prev_action"][:, :4], batch["is_first"][:, :4])
    expected = model.predict(beliefs[:, 2:], batch["prev_action"][:, 3:]).latent
    torch.testing.assert_close(expected, ahead, atol=1e-5, rtol=1e-4)
    batch["valid"][0, 4:] = False
    assert objective.outputs(batch).rollout.weight[0].tolist() == [1, 0]


def test_a_rollout_ends_with_its_episode():
    shapes = make_shapes(False)
    objective, batch = build(compose_config("seq_jepa"), shapes, seed=0), make_batch(shapes)
    batch["valid"][0, 2:] = False
    assert objective.outputs(batch).rollout.weight[0].tolist() == [1, 0, 0]
    assert objective.outputs(batch).rollout.weight[1].tolist() == [1, 1, 1]
    batch["is_first"][2, 2] = True  # what follows is another episode, however real
    assert objective.outputs(batch).rollout.weight[2].tolist() == [1, 0, 0]


def test_in_the_paper_form_the_last_action_reaches_the_prediction_but_not_the_belief():
    shapes = make_shapes(True)
    objective, batch = build(compose_config("seq_jepa_paper"), shapes, seed=0), make_batch(shapes, time=4)
    objective.eval()
    one = objective.outputs(batch)
    assert one.beliefs.shape == (4, 1, 640)
    assert one.prediction.shape == one.answer.shape == (4, 1, 512)
    batch["prev_action"][:, -1] *= -1
    two = objective.outputs(batch)
    assert torch.equal(one.beliefs, two.beliefs)
    assert not torch.allclose(one.prediction, two.prediction)
    batch["prev_action"][:, -2] *= -1
    assert not torch.allclose(two.beliefs, objective.outputs(batch).beliefs)


def test_a_set_aggregator_gives_an_agent_a_belief_at_every_row():
    objective, batch = default("worldmodel/aggregator=bidirectional")
    outputs = objective.outputs(batch)
    assert outputs.beliefs.shape == (4, 5, objective.model.belief_size)
    assert outputs.prediction.shape == (4, 4, 128)


@pytest.mark.slow
def test_the_objective_is_one_graph():
    shapes = make_shapes(False)
    config = compose_config("seq_jepa", "worldmodel.rollout_steps=2")
    objective, batch = build(config, shapes, seed=0), make_batch(shapes)
    loss, metrics = objective(batch)
    loss.backward()
    gradients = [p.grad.clone() for p in objective.trainable() if p.grad is not None]
    objective.zero_grad()
    # aot_eager traces forward and backward like the real compiler, without a minute of code generation.
    compiled = torch.compile(objective, fullgraph=True, dynamic=False, backend="aot_eager")
    again, others = compiled(batch)
    again.backward()
    torch.testing.assert_close(again, loss)
    torch.testing.assert_close(others, metrics, atol=1e-4, rtol=1e-4)
    theirs = [p.grad for p in objective.trainable() if p.grad is not None]
    assert len(gradients) == len(theirs)
    for mine, other in zip(gradients, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


def test_the_compiled_objective_follows_the_moving_target_without_recompiling():
    objective, batch = default()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(objective, fullgraph=True, dynamic=False, backend=backend)
    for seed in range(4):
        batch = make_batch(make_shapes(False), seed=seed)
        loss, _ = compiled(batch)
        loss.backward()
        with torch.no_grad():
            for parameter in objective.trainable():
                parameter.add_(0.05)
        objective.target.update()
        objective.model.observe({"state": batch["state"]})
        assert torch.equal(compiled(batch)[0], objective(batch)[0])
    assert len(graphs) == 1
