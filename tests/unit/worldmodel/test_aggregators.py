"""What a belief may know: its own past, inside its episode and its window, and nothing else."""

import pytest
import torch

from worldmodel import ModelError

CAUSAL = {"name": "causal", "width": 16, "layers": 1, "heads": 2, "context": 4, "ff": 16}
MOVING = {**CAUSAL, "motion": 10.0}
SET = {"name": "bidirectional", "layers": 2, "heads": 2, "context": 4, "ff": 32, "dropout": 0.0}


def inputs(batch=2, time=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, time, 16, generator=g), torch.randn(batch, time, 3, generator=g)


def sources(model, z, a, position, **rows):
    """Say which latents and actions the belief at a position has a gradient to."""
    z, a = z.clone().requires_grad_(), a.clone().requires_grad_()
    belief, _ = model.aggregate(z, a, **rows)
    # Weighted: a LayerNorm's plain sum is constant and would hide every dependence.
    weight = torch.linspace(-1.0, 2.0, belief.shape[-1])
    dz, da = torch.autograd.grad((belief[0, position] * weight).sum(), [z, a], allow_unused=True)
    da = torch.zeros_like(a) if da is None else da
    return tuple({int(t) for t in d[0].abs().sum(-1).nonzero()} for d in (dz, da))


@pytest.mark.parametrize("aggregator", [CAUSAL, MOVING])
@pytest.mark.parametrize("layers", [1, 2])
def test_changing_the_future_changes_nothing_before_it(make_objective, layers, aggregator):
    model = make_objective(aggregator={**aggregator, "layers": layers}).model.eval()
    z, a = inputs()
    before, _ = model.aggregate(z, a)
    for cut in range(1, 6):
        z2, a2 = z.clone(), a.clone()
        z2[:, cut:] += 3.0
        a2[:, cut:] -= 3.0
        after, _ = model.aggregate(z2, a2)
        assert torch.equal(before[:, :cut], after[:, :cut])
        assert not torch.equal(before[:, cut], after[:, cut])


def test_a_truncated_sequence_gives_the_same_beliefs(make_objective):
    model = make_objective().model.eval()
    z, a = inputs()
    full, _ = model.aggregate(z, a)
    short, _ = model.aggregate(z[:, :4], a[:, :4])
    torch.testing.assert_close(full[:, :4], short, atol=1e-5, rtol=0)


def test_causal_and_set_beliefs_hold_the_same_information(make_objective):
    causal = make_objective(aggregator={**CAUSAL, "context": 6}).model.eval()
    summary = make_objective(aggregator=SET).model.eval()
    z, a = inputs(batch=1, time=5)
    is_first = torch.zeros(1, 5, dtype=torch.bool)
    is_first[:, 0] = True
    for t in range(5):
        seen = (
            set(range(t + 1)),
            set(range(1, t + 1)),
        )  # z_0..z_t and the actions between them, prev_action_1..t
        assert sources(causal, z, a, t, is_first=is_first) == seen
        rows = slice(0, t + 1)
        assert sources(summary, z[:, rows], a[:, rows], 0, is_first=is_first[:, rows]) == seen


def test_the_window_is_the_context(make_objective):
    model = make_objective().model.eval()
    z, a = inputs(batch=1)
    assert sources(model, z, a, 5) == ({2, 3, 4, 5}, {2, 3, 4, 5})
    assert model.aggregator.reach == 4


def test_with_motion_the_oldest_token_knows_one_row_more(make_objective):
    model = make_objective(aggregator=MOVING).model.eval()
    z, a = inputs(batch=1)
    assert sources(model, z, a, 5) == ({1, 2, 3, 4, 5}, {2, 3, 4, 5})
    assert model.aggregator.reach == 5


def test_motion_tells_slow_changes_from_none(make_objective):
    """What two latents differ by is magnified, and a first row is not taken for one that stands still."""
    z, a = inputs(batch=1, time=2)
    slow = torch.cat([z[:, :1], z[:, :1] + 1e-3], 1)
    still = torch.cat([z[:, :1], z[:, :1]], 1)
    gaps = []
    for aggregator in (CAUSAL, {**CAUSAL, "motion": 100.0}):
        model = make_objective(aggregator=aggregator).model.eval()
        torch.manual_seed(0)
        torch.nn.init.normal_(model.aggregator.out.weight)
        beliefs = [model.aggregate(rows, a)[0][:, 1] - rows[:, 1] for rows in (slow, still)]
        gaps.append((beliefs[0] - beliefs[1]).norm() / beliefs[1].norm())
    assert gaps[1] > 10 * gaps[0]
    alone, _ = model.aggregate(still[:, 1:], a[:, 1:])
    assert not torch.allclose(alone[:, 0] - still[:, 1], beliefs[1], atol=1e-3)
    with pytest.raises(ModelError, match=r"motion=-1\.0 must be a number from 0"):
        make_objective(aggregator={**CAUSAL, "motion": -1.0})


@pytest.mark.parametrize("aggregator", [CAUSAL, MOVING])
def test_attention_never_crosses_an_episode_start(make_objective, aggregator):
    model = make_objective(aggregator=aggregator).model.eval()
    z, a = inputs(batch=1)
    is_first = torch.zeros(1, 6, dtype=torch.bool)
    is_first[:, 3] = True
    # The action recorded with a first row belongs to nothing: its place is taken by a learned vector.
    assert sources(model, z, a, 4, is_first=is_first) == ({3, 4}, {4})
    assert sources(model, z, a, 2, is_first=is_first) == ({0, 1, 2}, {0, 1, 2})


