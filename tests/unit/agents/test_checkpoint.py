"""Checkpoints: old or new after any crash, every damage noticed, nothing but plain files of ours accepted."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from agents import checkpoint, durable
from agents.cli import DiskError
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


@pytest.mark.parametrize("again", [10, 20])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_an_error_at_every_point_of_a_save_leaves_the_old_or_the_new_state(
    tmp_path, monkeypatch, again, error
):
    """Also for the save that replaces an existing directory (again == 10)."""
    monkeypatch.setattr(durable, "step", lambda name: names.append(name))
    names: list[str] = []
    put(tmp_path / "count", 10)
    put(tmp_path / "count", again)
    total = len(names)
    assert {"write", "fsync", "rename", "link"} <= set(names)
    for point in range(total // 2, total):
        root = tmp_path / str(point)
        monkeypatch.setattr(durable, "step", lambda name: None)
        put(root, 10)
        strike_at(monkeypatch, point - total // 2, OSError(error, os.strerror(error)))
        with pytest.raises(DiskError) as caught:
            put(root, again)
        assert caught.value.exit_code == 74
        assert str(root) in str(caught.value)
        assert "fix:" in str(caught.value)
        monkeypatch.setattr(durable, "step", lambda name: None)
        assert frames_of(checkpoint.load_latest(root, fail)) in (10, again)
        put(root, 30)
        leftovers = [name for name in os.listdir(root) if not name.isdigit()]
        assert leftovers == ["last"]


def strike_at(monkeypatch, point, error):
    """Raise at the given step and at none after it."""
    left = [point]

    def step(name: str) -> None:
        left[0] -= 1
        if left[0] == -1:
            raise error

    monkeypatch.setattr(durable, "step", step)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from agents import checkpoint, durable
root = Path(sys.argv[1])
def put(where, frames):
    tensors = {"weights": {"w": torch.full((8,), float(frames))}, "optim": {"m": torch.tensor(frames)}}
    checkpoint.save(where, frames, tensors, {"state": {"frames": frames}}, keep=2)
point = 0
while True:
    where = root / str(point)
    for frames in (10, 20, 30):
        put(where, frames)
    child = os.fork()
    if child == 0:
        left = [point]
        def step(name):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        durable.step = step
        put(where, 40)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
    point += 1
print(point)
"""


