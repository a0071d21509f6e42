"""Deep linear networks: matrices follow the equations of single features, and depth turns their order."""

import pytest
import torch

from worldmodel import ModelError, build
from worldmodel.linear import (
    ANSWERS,
    Feature,
    balanced,
    critical_time,
    critical_time_in_closed_form,
    fixed_point,
    flow,
    influence,
    order,
    pairs,
    trajectory,
)

FEATURES = (Feature(1.0, 0.5), Feature(0.8, 0.9), Feature(0.6, 0.7))
NOISY, CLEAN = Feature(1.0, 0.4), Feature(0.85, 0.9)


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_flow_of_the_matrices_is_that_of_the_features(answer, depth):
    generator = torch.Generator().manual_seed(depth)
    basis = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    cov_xx = basis @ torch.diag(torch.tensor([f.variance for f in FEATURES]).double()) @ basis.t()
    cov_yx = basis @ torch.diag(torch.tensor([f.cov for f in FEATURES]).double()) @ basis.t()
    start = 0.02
    longest = max(critical_time(f, depth, start, answer) for f in FEATURES)
    times = torch.linspace(0.1, 1.5, 8, dtype=torch.float64) * longest
    networks = flow(balanced(basis, depth, start, answer, generator), cov_xx, cov_yx, answer, times)
    # Whatever turn the layers end in, a feature's strength is the length of its image.
    strengths = torch.stack([(network.encoder() @ basis).norm(dim=0) for network in networks])
    for number, feature in enumerate(FEATURES):
        expected = trajectory(feature, depth, start, answer, times)
        assert (strengths[:, number] - expected).abs().max() < 1e-6
    assert strengths[-1].max() > 0.2  # or nothing would have been learned


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("depth", [1, 3])
def test_features_end_at_their_fixed_points(answer, depth):
    for feature in FEATURES:
        late = torch.tensor([1e4 * critical_time(feature, depth, 1e-3, answer)])
        power = depth if answer == "latent" else depth / (depth + 1)
        assert trajectory(feature, depth, 1e-3, answer, late).item() == pytest.approx(
            feature.rho**power, rel=1e-6
        )
        assert fixed_point(feature, depth, answer) == pytest.approx(feature.rho**power)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("start", [1e-2, 1e-4])
def test_the_closed_form_is_the_quadrature(depth, start):
    for feature in (NOISY, CLEAN):
        if start < 0.4 * feature.rho**depth:
            exact = critical_time_in_closed_form(feature, depth, start)
            assert critical_time(feature, depth, start, "latent") == pytest.approx(exact, rel=1e-6)


def test_a_trajectory_is_half_way_at_its_critical_time():
    for answer in ANSWERS:
        time = critical_time(CLEAN, 2, 1e-3, answer)
        half = trajectory(CLEAN, 2, 1e-3, answer, torch.tensor([0.0, time], dtype=torch.float64))
        assert half[0].item() == pytest.approx(1e-3, rel=1e-6)
        assert half[1].item() == pytest.approx(0.5 * fixed_point(CLEAN, 2, answer), rel=1e-6)


@pytest.mark.parametrize(("start", "depth"), [(1e-2, 2), (1e-3, 3), (1e-4, 4)])
def test_depth_makes_latent_prediction_prefer_what_is_predictable(start, depth):
    pair = (NOISY, CLEAN)
    assert order(pair, depth, start, "latent") == [1, 0]
    assert order(pair, depth - 1, start, "latent") == [0, 1]
    for shallow in range(1, depth + 1):
        assert order(pair, shallow, start, "input") == [0, 1]


def test_times_of_equal_covariance_are_those_of_the_specification():
    """Ratios for rho = .4 against .9 at cov = 1, computed elsewhere."""
    slow, fast = Feature(1.0, 0.4), Feature(1.0, 0.9)
    for depth, latent, image in ((1, 1.005, 0.936), (2, 1.076, 0.988), (4, 1.607, 0.998)):
        for answer, expected in (("latent", latent), ("input", image)):
            ratio = critical_time(slow, depth, 1e-3, answer) / critical_time(fast, depth, 1e-3, answer)
            assert ratio == pytest.approx(expected, abs=0.02)


