"""R9: a disk that fills up costs no checkpoint: exit code 74, a fix, no half file; the run goes on later."""

import errno
import os
import resource
import signal

import pytest
import torch

from agents import checkpoint, durable, rundir
from agents.cli import DiskError
from agents.train import main as train
from tests.e2e.conftest import LONGER, TOY, last_wins
from tests.unit.agents.test_checkpoint import fail, frames_of, put


@pytest.mark.parametrize("place", ["checkpoints", "replay"])
def test_a_disk_that_fills_up_leaves_the_last_checkpoint_and_the_run_goes_on_later(
    tell, copied, monkeypatch, place
):
    before = checkpoint.load(copied / "checkpoints" / "last")
    write = durable.write_file

    def full(path, data):
        if place in path.parts:
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "write_file", full)
        code, text = tell(train, *LONGER, f"run.dir={copied}")
    assert code == 74
    assert "the disk is full" in text
    assert "free some space" in text
    after = checkpoint.load(copied / "checkpoints" / "last")
    assert after.path == before.path
    assert after.documents == before.documents
    code, text = tell(train, *LONGER, f"run.dir={copied}")
    assert code == 0
    assert "resuming" in text


def test_a_metrics_log_that_cannot_grow_is_a_disk_error(tell, monkeypatch, tmp_path):
    monkeypatch.setattr(rundir, "describe_code", dict)  # would be larger than the limit
    late = ("trainer.warmup_frames=4000", "trainer.frames=4000", "trainer.log_every=2")
    quiet = ("trainer.eval_every=0", "trainer.checkpoint_every=0")
    _, hard = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        code, text = tell(train, *last_wins(*TOY, *late, *quiet), f"run.dir={tmp_path / 'run'}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 74
    assert "allowed file size" in text
    assert "free some space" in text


def test_a_real_file_size_limit_keeps_the_last_good_checkpoint(tmp_path):
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
