"""Configs that cannot be meant are refused with a fix."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from worldmodel import ModelError, Objective, build, build_model
from worldmodel.encoders import ResNet18Encoder
from worldmodel.views import last_step


def refused(config, shapes):
    with pytest.raises(ModelError) as error:
        build(config, shapes)
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encoder": {"name": "mpl"}}, "did you mean 'mlp'"),
        ({"encoder": {"name": "mlp", "hiden": [8]}}, "did you mean 'hidden'"),
        ({"encoder": {"name": "mlp", "hidden": "abc"}}, "must be a list"),
        ({"encoder": {"name": "mlp", "latent": 12}}, "divisible by 8"),
        ({"encoder": {"name": "mlp", "latent": -8}}, "must lie between"),
        ({"encoder": {"name": "conv"}}, "worldmodel/encoder=mlp"),
        ({"agregator": {"name": "none"}}, "did you mean 'aggregator'"),
        ({"predictor": {}}, "one of mlp"),
        ({"aggregator": {"name": "causal", "layers": 10**9}}, "must lie between"),
        ({"aggregator": {"name": "causal", "heads": True}}, "whole number"),
        ({"terms": {"mse": 1.0}}, "weight: 1.0"),
        ({"terms": {"msee": {"weight": 1.0}}}, "did you mean 'mse'"),
        ({"terms": {}}, "nothing would be learned"),
        ({"heads": {}}, "needs the reward head"),
        ({"target": {"name": "input"}}, "worldmodel/terms=reconstruction"),
        ({"terms": {"reconstruction": {"weight": 1.0}}}, "needs the decoder head"),
        (
            {"terms": {"reconstruction": {"weight": 1.0}}, "heads": {"decoder": {}}},
            "worldmodel/target=input",
        ),
        ({"target": {"name": "moving", "schedule": "cosine"}}, "needs steps"),
        ({"rollout_steps": 2}, "rollout_steps"),
        (
            {"aggregator": {"name": "bidirectional", "dropout": 2.0}},
            "dropout=2.0 must be a number from 0 to 1",
        ),
        ({"aggregator": {"name": "causal", "motion": float("nan")}}, "motion=nan must be a number from 0"),
        ({"terms": {"mse": {"weight": -1.0}}}, "mse.weight=-1.0 must be a number from 0"),
        ({"terms": {"mse": {"weight": float("inf")}}}, "mse.weight=inf must be a number from 0"),
        (
            {"terms": {"infonce": {"weight": 1.0, "temperature": 0.0}}},
            "temperature=0.0 must be a number from 1e-06",
        ),
        ({"terms": {"mse": {"weight": 1.0}, "rollout_variance": {"weight": 1.0}}}, "not of a rollout"),
        ({"terms": {"mse": {"weight": 1.0}, "rollout_sparsity": {"weight": 1.0}}}, "not of a rollout"),
        ({"encoder": {"name": "table"}, "terms": {"sparsity": {"weight": 1.0}}}, "worldmodel/encoder=mlp"),
    ],
)
def test_a_mistake_is_named_with_its_fix(config, shapes, change, said):
    assert said in refused({**config, **change}, shapes)


def test_no_submodule_takes_the_place_of_a_public_name():
    package = import_module("worldmodel")
    for path in Path(package.__file__).parent.glob("*.py"):
        assert path.stem not in package.__all__


def test_importing_the_package_does_not_import_torch():
    code = "import sys, worldmodel; worldmodel.ModelError; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False).returncode
        == 0
    )


def test_nothing_is_imported_by_a_name_from_a_config(config, shapes):
    config["encoder"] = {"name": "torch.nn.Linear"}
    assert "choose one of" in refused(config, shapes)
    config["encoder"] = {"_target_": "os.system", "name": "mlp"}
    assert "no option" in refused(config, shapes)


def test_shapes_that_cannot_be_read_are_refused(config):
    assert "shapes must look like" in refused(config, {"observation": {"state": 3}})
    wrong = {
        "observation": {"state": {"shape": [3], "dtype": "int8"}},
        "action": {"kind": "discrete", "size": 2},
    }
    assert "int8" in refused(config, wrong)
    words = {"shape": [5000], "dtype": "uint8", "cardinalities": [2] * 5000}
    action = {"kind": "continuous", "size": 1}
    assert "5000 columns of words" in refused(config, {"observation": {"x": words}, "action": action})


def test_terms_and_weights_must_have_the_same_keys(make_objective):
    o = make_objective()
    with pytest.raises(ValueError, match="only in one of them: variance"):
        Objective(o.model, o.target, o.terms, {**o.weights, "variance": 1.0})


def test_a_seed_gives_the_same_weights_and_leaves_the_global_stream_alone(config, shapes):
    before = torch.get_rng_state()
    one, two = build_model(config, shapes, seed=3), build_model(config, shapes, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    other = build_model(config, shapes, seed=4)
    assert not torch.equal(one.action.linear.weight, other.action.linear.weight)


def count(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_the_paper_form_has_the_papers_parameter_counts():
    shapes = {
        "observation": {"pixels": {"shape": [3, 64, 64], "dtype": "uint8"}},
        "action": {"kind": "continuous", "size": 4},
    }
    config = {
        "encoder": {"name": "resnet18"},
        "action": {"name": "batchnorm", "width": 128},
        "aggregator": {"name": "bidirectional"},
        "predictor": {"name": "mlp", "hidden": [1024], "norm": "batch", "activation": "relu"},
        "target": {"name": "moving"},
        "views": {"name": "last_step"},
        "terms": {"cosine": {"weight": 1.0}},
    }
    objective = build(config, shapes)
    model = objective.model
    assert objective.views is last_step
    assert count(model.encoder) == 11_176_512
    assert count(ResNet18Encoder(shapes["observation"], stem="cifar")) == 11_168_832
    assert count(model.aggregator.layers) == 14_770_560
    assert count(model.aggregator.norm) == 1_280
    assert model.aggregator.summary.numel() == 640
    assert not model.aggregator.summary.any()
    assert count(model.predictor) == 1_313_280
    assert count(objective) == sum(p.numel() for p in objective.trainable()) == 27_262_784
