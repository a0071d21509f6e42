"""Checkpoints: old or new after any crash, every damage noticed, nothing but plain files of ours accepted."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from agents import checkpoint, durable
from agents.durable import CorruptError


def put(root: Path, frames: int, keep: int = 3) -> Path:
    """A checkpoint whose every value is its frame count."""
    tensors = {"weights": {"w": torch.full((8,), float(frames))}, "optim": {"m": torch.tensor(frames)}}
    return checkpoint.save(root, frames, tensors, {"state": {"frames": frames}}, keep=keep)


def frames_of(found: checkpoint.Checkpoint | None) -> int:
    """The frame count, agreed on by every file."""
    assert found is not None
    values = {int(found.tensors["weights"]["w"][3]), int(found.tensors["optim"]["m"])}
    assert values == {found.documents["state"]["frames"]}
    return values.pop()


def fail(path, error):
    raise AssertionError(f"{path} is bad: {error}")


def test_what_was_saved_is_loaded(tmp_path):
    path = put(tmp_path, 10000)
    assert path.name == "000010000"
    assert frames_of(checkpoint.load(tmp_path / "last")) == 10000
    assert set(os.listdir(path)) == {
        "weights.safetensors",
        "optim.safetensors",
        "state.json",
        "manifest.json",
    }
    assert checkpoint.load(path, only=["state"]).tensors == {}


def test_old_checkpoints_are_pruned_and_last_follows(tmp_path):
    for frames in (10, 20, 30, 40, 50):
        put(tmp_path, frames)
    assert [int(path.name) for path in checkpoint.retained(tmp_path)] == [50, 40, 30]
    assert (tmp_path / "last").resolve().name == "000000050"
    assert checkpoint.latest(tmp_path) == tmp_path / "000000050"


def test_pruning_spares_the_newest_two_good_ones(tmp_path):
    for frames in (10, 20, 30):
        put(tmp_path, frames)
    for frames in (20, 30):
        (tmp_path / f"{frames:09d}" / "state.json").write_bytes(b"")
    put(tmp_path, 40, keep=1)
    assert checkpoint.is_good(tmp_path / "000000010")


def test_saving_the_same_frames_again_replaces(tmp_path):
    put(tmp_path, 10)
    checkpoint.save(tmp_path, 10, {}, {"state": {"frames": "new"}})
    assert checkpoint.load(tmp_path / "last").documents == {"state": {"frames": "new"}}
    assert sorted(os.listdir(tmp_path)) == ["000000010", "last"]


def test_a_bad_checkpoint_is_reported_and_the_previous_one_is_used(tmp_path):
    put(tmp_path, 10)
    broken = put(tmp_path, 20) / "weights.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1])
    reports = []
    found = checkpoint.load_latest(tmp_path, lambda path, error: reports.append((path.name, str(error))))
    assert frames_of(found) == 10
    assert reports[0][0] == "000000020"
    assert "weights.safetensors" in reports[0][1]
    assert "fix:" in reports[0][1]
    assert checkpoint.latest(tmp_path).name == "000000010"


def test_a_checkpoint_whose_use_fails_counts_as_bad(tmp_path):
    put(tmp_path, 10)
    put(tmp_path, 20)

    def use(found):
        if found.documents["state"]["frames"] == 20:
            raise CorruptError("a replay chunk is gone")

    assert frames_of(checkpoint.load_latest(tmp_path, lambda path, error: None, use=use)) == 10


def test_nothing_saved_is_none_but_nothing_readable_is_an_error(tmp_path):
    assert checkpoint.load_latest(tmp_path / "none", fail) is None
    (put(tmp_path, 10) / "state.json").unlink()
    with pytest.raises(CorruptError, match="no checkpoint under"):
        checkpoint.load_latest(tmp_path, lambda path, error: None)


def test_newer_checkpoints_can_be_dropped(tmp_path):
    for frames in (10, 20, 30):
        put(tmp_path, frames)
    checkpoint.drop_after(tmp_path, 10)
    assert [int(path.name) for path in checkpoint.retained(tmp_path)] == [10]


def test_optimiser_and_generator_state_round_trip_exactly():
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    generator = torch.Generator().manual_seed(3)
    state = {
        "optim": optimiser.state_dict(),
        "rng": generator.get_state(),
        "numpy": np.random.default_rng(0).bit_generator.state,
        "odd": [1, 2.5, True, None, "x", (1, [2]), float("inf"), float("-inf"), {3: {"a": {}}}, 0.1 + 0.2],
        "arrays": [np.array([1, 2**64 - 1], np.uint64), np.array(3, np.uint32), np.ones((2, 1), np.float32)],
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
    }
    tensors, tree = checkpoint.flatten_state(state)
    stored = durable.parse_tensors(Path("x"), durable.dump_tensors(tensors))
    again = checkpoint.unflatten_state(stored, json.loads(durable.canonical(tree)))
    assert same(again, state)
    other = torch.optim.AdamW(model.parameters(), lr=1.0)
    other.load_state_dict(again["optim"])
    assert same(other.state_dict(), optimiser.state_dict())


def test_state_that_json_would_change_is_refused():
    with pytest.raises(TypeError, match="set"):
        checkpoint.flatten_state({"a": {1, 2}})
    with pytest.raises(TypeError, match="keys"):
        checkpoint.flatten_state({1.5: 2})


def test_tied_weights_are_stored_apart(tmp_path):
    weight = torch.arange(4.0)
    checkpoint.save(tmp_path, 1, {"weights": {"a": weight, "b": weight, "c": weight[1:]}}, {})
    loaded = checkpoint.load(tmp_path / "last").tensors["weights"]
    assert torch.equal(loaded["a"], loaded["b"])
    assert torch.equal(loaded["c"], weight[1:])


def same(left, right) -> bool:
    """Equal in value, type and dtype."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and (left == right).all()
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right
