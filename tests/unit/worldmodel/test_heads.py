"""Two-hot numbers and continuation."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.heads import Bins, Continuation, TwoHot

BINS = Bins(101, 10.0)


@given(st.floats(-22000, 22000, allow_nan=False, width=32))
@settings(max_examples=200, deadline=None)
def test_the_expectation_of_the_two_hot_code_is_the_number(value):
    weights = BINS.weights(torch.tensor(value))
    assert abs(weights.sum().item() - 1) < 1e-5
    assert (weights > 0).sum() <= 2
    expected = (weights.double() * BINS.values.double()).sum().item()
    assert abs(expected - value) <= 1e-5 * max(1.0, abs(value))


def test_numbers_beyond_the_last_bin_are_clamped_to_it():
    assert BINS.weights(torch.tensor([1e9, -1e9])).argmax(-1).tolist() == [100, 0]


def test_an_untrained_head_says_exactly_zero():
    head = TwoHot(7, bins=101, limit=20.0)
    assert torch.equal(head.mean(head(torch.randn(50, 7))), torch.zeros(50))


def test_the_loss_is_least_at_the_mixture_whose_mean_is_the_average():
    values = torch.tensor([0.3, 0.9, -40.0])
    mixture = BINS.weights(values).mean(0)
    logits = mixture.clamp_min(1e-12).log().requires_grad_()
    assert abs(BINS.mean(logits).item() - values.mean().item()) < 1e-3
    (gradient,) = torch.autograd.grad(BINS.loss(logits, values).mean(), logits)
    assert gradient.abs().max() < 1e-6
    assert BINS.loss(logits, values).mean() < BINS.loss(logits + torch.linspace(0, 1, 101), values).mean()


def test_continuation_is_the_probability_of_going_on():
    head = Continuation(4)
    logit = head(torch.randn(3, 4))
    torch.testing.assert_close(head.loss(logit, torch.ones(3)), -logit.sigmoid().log())
    torch.testing.assert_close(head.mean(logit), logit.sigmoid())
