"""The four verbs of a world model."""

import pytest
import torch

from worldmodel import ModelError, State
from worldmodel.blocks import NORMALISERS, LayerNorm, SimNorm, StridedSimNorm


def start_state(model, batch):
    z = model.encode({"state": batch["state"][:, :1], "goal": batch["goal"][:, :1]})
    belief, cache = model.aggregate(z, batch["prev_action"][:, :1], cache=model.start(len(z)))
    return State(belief[:, 0], cache)


def test_imagination_is_causal_in_the_plan(make_objective, make_batch):
    model, batch = make_objective().model.eval(), make_batch()
    state = start_state(model, batch)
    plan = torch.rand(3, 5, 3)
    other = plan.clone()
    other[:, 2:] *= -1
    one = model.imagine(state, lambda belief, h: plan[:, h], 5)
    two = model.imagine(state, lambda belief, h: other[:, h], 5)
    assert torch.equal(one.latents[:, :2], two.latents[:, :2])
    assert torch.equal(one.rewards[:, :2], two.rewards[:, :2])
    assert torch.equal(one.beliefs[:, :3], two.beliefs[:, :3])
    assert not torch.allclose(one.latents[:, 2], two.latents[:, 2])


def test_imagination_has_the_documented_shapes_and_ranges(make_objective, make_batch):
    model = make_objective().model.eval()
    seen = model.imagine(start_state(model, make_batch()), lambda belief, h: belief[:, :3], 4)
    shapes = [tuple(x.shape) for x in seen]
    assert shapes == [(3, 4, 16), (3, 5, 16), (3, 4, 3), (3, 4), (3, 4)]
    assert ((seen.continuations > 0) & (seen.continuations < 1)).all()
    torch.testing.assert_close(seen.actions[:, 2], seen.beliefs[:, 2, :3])


def test_imagination_equals_predicting_by_hand(make_objective, make_batch):
    model, batch = make_objective().model.eval(), make_batch()
    state, plan = start_state(model, batch), torch.rand(3, 3, 3)
    seen = model.imagine(state, lambda belief, h: plan[:, h], 3)
    z0 = model.encode({"state": batch["state"][:, :1], "goal": batch["goal"][:, :1]})
    actions = torch.cat([batch["prev_action"][:, :1], plan], 1)
    latents = torch.cat([z0, seen.latents], 1)
    beliefs, _ = model.aggregate(latents, actions)
    torch.testing.assert_close(beliefs, seen.beliefs, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.predict(beliefs[:, :-1], plan).latent, seen.latents, atol=1e-5, rtol=0)


def test_repeating_a_state_gives_each_candidate_the_same_past(make_objective, make_batch):
    model = make_objective().model.eval()
    state = start_state(model, make_batch())
    many = state.repeat(4)
    plan = torch.rand(12, 2, 3)
    seen = model.imagine(many, lambda belief, h: plan[:, h], 2)
    alone = model.imagine(state, lambda belief, h: plan[1::4, h], 2)
    torch.testing.assert_close(seen.latents[1::4], alone.latents)


def test_imagining_without_a_memory_is_a_mistake(make_objective, make_batch):
    model, batch = make_objective().model.eval(), make_batch()
    z = model.encode({key: batch[key] for key in model.observation_keys})
    belief, none = model.aggregate(z, batch["prev_action"])
    with pytest.raises(ModelError, match=r"cache=model\.start"):
        model.imagine(State(belief[:, -1], none), lambda belief, h: belief[:, :3], 2)


def test_an_observation_of_another_size_is_not_spread_out(make_objective, make_batch):
    model, batch = make_objective().model.eval(), make_batch()
    with pytest.raises(ModelError, match="have 7 entries, and 3 are shown"):
        model.encode({"state": batch["state"][..., :1], "goal": batch["goal"]})


def test_a_model_without_heads_imagines_without_rewards(make_objective, make_batch):
    model = make_objective(heads={}, terms={"mse": {"weight": 1.0}}).model.eval()
    seen = model.imagine(start_state(model, make_batch()), lambda belief, h: belief[:, :3], 2)
    assert seen.rewards is None
    assert seen.continuations is None