def test_sigkill_at_every_point_of_a_save_leaves_the_old_or_the_new_state(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    points = int(done.stdout)
    assert points >= 15
    outcomes = set()
    for point in range(points):
        outcomes.add(frames_of(checkpoint.load_latest(tmp_path / str(point), fail)))
        put(tmp_path / str(point), 50, keep=2)
        assert sorted(os.listdir(tmp_path / str(point)))[-1] == "last"
        assert not list((tmp_path / str(point)).glob(".*"))
    assert outcomes == {30, 40}


def test_a_thousand_flips_and_a_hundred_cuts_are_all_noticed(tmp_path):
    path = put(tmp_path, 10)
    rng = np.random.default_rng(0)
    files = sorted(path.iterdir())
    for trial in range(1100):
        victim = files[rng.integers(len(files))]
        good = victim.read_bytes()
        if trial < 1000:
            bad = bytearray(good)
            bad[rng.integers(len(bad))] ^= 1 << int(rng.integers(8))
            victim.write_bytes(bad)
        else:
            victim.write_bytes(good[: rng.integers(len(good))])
        with pytest.raises(CorruptError):
            checkpoint.load(path)
        victim.write_bytes(good)
    assert frames_of(checkpoint.load(path)) == 10


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


def seal(path: Path, files: dict) -> None:
    """Give a directory the manifest an attacker would: consistent with itself."""
    document = {"schema": 1, "frames": 1, "files": files}
    document["sha256"] = durable.digest(durable.canonical(document))
    (path / "manifest.json").write_bytes(durable.canonical(document))


def entry(data: bytes) -> dict:
    """A manifest entry."""
    return {"size": len(data), "sha256": durable.digest(data)}


def header(content: dict) -> bytes:
    """A safetensors file with this header and 8 bytes of data."""
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text + bytes(8)


def tensor(first: int, last: int, shape: list[int], dtype: str = "F32") -> dict:
    """A tensor in a safetensors header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


HOSTILE = {
    "pickle": ("weights.safetensors", b"\x80\x04\x95\x1a\x00\x00\x00cos\nsystem\n(S'touch /tmp/owned'\ntR."),
    "empty": ("weights.safetensors", b""),
    "huge_header": ("weights.safetensors", (10**12).to_bytes(8, "little") + b"{}"),
    "overlap": ("weights.safetensors", header({"a": tensor(0, 8, [2]), "b": tensor(4, 8, [1])})),
    "past_the_end": ("weights.safetensors", header({"a": tensor(0, 10**12, [10**12 // 4])})),
    "wrong_shape": ("weights.safetensors", header({"a": tensor(0, 8, [3])})),
    "overflow_shape": ("weights.safetensors", header({"a": tensor(0, 8, [2**62, 2**62])})),
    "unknown_dtype": ("weights.safetensors", header({"a": tensor(0, 8, [2], "X99")})),
    "header_not_json": ("weights.safetensors", (4).to_bytes(8, "little") + b"\xff\xff\xff\xff"),
    "deep_header": ("weights.safetensors", (200_000).to_bytes(8, "little") + b"[" * 200_000),
    "zip": ("weights.safetensors", b"PK\x03\x04" + bytes(60)),
    "deep_json": ("state.json", b"[" * 200_000),
    "long_number": ("state.json", b"9" * 100_000),
    "not_json": ("state.json", b"!!python/object:os.system"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path, name):
    file, data = HOSTILE[name]
    (tmp_path / file).write_bytes(data)
    seal(tmp_path, {file: entry(data)})
    with pytest.raises(CorruptError):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    "file", ["../state.json", "/etc/state.json", "a/b.json", "state.pkl", ".json", "x\n.json"]
)
def test_file_names_that_are_not_ours_are_refused(tmp_path, file):
    seal(tmp_path, {file: entry(b"{}")})
    with pytest.raises(CorruptError):
        checkpoint.load(tmp_path)


def test_links_directories_pipes_and_extra_files_are_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"{}")
    makers = {
        "link": lambda path: path.symlink_to(secret),
        "directory": lambda path: path.mkdir(),
        "pipe": lambda path: os.mkfifo(path),
    }
    for kind, make in makers.items():
        where = tmp_path / kind
        where.mkdir()
        make(where / "state.json")
        seal(where, {"state.json": entry(b"{}")})
        with pytest.raises(CorruptError):
            checkpoint.load(where)
    extra = put(tmp_path / "root", 10)
    (extra / "more.json").write_bytes(b"{}")
    with pytest.raises(CorruptError, match=r"more\.json"):
        checkpoint.load(extra)


def test_a_sparse_terabyte_is_refused_unread(tmp_path):
    with open(tmp_path / "weights.safetensors", "wb") as file:
        file.truncate(2**40)
    seal(tmp_path, {"weights.safetensors": {"size": 2**40, "sha256": "0" * 64}})
    with pytest.raises(CorruptError, match="free memory"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    "manifest", [b"", b"[]", b"{}", b"NaN", b'{"schema":1,"files":{"a.json":NaN}}', b"[" * 10**5]
)
def test_odd_manifests_are_refused(tmp_path, manifest):
    (tmp_path / "manifest.json").write_bytes(manifest)
    with pytest.raises(CorruptError):
        checkpoint.load(tmp_path)


def test_a_real_file_size_limit_keeps_the_last_good_checkpoint(tmp_path):
    import resource

    put(tmp_path, 10)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old[1]))
        with pytest.raises(DiskError, match="bytes needed"):
            checkpoint.save(tmp_path, 20, {"weights": {"w": torch.zeros(10_000)}}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, before)
    assert sorted(os.listdir(tmp_path)) == ["000000010", "last"]
    assert frames_of(checkpoint.load_latest(tmp_path, fail)) == 10


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
