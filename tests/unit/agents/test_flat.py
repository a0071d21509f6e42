"""Weights in one tensor learn as they would one by one, and their checkpoints look the same."""

import copy

import pytest
import torch
from torch import nn

from agents.flat import Flat, join_state, split_state

RATES = (1e-2, 3e-3)


def networks():
    torch.manual_seed(0)
    return [nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)) for _ in RATES]


def slopes_of(nets, seed):
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(seed))
    sum(net(x).square().mean() * 100 for net in nets).backward()


def adam(groups):
    return torch.optim.AdamW([{"params": g, "lr": rate} for g, rate in zip(groups, RATES, strict=True)])


class Together:
    """Two networks whose weights lie in two tensors."""

    def __init__(self):
        self.nets = networks()
        self.flats = [Flat(list(net.parameters())) for net in self.nets]
        self.optimiser = adam([[flat.whole] for flat in self.flats])

    def learn(self, seed):
        for flat in self.flats:
            flat.forget_slopes()
        slopes_of(self.nets, seed)
        for flat in self.flats:
            flat.collect_slopes()
        norms = [flat.clip_slopes(5.0) for flat in self.flats]
        self.optimiser.step()
        return norms


class Alone:
    """The same as everybody does it."""

    def __init__(self):
        self.nets = networks()
        self.optimiser = adam([list(net.parameters()) for net in self.nets])

    def learn(self, seed):
        self.optimiser.zero_grad()
        slopes_of(self.nets, seed)
        norms = [nn.utils.clip_grad_norm_(net.parameters(), 5.0) for net in self.nets]
        self.optimiser.step()
        return norms


def assert_equal_weights(one, other):
    for mine, theirs in zip(one.nets, other.nets, strict=True):
        for name, weight in mine.state_dict().items():
            torch.testing.assert_close(weight, theirs.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_weights_keep_their_values_and_lie_apart_at_whole_cache_lines():
    net, before = networks()[0], networks()[0]
    flat = Flat(list(net.parameters()))
    for weight, value in zip(net.parameters(), before.parameters(), strict=True):
        assert torch.equal(weight, value)
        assert (weight.data_ptr() - flat.whole.data_ptr()) % 64 == 0
    flat.whole.data += 1
    for weight, value in zip(net.parameters(), before.parameters(), strict=True):
        assert torch.equal(weight, value + 1)
    assert not any(w.is_set_to(v) for w, v in zip(copy.deepcopy(net).parameters(), flat.weights, strict=True))


def test_they_learn_as_weights_of_their_own_do():
    together, alone = Together(), Alone()
    for seed in range(5):
        torch.testing.assert_close(together.learn(seed), alone.learn(seed))
    assert_equal_weights(together, alone)


@pytest.mark.parametrize("updates", [0, 3])
def test_checkpoints_of_both_are_the_same_and_go_on_alike(updates):
    together, alone = Together(), Alone()
    for seed in range(updates):
        together.learn(seed), alone.learn(seed)
    split, plain = split_state(together.optimiser.state_dict(), together.flats), alone.optimiser.state_dict()
    assert split["param_groups"] == plain["param_groups"]
    torch.testing.assert_close(split["state"], plain["state"], rtol=1e-5, atol=1e-6)
    again = Together()
    for mine, theirs in zip(again.nets, alone.nets, strict=True):
        mine.load_state_dict(theirs.state_dict())
    again.optimiser.load_state_dict(join_state(plain, again.flats))
    again.learn(9), alone.learn(9)
    assert_equal_weights(again, alone)


def test_what_was_joined_shares_no_memory_with_what_was_split():
    together = Together()
    together.learn(0)
    split = split_state(together.optimiser.state_dict(), together.flats)
    again = Together()
    again.optimiser.load_state_dict(join_state(split, again.flats))
    kept = again.optimiser.state_dict()["state"][0]["exp_avg"].clone()
    together.learn(1)
    assert torch.equal(again.optimiser.state_dict()["state"][0]["exp_avg"], kept)


def test_a_weight_that_nothing_depends_on_has_no_slope_and_no_past():
    net = networks()[0]
    flat = Flat(list(net.parameters()))
    net(torch.ones(1, 3)).sum().backward()
    flat.collect_slopes()
    flat.forget_slopes()
    net[2].bias.sum().backward()
    flat.collect_slopes()
    assert [bool(part.any()) for part in flat.parts(flat.whole.grad)] == [False, False, False, True]
    flat.forget_slopes()
    flat.collect_slopes()
    assert not flat.whole.grad.any()  # nothing depended on any of them
    assert flat.clip_slopes(1.0) == 0
    net[2].bias.sum().backward()
    optimiser = torch.optim.AdamW(net.parameters())
    optimiser.step()  # the last bias alone has a gradient
    (state,) = join_state(optimiser.state_dict(), [flat])["state"].values()
    assert state["step"] == 1
    assert [bool(part.any()) for part in flat.parts(state["exp_avg"])] == [False, False, False, True]
