"""R13: what a replay will take is known within 5 % before it is made, and what cannot fit is refused."""

import gc
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from tensordict import TensorDict

from agents import durable
from agents.cli import UserError
from agents.replay import check_room, forecast_bytes, make_replay

ROOT = Path(__file__).parents[2]
CONFIGS = {
    "walker": ({"state": ((24,), "float32")}, 6, 1_000_000, "uniform"),
    "walker, prioritised": ({"state": ((24,), "float32")}, 6, 1_000_000, "prioritized"),
    "a wide state": ({"state": ((223,), "float32")}, 38, 140_000, "uniform"),
    "small pictures": ({"pixels": ((3, 32, 32), "uint8")}, 1, 40_000, "uniform"),
    "pictures": ({"pixels": ((3, 64, 64), "uint8")}, 2, 10_000, "uniform"),
    "both": ({"pixels": ((3, 64, 64), "uint8"), "state": ((24,), "float32")}, 6, 10_000, "prioritized"),
}


def fill(replay, fields, actions, rows):
    """Write as many rows as it holds, in pieces."""
    kinds = {"float32": torch.float32, "uint8": torch.uint8}
    piece = 50 if "pixels" in fields else 1000  # small beside what is measured
    row = {key: torch.ones(1, piece, *shape, dtype=kinds[kind]) for key, (shape, kind) in fields.items()}
    ends = {name: torch.zeros(1, piece, 1, dtype=torch.bool) for name in ("terminated", "truncated", "done")}
    following = row | ends | {"reward": torch.zeros(1, piece, 1), "frames": torch.ones(1, piece, 1).long()}
    step = row | {
        "action": torch.zeros(1, piece, actions),
        "is_init": torch.zeros(1, piece, 1, dtype=torch.bool),
        "next": TensorDict(following, [1, piece]),
    }
    for _ in range(-(-rows // piece)):
        replay.extend(TensorDict(step, [1, piece]))


def measured(name):
    """Bytes that a replay takes once it is full; call it in a process that does nothing else."""
    fields, actions, rows, sampler = CONFIGS[name]
    process = psutil.Process()
    fill(make_replay(fields, actions, capacity=1500, num_envs=1, window=4, batch=8), fields, actions, 1500)
    gc.collect()
    before = process.memory_info().rss
    replay = make_replay(fields, actions, capacity=rows, num_envs=1, window=4, batch=8, sampler=sampler)
    fill(replay, fields, actions, rows)
    gc.collect()
    return process.memory_info().rss - before


@pytest.mark.parametrize(
    "name", [name if name == "pictures" else pytest.param(name, marks=pytest.mark.long) for name in CONFIGS]
)
def test_memory_taken_is_memory_forecast(name):
    fields, actions, rows, _ = CONFIGS[name]
    expected = forecast_bytes(fields, actions, rows)
    assert expected > 100e6  # or what else a process allocates would count
    code = f"from {__name__} import measured; print(measured({name!r}))"
    options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 120, "check": True}
    taken = int(subprocess.run([sys.executable, "-c", code], **options).stdout)
    assert abs(taken - expected) < 0.05 * expected, (taken, expected)


def test_more_than_four_fifths_of_what_is_free_is_refused(monkeypatch, tmp_path):
    fields = {"pixels": ((3, 64, 64), "uint8")}
    monkeypatch.setattr(durable, "available_memory", lambda: 2**30)
    with pytest.raises(UserError, match=r"replay\.capacity=(\d+) or less") as caught:
        check_room(fields, 6, 10**6)
    fits = int(str(caught.value).rpartition("replay.capacity=")[2].split()[0])
    check_room(fields, 6, fits)
    assert forecast_bytes(fields, 6, fits) <= 0.8 * 2**30 < forecast_bytes(fields, 6, fits + 1)
    monkeypatch.setattr(durable, "free_bytes", lambda path: 10**6)
    with pytest.raises(UserError, match="disk at"):
        check_room(fields, 6, 1000, dir=tmp_path)
