"""Small world models and random batches."""

from copy import deepcopy

import pytest
import torch

from worldmodel import build

VECTORS = {
    "observation": {"state": {"shape": [5], "dtype": "float32"}, "goal": {"shape": [2], "dtype": "float32"}},
    "action": {"kind": "continuous", "size": 3},
}
CONFIG = {
    "encoder": {"name": "mlp", "hidden": [16], "latent": 16, "scaling": "none"},
    "action": {"name": "linear", "width": 8},
    "aggregator": {"name": "causal", "width": 16, "layers": 1, "heads": 2, "context": 4, "ff": 16},
    "predictor": {"name": "mlp", "hidden": [16]},
    "target": {"name": "moving", "tau": 0.9},
    "heads": {"reward": {"bins": 21}, "continuation": {}},
    "terms": {"mse": {"weight": 1.0}, "reward": {"weight": 0.5}, "continuation": {"weight": 0.5}},
}


def awaken(model):
    """Give zero-initialised layers random weights, so that tests see every path."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


@pytest.fixture
def config():
    return deepcopy(CONFIG)


@pytest.fixture
def shapes():
    return deepcopy(VECTORS)


@pytest.fixture
def make_objective():
    def make(*, awake=True, **changes):
        settings = deepcopy(CONFIG)
        for name, value in changes.items():
            settings[name] = value
        objective = build(settings, VECTORS, seed=0)
        if awake:
            awaken(objective.model)
        return objective

    return make


@pytest.fixture
def make_batch():
    def make(batch=3, time=6, seed=0):
        g = torch.Generator().manual_seed(seed)
        rows = (batch, time)
        return {
            "state": torch.randn(*rows, 5, generator=g),
            "goal": torch.randn(*rows, 2, generator=g),
            "prev_action": torch.rand(*rows, 3, generator=g) * 2 - 1,
            "reward": torch.rand(*rows, generator=g),
            "terminated": torch.zeros(rows, dtype=torch.bool),
            "truncated": torch.zeros(rows, dtype=torch.bool),
            "is_first": torch.zeros(rows, dtype=torch.bool),
            "valid": torch.ones(rows, dtype=torch.bool),
        }

    return make
