"""What every target provider promises."""

import math
from copy import deepcopy

import pytest
import torch

from worldmodel import build
from worldmodel.targets import TARGETS
from worldmodel.views import next_step

CASES = {
    "online": {"name": "online"},
    "frozen": {"name": "frozen"},
    "constant": {"name": "moving", "tau": 0.9},
    "cosine": {"name": "moving", "tau": 0.9, "schedule": "cosine", "steps": 10},
    "linear": {"name": "moving", "tau": 0.9, "schedule": "linear", "steps": 10},
    "interval": {"name": "moving", "schedule": "interval", "steps": 3},
    "own statistics": {"name": "moving", "tau": 0.9, "batch_stats": "own"},
    "input": {"name": "input"},
}
MLP = {"name": "mlp", "hidden": [16], "latent": 16}
LINEAR = {"name": "linear"}  # the encoder whose latents are as large as what it reads
SHAPES = {
    "observation": {"pixels": {"shape": [3, 32, 32], "dtype": "uint8"}},
    "action": {"kind": "continuous", "size": 2},
}
VECTORS = {
    "observation": {"state": {"shape": [4], "dtype": "float32"}},
    "action": {"kind": "continuous", "size": 2},
}


def make_objective(target, shapes=VECTORS, encoder=None):
    config = {
        "encoder": encoder or (LINEAR if target["name"] == "input" else MLP),
        "aggregator": {"name": "none"},
        "predictor": {"name": "mlp", "hidden": [16]},
        "target": target,
        "terms": {"mse": {"weight": 1.0}},
    }
    return build(config, shapes, seed=0)


def make_batch(shapes=VECTORS, batch=3, time=4):
    rows = (batch, time)
    no = torch.zeros(rows, dtype=torch.bool)
    obs = {
        key: torch.randint(0, 256, (*rows, *fact["shape"]), dtype=torch.uint8)
        if fact["dtype"] == "uint8"
        else torch.randn(*rows, *fact["shape"])
        for key, fact in shapes["observation"].items()
    }
    return {
        **obs,
        "prev_action": torch.randn(*rows, 2),
        "reward": torch.zeros(rows),
        "terminated": no,
        "truncated": no,
        "is_first": no,
        "valid": ~no,
    }


def answer(objective, batch):
    return objective.target(next_step(batch, objective.model.observation_keys))


