"""What every encoder promises."""

import pytest
import torch

from worldmodel import build_model
from worldmodel.encoders import ENCODERS

PIXELS = {"pixels": {"shape": [3, 32, 32], "dtype": "uint8"}}
STATE = {"state": {"shape": [5], "dtype": "float32"}}
CASES = {
    "mlp": ({"name": "mlp", "hidden": [16], "latent": 16}, STATE),
    "mlp symlog": ({"name": "mlp", "hidden": [16], "latent": 16, "scaling": "symlog"}, STATE),
    "linear": ({"name": "linear", "layers": 3}, STATE),
    "conv": ({"name": "conv", "channels": [8, 8, 8], "hidden": [16], "latent": 16}, PIXELS),
    "conv, pooled": (
        {"name": "conv", "channels": [8, 8], "hidden": [], "latent": 8, "norm": "batch", "pooled": True},
        PIXELS,
    ),
    "conv and vectors": (
        {"name": "conv", "channels": [8, 8, 8], "hidden": [16], "latent": 16},
        PIXELS | STATE,
    ),
    "table": ({"name": "table", "width": 8, "ff": 16, "latent": 16}, STATE),
    "table, some missing": (
        {"name": "table", "width": 8, "ff": 16, "latent": 16},
        STATE | {"missing": {"shape": [5], "dtype": "float32"}},
    ),
    "resnet18": ({"name": "resnet18", "stem": "cifar"}, PIXELS),
}


def make_model(case):
    encoder, observation = CASES[case]
    config = {"encoder": encoder, "aggregator": {"name": "none"}, "predictor": {"name": "mlp", "hidden": [8]}}
    return build_model(
        config, {"observation": observation, "action": {"kind": "continuous", "size": 2}}, seed=0
    )


def make_obs(case, batch=2, time=4):
    g = torch.Generator().manual_seed(0)
    made = {}
    for key, fact in CASES[case][1].items():
        shape = (batch, time, *fact["shape"])
        image = fact["dtype"] == "uint8"
        made[key] = (
            torch.randint(0, 256, shape, generator=g, dtype=torch.uint8)
            if image
            else torch.randn(shape, generator=g)
        )
    return made


def test_every_encoder_has_a_case():
    assert {encoder["name"] for encoder, _ in CASES.values()} == ENCODERS.keys()


@pytest.mark.parametrize("case", CASES)
def test_encoding_selected_positions_sees_nothing_else(case):
    # Training mode: batch statistics over hidden positions would be a leak too.
    model, obs = make_model(case).train(), make_obs(case)
    keep = torch.tensor([[0, 2], [3, 1]])
    hidden = torch.ones(2, 4, dtype=torch.bool).scatter(1, keep, False)
    changed = {key: value.clone() for key, value in obs.items()}
    for value in changed.values():
        value[hidden] = 255 - value[hidden] if value.dtype == torch.uint8 else value[hidden] + 9
    one, other = model.encode(obs, keep), model.encode(changed, keep)
    assert one.shape == (2, 2, model.latent_size)
    assert torch.equal(one, other)


@pytest.mark.parametrize("case", CASES)
def test_a_latent_depends_on_its_own_position_only(case):
    model, obs = make_model(case).eval(), make_obs(case)
    keep = torch.tensor([[2], [0]])
    picked = model.encode(obs)[torch.arange(2)[:, None], keep]
    torch.testing.assert_close(model.encode(obs, keep), picked, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_every_observation_matters_and_reaches_the_weights(case):
    model, obs = make_model(case).eval(), make_obs(case)
    before = model.encode(obs)
    for key, value in obs.items():
        other = 255 - value if value.dtype == torch.uint8 else value + 1
        assert not torch.allclose(before, model.encode({**obs, key: other}))
    before.square().sum().backward()
    assert model.encoder.size == before.shape[-1]
    assert any(p.grad is not None and p.grad.any() for p in model.encoder.parameters())


@pytest.mark.parametrize("size", [32, 64, 84, 128])
def test_the_convolutional_encoder_takes_images_of_many_sizes(size):
    observation = {"pixels": {"shape": [3, size, size], "dtype": "uint8"}}
    config = {
        "encoder": {"name": "conv", "channels": [4, 4, 4, 4], "hidden": [8], "latent": 8},
        "aggregator": {"name": "none"},
        "predictor": {"name": "mlp", "hidden": [8]},
    }
    model = build_model(config, {"observation": observation, "action": {"kind": "discrete", "size": 2}})
    z = model.encode({"pixels": torch.zeros(1, 2, 3, size, size, dtype=torch.uint8)})
    assert z.shape == (1, 2, 8)