def test_the_set_summary_never_crosses_an_episode_start(make_objective):
    model = make_objective(aggregator=SET).model.eval()
    z, a = inputs(batch=1)
    is_first = torch.zeros(1, 6, dtype=torch.bool)
    is_first[:, 3] = True
    assert sources(model, z, a, 0, is_first=is_first) == ({3, 4, 5}, {4, 5})


@pytest.mark.parametrize("aggregator", [CAUSAL, MOVING])
def test_padding_is_seen_by_no_other_row(make_objective, aggregator):
    model = make_objective(aggregator=aggregator).model.eval()
    z, a = inputs(batch=1)
    valid = torch.ones(1, 6, dtype=torch.bool)
    valid[:, 3] = False
    latents, actions = sources(model, z, a, 5, valid=valid)
    assert latents == ({1, 2, 4, 5} if model.aggregator.motion else {2, 4, 5})
    assert 3 not in actions
    belief, _ = model.aggregate(z, a, valid=valid)
    assert belief.isfinite().all()


def test_order_matters_to_the_causal_form(make_objective):
    model = make_objective().model.eval()
    z, a = inputs(batch=1, time=4)
    swapped = [1, 0, 2, 3]
    one, _ = model.aggregate(z, a)
    other, _ = model.aggregate(z[:, swapped], a[:, swapped])
    assert (one[:, 3] - other[:, 3]).abs().max() > 1e-4


@pytest.mark.parametrize("aggregator", [CAUSAL, MOVING])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("chunk", [1, 2])
def test_a_cached_rollout_equals_the_full_forward(make_objective, layers, chunk, aggregator):
    model = make_objective(aggregator={**aggregator, "layers": layers}).model.eval()
    z, a = inputs(batch=3, time=12)
    is_first = torch.zeros(3, 12, dtype=torch.bool)
    is_first[0, 0] = is_first[1, 5] = is_first[2, 7] = is_first[2, 8] = True
    full, _ = model.aggregate(z, a, is_first)
    cache, parts = model.start(3), []
    for t in range(0, 12, chunk):
        rows = slice(t, t + chunk)
        shape = [x.shape for x in cache]
        belief, cache = model.aggregate(z[:, rows], a[:, rows], is_first[:, rows], cache=cache)
        assert [x.shape for x in cache] == shape
        parts.append(belief)
    torch.testing.assert_close(torch.cat(parts, 1), full, atol=1e-5, rtol=0)


@pytest.mark.parametrize("aggregator", [CAUSAL, MOVING, SET, {"name": "none"}])
def test_a_first_row_clears_the_memory_of_its_stream_only(make_objective, aggregator):
    model = make_objective(aggregator=aggregator).model.eval()
    z, a = inputs(batch=2, time=4)
    _, used = model.aggregate(z[:, :3], a[:, :3], cache=model.start(2))
    first = torch.tensor([[True], [False]])
    kept, _ = model.aggregate(z[:, 3:], a[:, 3:], first, cache=used)
    fresh, _ = model.aggregate(z[:, 3:], a[:, 3:], first, cache=model.start(2))
    torch.testing.assert_close(kept[0], fresh[0])
    if aggregator["name"] != "none":
        assert not torch.allclose(kept[1], fresh[1])


def test_a_set_with_memory_equals_the_set_of_its_last_rows(make_objective):
    model = make_objective(aggregator=SET).model.eval()
    z, a = inputs(batch=2, time=7)
    beliefs, cache = model.aggregate(z, a, cache=model.start(2))
    for t in (1, 3, 6):
        rows = slice(max(0, t - 3), t + 1)
        alone, _ = model.aggregate(z[:, rows], a[:, rows])
        torch.testing.assert_close(beliefs[:, t : t + 1], alone, atol=1e-5, rtol=1e-5)
    assert [x.shape for x in cache] == [x.shape for x in model.start(2)]


def test_the_set_has_no_order_without_positions_and_one_with_them(make_objective):
    z, a = inputs(batch=1, time=4)
    tokens = [1, 0, 2, 3]
    # A token is (latent, action leaving it): moving tokens moves the *next* row's prev_action along.
    leaving = torch.cat([a[:, 1:], a[:, :1]], 1)[:, tokens]
    moved = torch.cat([leaving[:, -1:], leaving[:, :-1]], 1)
    for positions, same in (("none", True), ("learned", False)):
        model = make_objective(aggregator={**SET, "positions": positions}).model.eval()
        one, _ = model.aggregate(z, a)
        other, _ = model.aggregate(z[:, tokens], moved)
        assert torch.allclose(one, other, atol=1e-5) is same


def test_the_last_token_of_a_set_has_exact_zeros_for_its_action(make_objective):
    model = make_objective(aggregator=SET).model
    z, a = inputs()
    tokens = model.aggregator.tokens(z, a, model.action)
    assert torch.equal(tokens[:, -1, 16:], torch.zeros(2, 8))
    assert torch.equal(tokens[:, :-1, 16:], model.action(a[:, 1:]))
    assert torch.equal(tokens[..., :16], z)


def test_an_untrained_causal_belief_is_the_latent(make_objective):
    model = make_objective(awake=False).model
    z, a = inputs()
    belief, _ = model.aggregate(z, a)
    assert torch.equal(belief, z)