def move(model):
    """Stand in for an optimiser step."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)


def test_every_target_has_a_case():
    assert {target["name"] for target in CASES.values()} == TARGETS.keys()


@pytest.mark.parametrize("case", CASES)
def test_no_gradient_goes_in_or_out(case):
    objective, batch = make_objective(CASES[case]), make_batch()
    given = answer(objective, batch)
    assert given.shape == (3, 3, objective.model.latent_size)
    assert not given.requires_grad
    assert given.grad_fn is None
    loss, _ = objective(batch)
    loss.backward()
    assert all(not p.requires_grad and p.grad is None for p in objective.target.parameters())


def test_a_sabotaged_target_lets_the_gradient_in():
    objective, batch = make_objective({"name": "online", "gradient": True}), make_batch()
    assert answer(objective, batch).requires_grad


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_a_constant_answer(case):
    """Goes red when the stop-gradient is removed: answers would be pulled towards predictions."""
    objective, batch = make_objective(CASES[case]), make_batch()
    outputs = objective.outputs(batch)
    constant = outputs._replace(answer=torch.tensor(outputs.answer.detach().numpy().copy()))
    parameters = objective.trainable()
    real = torch.autograd.grad(
        objective.grade(outputs, batch)[0], parameters, retain_graph=True, allow_unused=True
    )
    wanted = torch.autograd.grad(objective.grade(constant, batch)[0], parameters, allow_unused=True)
    assert sum(gradient is not None for gradient in real) > 5
    for a, b in zip(real, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert torch.equal(a, b)


@pytest.mark.parametrize("case", CASES)
def test_no_optimiser_gets_the_target(case):
    objective = make_objective(CASES[case])
    mine = {id(p) for p in objective.trainable()}
    assert mine == {id(p) for p in objective.model.parameters()}
    assert not mine & {id(p) for p in objective.target.parameters()}


@pytest.mark.parametrize("case", CASES)
def test_only_update_moves_a_target(case):
    objective, batch = make_objective(CASES[case]), make_batch()
    before = answer(objective, batch)
    move(objective.model)
    objective.train()
    objective(batch)
    still = answer(objective, batch)
    assert torch.equal(before, still) is (case != "online")
    for _ in range(3 if case == "interval" else 1):
        objective.target.update()
    after = answer(objective, batch)
    assert torch.equal(still, after) is (case in ("online", "frozen", "input"))


@pytest.mark.parametrize("case", ["constant", "cosine"])
def test_an_update_is_the_weighted_mean_of_old_and_new(case):
    objective = make_objective(CASES[case])
    target, model = objective.target, objective.model
    for step in range(12):
        move(model)
        tau = 0.9 if case == "constant" else 1 - 0.1 * (math.cos(math.pi * min(step, 10) / 10) + 1) / 2
        assert abs(target.tau().item() - tau) < 1e-12
        old = deepcopy(target.encoder)
        target.update()
        assert target.step == step + 1
        for a, b, c in zip(
            target.encoder.parameters(), old.parameters(), model.encoder.parameters(), strict=True
        ):
            torch.testing.assert_close(a, tau * b + (1 - tau) * c)
            if case == "cosine" and step >= 10:
                assert torch.equal(a, b)


def test_an_interval_target_is_a_copy_taken_now_and_then():
    objective = make_objective(CASES["interval"])
    target, model, copied = objective.target, objective.model, []
    for _ in range(7):
        move(model)
        target.update()
        pairs = zip(target.encoder.parameters(), model.encoder.parameters(), strict=True)
        copied.append(all(torch.equal(a, b) for a, b in pairs))
    assert copied == [False, False, True, False, False, True, False]


@pytest.mark.parametrize("case", CASES)
def test_a_state_dict_brings_back_the_same_answers_and_schedule(case):
    objective, batch = make_objective(CASES[case]), make_batch()
    move(objective.model)
    objective.target.update()
    other = make_objective(CASES[case])
    other.load_state_dict(objective.state_dict())
    for o in (objective, other):
        o.target.update()
    assert torch.equal(answer(objective, batch), answer(other, batch))


@pytest.mark.parametrize("case", ["constant", "frozen"])
def test_training_mode_does_not_wake_a_target(case):
    objective = make_objective(CASES[case], SHAPES, {"name": "resnet18", "stem": "cifar"})
    buffers = {name: value.clone() for name, value in objective.target.named_buffers()}
    objective.train()
    objective(make_batch(SHAPES, 2, 3))
    assert not any(module.training for module in objective.target.modules())
    assert all(torch.equal(buffers[name], value) for name, value in objective.target.named_buffers())


def test_buffers_are_copied_unless_batch_statistics_are_its_own():
    encoder = {"name": "resnet18", "stem": "cifar"}
    for case, same in (("constant", True), ("own statistics", False)):
        objective = make_objective(CASES[case], SHAPES, encoder)
        objective(make_batch(SHAPES, 2, 3))
        objective.target.update()
        mine, theirs = objective.target.encoder.stem[1], objective.model.encoder.stem[1]
        assert torch.equal(mine.running_mean, theirs.running_mean) is same
        assert mine.running_mean.any()
        assert theirs.running_mean.any()
    running = make_objective(CASES["own statistics"])
    running.model.observe({"state": torch.randn(9, 4) * 5})
    running.target.update()
    assert torch.equal(running.target.encoder.vectors.scale, running.model.encoder.vectors.scale)
