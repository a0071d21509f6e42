"""Planners find optima of costs they know nothing about, and survive hostile ones."""

import pytest
import torch

from agents.planning import Categorical, Gaussian, choose, mppi


def search(cost, *args, **kwargs):
    """Search with one judge."""
    return mppi(lambda plans: cost(plans)[..., None], *args, **kwargs, elites=32, temperature=0.5)


def noise(rows, horizon, actions, *, iterations=8):
    return torch.randn(iterations, rows, 256, horizon, actions, generator=torch.Generator().manual_seed(0))


def after(guide, guide_cost, cost):
    """An opening that puts one guide before the candidates."""

    def opening(plans):
        return torch.cat([guide, plans], 1), torch.cat([guide_cost, cost(plans)], 1)[..., None]

    return opening


def test_the_gaussian_search_finds_the_optimum_of_a_linear_quadratic_problem():
    """Double integrator, horizon 4: the optimum comes from the normal equations."""
    start, horizon = torch.tensor([0.3, -0.2]), 4
    a, b = torch.tensor([[1.0, 0.2], [0.0, 1.0]]), torch.tensor([0.0, 0.4])

    def cost(actions):
        state, total = start.expand(*actions.shape[:2], 2), 0.0
        for h in range(horizon):
            state = state @ a.T + actions[:, :, h] * b
            total = total + state.square().sum(-1) + 0.1 * actions[:, :, h, 0].square()
        return total

    plan = torch.zeros(1, 1, horizon, 1, requires_grad=True)
    gradient = torch.autograd.grad(cost(plan).sum(), plan, create_graph=True)[0].flatten()
    hessian = torch.stack([torch.autograd.grad(g, plan, retain_graph=True)[0].flatten() for g in gradient])
    optimum = torch.linalg.solve(hessian, -gradient.detach())
    assert optimum.abs().max() < 1, "the test wants an optimum inside the action range"
    best, *_ = search(cost, Gaussian(torch.zeros(1, horizon, 1), std_min=0.02), noise(1, horizon, 1))
    assert cost(best[:, None]).item() <= cost(optimum.view(1, 1, horizon, 1)).item() + 0.01


def test_the_categorical_search_finds_the_best_sequence_of_choices():
    secret = torch.tensor([2, 0, 1, 2])
    wanted = torch.nn.functional.one_hot(secret, 3).float()
    best, *_ = search(
        lambda plans: (plans - wanted).square().sum((-1, -2)),
        Categorical(torch.zeros(1, 4, 3)),
        noise(1, 4, 3),
    )
    assert best.argmax(-1)[0].tolist() == secret.tolist()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_result_does_not_depend_on_the_scale_of_the_cost(scale):
    best, _, _, mean = search(
        lambda plans: scale * (plans - 0.5).square().sum((-1, -2)),
        Gaussian(torch.zeros(1, 2, 1)),
        noise(1, 2, 1),
    )
    assert best.isfinite().all()
    assert mean.isfinite().all()
    assert (best - 0.5).abs().max() < 0.1


def test_candidates_with_nan_costs_never_win():
    def cost(plans):
        value = (plans - 0.5).square().sum((-1, -2))
        return torch.where(plans[..., 0, 0] > 0.6, torch.nan, value)

    best, _, _, mean = search(cost, Gaussian(torch.zeros(1, 2, 1)), noise(1, 2, 1))
    assert best.isfinite().all()
    assert mean.isfinite().all()
    assert best[0, 0, 0] <= 0.6


def test_a_model_that_only_returns_nan_has_no_plan():
    best, _, _, mean = search(
        lambda plans: plans.sum((-1, -2)) * torch.nan,
        Gaussian(torch.zeros(1, 2, 1)),
        noise(1, 2, 1),
    )
    assert best.isnan().all()
    assert mean.isfinite().all()


def test_a_guide_better_than_every_sample_is_followed_in_every_round():
    guide = torch.full((1, 1, 3, 2), 0.987654)

    def cost(plans):
        return (plans - guide).square().sum((-1, -2))

    opening, proposal = after(guide, torch.zeros(1, 1), cost), Gaussian(torch.zeros(1, 3, 2))
    best, *_ = search(cost, proposal, noise(1, 3, 2, iterations=3), opening=opening)
    assert torch.equal(best, guide[:, 0])


def test_plans_of_different_rows_do_not_influence_each_other():
    goals = torch.tensor([0.4, -0.7])[:, None, None, None]
    best, *_ = search(
        lambda plans: (plans - goals).square().sum((-1, -2)),
        Gaussian(torch.zeros(2, 2, 1)),
        noise(2, 2, 1),
    )
    assert (best - goals[:, 0]).abs().max() < 0.1


def test_choices_follow_their_probabilities():
    probs = torch.tensor([0.7, 0.2, 0.1])
    drawn = choose(probs, torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0)))
    assert (drawn.sum(-1) == 1).all()
    assert (drawn.mean(0) - probs).abs().max() < 0.015


def test_a_guide_with_a_nan_cost_never_wins():
    def cost(plans):
        return (plans - 0.5).square().sum((-1, -2))

    opening = after(torch.full((1, 1, 2, 1), 0.9), torch.full((1, 1), torch.nan), cost)
    best, *_ = search(cost, Gaussian(torch.zeros(1, 2, 1)), noise(1, 2, 1), opening=opening)
    assert (best - 0.5).abs().max() < 0.1


def test_a_plan_is_as_good_as_its_most_pessimistic_judge_says():
    """One judge wants .2, the other .6, and the guide lies at the first's wish: what is best is between."""

    def costs(plans):
        return (plans.mean((-1, -2))[..., None] - torch.tensor([0.2, 0.6])).abs()

    guide = torch.full((1, 1, 2, 1), 0.2)
    found = mppi(
        costs,
        Gaussian(torch.zeros(1, 2, 1), std_min=0.02),
        noise(1, 2, 1),
        opening=lambda plans: (torch.cat([guide, plans], 1), costs(torch.cat([guide, plans], 1))),
        elites=32,
        temperature=0.5,
    )
    assert (found.plan.mean() - 0.4).abs() < 0.02
    assert torch.equal(found.costs, costs(found.plan[:, None])[:, 0])
    assert found.guide.flatten().tolist() == pytest.approx([0.0, 0.4])