def batch_of(features, basis, number=64):
    """Pairs of these features as a batch of two rows."""
    x, y = pairs(features, basis, number, torch.Generator().manual_seed(0))
    rows, no = (number, 2), torch.zeros(number, 2, dtype=torch.bool)
    return {
        "state": torch.stack([x, y], 1).float(),
        "prev_action": torch.zeros(*rows, 1),
        "reward": torch.zeros(rows),
        "terminated": no,
        "is_first": no,
        "valid": ~no,
    }


@pytest.mark.parametrize(("answer", "rate"), [("latent", 0.006), ("input", 0.0025)])
def test_a_trained_network_follows_the_theory(answer, rate):
    features, depth, scale = (Feature(1.0, 0.5), Feature(0.8, 0.9)), 2, 0.3
    basis = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(3)).double())[0]
    config = {
        "encoder": {"name": "linear", "layers": depth, "scale": scale},
        "aggregator": {"name": "none"},
        "predictor": {"name": "linear", "scale": scale},
        "target": {"name": "online" if answer == "latent" else "input"},
        "terms": {"mse": {"weight": len(features) / 2}},  # half the sum of squares, where mse is their mean
    }
    shapes = {
        "observation": {"state": {"shape": [2], "dtype": "float32"}},
        "action": {"kind": "continuous", "size": 1},
    }
    objective, batch = build(config, shapes, seed=0), batch_of(features, basis)
    optimiser = torch.optim.SGD(objective.trainable(), rate)
    start = scale**depth
    end = 1.3 * max(critical_time(f, depth, start, answer) for f in features)
    worst, strongest, steps = 0.0, 0.0, int(end / rate)
    times = torch.arange(1, steps + 1, dtype=torch.float64) * rate
    expected = torch.stack([trajectory(f, depth, start, answer, times) for f in features], 1)
    for step in range(steps):
        loss, _ = objective(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 50 == 0:
            whole = objective.model.encoder.layers[1] @ objective.model.encoder.layers[0]
            strength = (whole.detach().double() @ basis).norm(dim=0)
            worst = max(worst, float((strength - expected[step]).abs().max()))
            strongest = max(strongest, float(strength.max()))
    assert strongest > 0.4  # or little was learned
    assert worst < 1e-3


def test_features_outside_of_the_regime_are_refused_in_words():
    with pytest.raises(ModelError, match="smaller start"):
        critical_time(NOISY, 6, 1e-2, "latent")  # it ends at 0.004
    with pytest.raises(ModelError, match="positive"):
        critical_time(Feature(-1.0, 0.5), 1, 1e-3, "latent")
    with pytest.raises(ModelError, match="latent or input"):
        fixed_point(NOISY, 1, "pixels")
    with pytest.raises(ModelError, match="rho above 1"):
        pairs([Feature(1.0, 1.5)], torch.eye(1).double(), 9, torch.Generator())
    with pytest.raises(ModelError, match="draw more"):
        pairs([NOISY], torch.eye(1).double(), 2, torch.Generator())


def test_features_are_read_from_pairs_without_what_actions_did():
    basis = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(1)).double())[0]
    x, y = pairs((NOISY, CLEAN), basis, 400, torch.Generator().manual_seed(0))
    found = influence(x, y)
    for read, truth in zip(found.features, (CLEAN, NOISY), strict=True):
        assert (read.cov, read.rho) == pytest.approx((truth.cov, truth.rho), rel=1e-4)
    aligned = (found.directions.t() @ basis).abs()
    assert torch.allclose(aligned, torch.eye(2).double().flip(0), atol=1e-3)
    assert found.mixing < 1e-6
    done = torch.randn(400, 3, generator=torch.Generator().manual_seed(2)).double()
    moved = y + 5 * done @ torch.ones(3, 2).double()
    again = influence(x, moved, done)
    assert again.features[0].rho == pytest.approx(0.9, abs=0.03)
    assert influence(x, moved).features[0].rho > 1.2 or influence(x, moved).mixing > 0.05


def test_covariances_that_clash_are_told():
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]]).double()
    x = torch.randn(5000, 2, generator=torch.Generator().manual_seed(0)).double() * torch.tensor([1.0, 3.0])
    rates = turn @ torch.diag(torch.tensor([0.9, 0.1]).double()) @ turn.t()
    assert influence(x, x @ rates).mixing > 0.05
