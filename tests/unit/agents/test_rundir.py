"""The run directory: found again, never shared, never outside its root, free of secrets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agents import checkpoint, rundir
from agents.cli import DiskError, UserError
from agents.provenance import describe_code, without_secrets
from agents.rundir import find_run, list_runs, open_run, read_record

HASH = "0123456789abcdef"
REPO = str(Path(__file__).parents[3])


def start(root, seed=0, config_hash=HASH, **options):
    return open_run(root, "dmc_walker", seed, config_hash, **options)


def test_the_same_command_resumes_and_another_seed_or_configuration_does_not(tmp_path):
    with start(tmp_path) as first:
        assert not first.resumed
    with start(tmp_path) as again:
        assert again.resumed
        assert again.path == first.path
    for other in (
        start(tmp_path, seed=1),
        start(tmp_path, config_hash="f" * 16),
        start(tmp_path, fresh=True),
    ):
        with other as run:
            assert not run.resumed
            assert run.path != first.path


def test_a_hash_that_agrees_only_in_its_name_is_another_run(tmp_path):
    with start(tmp_path) as first, start(tmp_path, config_hash=HASH[:8] + "x" * 8) as second:
        assert first.path != second.path


def test_the_newest_matching_run_is_resumed(tmp_path):
    start(tmp_path).close()
    with start(tmp_path, fresh=True) as second:
        pass
    with start(tmp_path) as again:
        assert again.path == second.path


def test_an_explicit_directory_is_used_resumed_and_protected(tmp_path):
    mine = tmp_path / "mine"
    with start(tmp_path, dir=mine, config={"env": {"id": "a"}, "seed": 0}) as run:
        assert run.path == mine
    with start(tmp_path, dir=mine) as run:
        assert run.resumed
    with pytest.raises(UserError, match="already holds a run"):
        start(tmp_path, dir=mine, fresh=True)
    with pytest.raises(UserError, match=r"env\.id: 'a' there, 'b' here"):
        start(tmp_path, dir=mine, config_hash="f" * 16, config={"env": {"id": "b"}, "seed": 0})
    with pytest.raises(UserError, match="seed: 0 there, 4 here"):
        start(tmp_path, dir=mine, seed=4, config={"env": {"id": "a"}, "seed": 4})
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"cat\.png"):
        start(tmp_path, dir=photos)
    assert os.listdir(photos) == ["cat.png"]
    with pytest.raises(UserError, match="is a file"):
        start(tmp_path, dir=photos / "cat.png")


def test_at_most_five_differences_are_shown(tmp_path):
    start(tmp_path, dir=tmp_path / "x", config={f"k{i}": 0 for i in range(9)}).close()
    with pytest.raises(UserError, match=r"k4: 0 there, 1 here\n    … and 4 more"):
        start(tmp_path, dir=tmp_path / "x", config_hash="f" * 16, config={f"k{i}": 1 for i in range(9)})


def test_differences_are_shown_as_they_are_typed(tmp_path):
    old, new = {"margin": None, "capture": True}, {"margin": 1.0, "capture": False}
    start(tmp_path, dir=tmp_path / "x", config=old).close()
    text = "capture: true there, false here\n    margin: null there, 1.0 here"
    with pytest.raises(UserError, match=text):
        start(tmp_path, dir=tmp_path / "x", config_hash="f" * 16, config=new)


def test_only_differences_that_matter_are_shown(tmp_path):
    old = {"agent": {"batch": 1}, "trainer": {"frames": 1}, "run": {"root": "a"}}
    new = {"agent": {"batch": 2, "hide": 0.0}, "trainer": {"frames": 2}, "run": {"root": "b"}}
    start(tmp_path, dir=tmp_path / "x", config=old).close()
    with pytest.raises(UserError, match=r"configuration:\n    agent\.batch: 1 there, 2 here\n  fix"):
        start(tmp_path, dir=tmp_path / "x", config_hash="f" * 16, config=new)


def test_a_start_that_died_before_its_record_is_completed(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / ".lock").write_bytes(b"pid 1\n")
    (tmp_path / "x" / ".tmp-run.json-1").write_bytes(b"{")
    with start(tmp_path, dir=tmp_path / "x") as run:
        assert not run.resumed
        assert read_record(run.path)["seed"] == 0


def test_a_directory_that_cannot_be_made_is_a_disk_error(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(DiskError, match=r"permission denied[\s\S]*run.root"):
        start(tmp_path)


def test_the_record_says_where_the_run_came_from_and_keeps_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "canary-env")
    config = {
        "logger": {"api_key": "canary-a", "nested": [{"hf_token": "canary-b"}]},
        "tokens": 4,
        "horizon": 3,
    }
    command = ["train.py", "logger.password=canary-c", "seed=3"]
    with start(tmp_path, config=config, command=command, device="cuda:0") as run:
        text = (run.path / "run.json").read_text()
    record = json.loads(text)
    assert "canary" not in text
    assert record["command"] == ["train.py", "logger.password=<removed>", "seed=3"]
    assert record["config"]["tokens"] == 4
    assert record["config"]["horizon"] == 3
    assert record["versions"]["torch"]
    assert record["device"] == "cuda:0"
    assert record["config_hash"] == HASH
    assert {"schema", "created", "code", "env"} <= set(record)


def test_secrets_are_recognised_by_their_key_alone():
    assert without_secrets({"apiKey": "x", "key": "x", "my.key": "x", "monkey": "x", "keyboard": "x"}) == {
        "monkey": "x",
        "keyboard": "x",
    }


def test_code_outside_git_is_described_as_none(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert describe_code() is None


def test_find_run_resolves_runs_checkpoints_and_last(tmp_path):
    with start(tmp_path) as run:
        for frames in (10, 20):
            checkpoint.save(run.checkpoints, frames, {}, {"state": {}})
    newest = run.checkpoints / "000000020"
    for text in (run.path, run.checkpoints, run.checkpoints / "last", newest, "last"):
        assert find_run(text, tmp_path) == (run.path, newest)
    older = run.checkpoints / "000000010"
    assert find_run(older, tmp_path).checkpoint == older
    (newest / "state.json").write_bytes(b"")
    assert find_run(run.path, tmp_path).checkpoint == older, "a damaged checkpoint is passed over"


def test_find_run_names_what_exists(tmp_path):
    with pytest.raises(UserError, match="no run under"):
        find_run("last", tmp_path)
    with start(tmp_path) as run:
        pass
    assert find_run(run.path, tmp_path).checkpoint is None
    with pytest.raises(UserError, match=run.path.name):
        find_run(tmp_path / "typo", tmp_path)
    with pytest.raises(UserError, match="neither a run directory nor a checkpoint"):
        find_run(tmp_path, tmp_path)


def test_last_is_the_run_that_wrote_last(tmp_path):
    with start(tmp_path) as first, start(tmp_path, seed=1) as second:
        pass
    os.utime(second.path / "run.json", (2_000_000_000, 2_000_000_000))
    assert list_runs(tmp_path)[0] == second.path
    (first.path / "metrics.jsonl").write_bytes(b"")
    os.utime(first.path / "metrics.jsonl", (2_000_000_001, 2_000_000_001))
    assert list_runs(tmp_path)[0] == first.path


def test_a_lock_does_not_outlive_its_owner_in_a_forked_worker(tmp_path):
    code = """
import os, sys
from agents.rundir import open_run
run = open_run(sys.argv[1], "dmc_walker", 0, "0123456789abcdef")
if os.fork() == 0:
    sys.stdin.read()  # an orphaned worker, alive until the test closes its pipe
    os._exit(0)
os.kill(os.getpid(), 9)
"""
    orphaned = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": REPO},
    )
    orphaned.wait()
    with start(tmp_path) as run:
        assert run.resumed
    assert orphaned.stdin is not None
    orphaned.stdin.close()


def test_the_module_stays_light():
    code = "import sys, agents.rundir, agents.logging; print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": REPO}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "False"
    assert rundir.RECORD == "run.json"