def test_encoding_in_evaluation_leaves_every_buffer_as_it_was(make_objective, make_batch):
    encoder = {"name": "mlp", "hidden": [16], "latent": 16, "scaling": "running"}
    model, batch = make_objective(encoder=encoder).model, make_batch()
    model.observe(batch)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval()
    model.imagine(start_state(model, batch), lambda belief, h: belief[:, :3], 2)
    model.train()
    model.encode(batch)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_running_scale_equals_the_statistics_of_all_that_was_observed(make_objective, make_batch):
    encoder = {"name": "mlp", "hidden": [16], "latent": 16, "scaling": "running"}
    model = make_objective(encoder=encoder).model
    batches = [make_batch(batch=n, seed=n) for n in (1, 4, 9)]
    for batch in batches:
        batch["state"] *= 7.0
        model.observe(batch)
    rows = torch.cat([torch.cat([b["goal"], b["state"]], -1).flatten(0, 1) for b in batches])
    vectors = model.encoder.vectors
    torch.testing.assert_close(vectors.shift, rows.mean(0))
    torch.testing.assert_close(vectors.scale, 1 / rows.std(0, correction=0))
    joined = vectors(batches[2])
    torch.testing.assert_close(joined, (vectors.concatenate(batches[2]) - vectors.shift) * vectors.scale)


@pytest.mark.parametrize("name", NORMALISERS)
def test_predictions_are_normalised_like_latents(make_objective, make_batch, name):
    encoder = {"name": "mlp", "hidden": [16], "latent": 16, "scaling": "none", "normaliser": name}
    objective = make_objective(encoder=encoder)
    outputs = objective.outputs(make_batch())
    for value in (outputs.latents, outputs.prediction, outputs.answer):
        if name == "simnorm":
            torch.testing.assert_close(value.unflatten(-1, (2, 8)).sum(-1), torch.ones(*value.shape[:-1], 2))
        if name == "strided_simnorm":
            torch.testing.assert_close(value.unflatten(-1, (8, 2)).sum(-2), torch.ones(*value.shape[:-1], 2))
        if name == "layernorm":
            torch.testing.assert_close(value.mean(-1), torch.zeros(value.shape[:-1]), atol=1e-5, rtol=0)
            torch.testing.assert_close(
                value.std(-1, correction=0), torch.ones(value.shape[:-1]), atol=1e-3, rtol=0
            )


@pytest.mark.parametrize("normaliser", [SimNorm(16), StridedSimNorm(16), LayerNorm(16)])
def test_an_inverse_normalised_again_is_the_latent(normaliser):
    z = normaliser(torch.randn(5, 16))
    torch.testing.assert_close(normaliser(normaliser.inverse(z)), z, atol=1e-4, rtol=1e-3)


def test_a_residual_predictor_starts_by_repeating_the_latent(make_objective, make_batch):
    predictor = {"name": "mlp", "hidden": [16], "residual": True}
    outputs = make_objective(predictor=predictor, awake=False).outputs(make_batch())
    torch.testing.assert_close(outputs.prediction, outputs.latents[:, :-1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("seen_by", ["both", "aggregator", "predictor", "none"])
def test_actions_reach_those_who_are_to_see_them(make_objective, make_batch, seen_by):
    action = {"name": "linear", "width": 8, "seen_by": seen_by}
    model, batch = make_objective(action=action).model.eval(), make_batch()
    z = model.encode({key: batch[key] for key in ("state", "goal")})
    done = batch["prev_action"]

    def told(first, second):
        return not torch.equal(first, second)

    belief, _ = model.aggregate(z, done)
    assert told(belief, model.aggregate(z, -done)[0]) is (seen_by in ("both", "aggregator"))
    ahead = model.predict(belief, done).latent
    assert told(ahead, model.predict(belief, -done).latent) is (seen_by in ("both", "predictor"))


def test_nobody_else_sees_actions(make_objective):
    with pytest.raises(ModelError, match="choose one of both, aggregator, predictor, none"):
        make_objective(action={"name": "linear", "seen_by": "encoder"})
