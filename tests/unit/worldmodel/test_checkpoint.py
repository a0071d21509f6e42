"""A saved model comes back exactly, or not at all."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from worldmodel import ModelError, load, save


@pytest.fixture
def model(make_objective, make_batch):
    encoder = {"name": "mlp", "hidden": [16], "latent": 16, "scaling": "running"}
    model = make_objective(encoder=encoder).model
    model.observe(make_batch())
    return model


def test_a_saved_model_comes_back_exactly(model, make_batch, tmp_path):
    again = load(save(model, tmp_path / "world"))
    assert not again.training
    mine, theirs = model.eval().state_dict(), again.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(
        torch.equal(mine[name], theirs[name]) and mine[name].dtype == theirs[name].dtype for name in mine
    )
    batch = make_batch()
    z = model.encode(batch)
    assert torch.equal(z, again.encode(batch))
    action = batch["prev_action"]
    assert torch.equal(model.aggregate(z, action)[0], again.aggregate(z, action)[0])
    assert torch.equal(model.predict(z, action).latent, again.predict(z, action).latent)
    assert again.aggregate(z, action, cache=again.start(3))[0].requires_grad


def test_the_world_model_is_found_in_a_run_among_other_weights(model, tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    save(model, checkpoints / "000001000")
    weights = checkpoints / "000001000" / "weights.safetensors"
    save_file({**load_file(weights), "actor.weight": torch.ones(3), "target.step": torch.ones(1)}, weights)
    (checkpoints / "000001000" / "manifest.json").unlink()
    (checkpoints / "last").symlink_to("000001000")
    for path in (tmp_path / "run", checkpoints, checkpoints / "last"):
        assert torch.equal(load(path).action.linear.weight, model.action.linear.weight)


def test_a_flipped_bit_is_noticed(model, tmp_path):
    path = save(model, tmp_path / "world")
    for name in ("weights.safetensors", "worldmodel.json"):
        good = (path / name).read_bytes()
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 1
        (path / name).write_bytes(bad)
        with pytest.raises(ModelError, match="damaged"):
            load(path)
        (path / name).write_bytes(good)
    load(path)


def test_weights_of_another_shape_are_refused_before_anything_is_allocated(model, tmp_path):
    path = save(model, tmp_path / "world")
    (path / "manifest.json").unlink()
    document = json.loads((path / "worldmodel.json").read_text())
    document["config"]["encoder"]["hidden"] = [65536, 65536]
    (path / "worldmodel.json").write_text(json.dumps(document))
    with pytest.raises(ModelError, match=r"has shape|different tensors"):
        load(path)


def test_a_device_that_is_not_here_is_named(model, tmp_path):
    path = save(model, tmp_path / "world")
    with pytest.raises(ModelError, match="is no device"):
        load(path, device="foo")
    with pytest.raises(ModelError, match="torch sees"):
        load(path, device="cuda:63")


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 99}', '{"schema": 1}', "[" * 100000])
def test_a_document_that_is_not_ours_is_refused(model, tmp_path, text):
    path = save(model, tmp_path / "world")
    (path / "manifest.json").unlink()
    (path / "worldmodel.json").write_text(text)
    with pytest.raises(ModelError):
        load(path)


def test_missing_paths_and_existing_targets_are_refused(model, tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="run directory with a checkpoint"):
        load(tmp_path)
    with pytest.raises(ModelError, match="exists already"):
        save(model, tmp_path)
