"""R10: flipped bits and cut files are noticed, every one, and the checkpoint before takes over."""

import signal

import numpy as np
import pytest

from agents import checkpoint
from agents.durable import CorruptError
from agents.evaluate import main as evaluate
from agents.train import main as train
from tests.e2e.conftest import LONGER
from tests.e2e.runner import fingerprint
from tests.trust.conftest import RUN
from tests.unit.agents.test_checkpoint import frames_of, put
from tests.unit.agents.test_replay import Counter, build


def damaged(good, rng, trial):
    """A flipped bit in the first thousand trials, a cut in those after."""
    if trial >= 1000:
        return good[: rng.integers(len(good))]
    bad = bytearray(good)
    bad[rng.integers(len(bad))] ^= 1 << int(rng.integers(8))
    return bytes(bad)


def test_a_thousand_flips_and_a_hundred_cuts_are_all_noticed(tmp_path):
    path = put(tmp_path, 10)
    rng = np.random.default_rng(0)
    files = sorted(path.iterdir())
    for trial in range(1100):
        victim = files[rng.integers(len(files))]
        good = victim.read_bytes()
        victim.write_bytes(damaged(good, rng, trial))
        with pytest.raises(CorruptError):
            checkpoint.load(path)
        victim.write_bytes(good)
    assert frames_of(checkpoint.load(path)) == 10


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_corrupt_checkpoints_are_refused_before_anything_is_lost(tell, copied):
    for weights in copied.glob("checkpoints/0*/weights.safetensors"):
        flip(weights)
    kept = sorted(path.name for path in (copied / "checkpoints").iterdir())
    code, text = tell(train, *LONGER, f"run.dir={copied}")
    assert code == 2
    assert "weights.safetensors does not match its recorded SHA-256" in text
    assert "run.fresh=true" in text
    assert sorted(path.name for path in (copied / "checkpoints").iterdir()) == kept
    code, text = tell(evaluate, f"run={copied}")
    assert code == 2
    assert "damaged" in text


@pytest.mark.parametrize("what", ["checkpoint", "replay chunk"])
def test_damage_to_the_newest_falls_back_to_the_checkpoint_before(tell, copied, what):
    if what == "checkpoint":
        flip(copied / "checkpoints" / "000000400" / "weights.safetensors")
    else:
        flip(max(copied.glob("replay/*.safetensors")))
    if what == "checkpoint":
        code, text = tell(evaluate, f"run={copied}")
        assert code == 0
        assert "000000400 is damaged; this is 000000300" in text
    code, text = tell(train, *LONGER, f"run.dir={copied}")
    assert code == 0
    assert "going back to the checkpoint before 000000400" in text
    assert "at 300 frames" in text


def test_a_flipped_bit_in_the_newest_checkpoint_falls_back_to_the_one_before(runner, undisturbed, tmp_path):
    expected, seconds = undisturbed
    run = tmp_path / "run"
    runner.train(*RUN, f"run.dir={run}", kill_after=0.8 * seconds, sig=signal.SIGTERM)
    flip(run / "checkpoints" / "last" / "weights.safetensors")
    assert runner.train(*RUN, f"run.dir={run}")["code"] == 0
    assert "weights.safetensors" in runner.log.read_text()
    assert fingerprint(run) == expected


def test_a_thousand_flips_and_a_hundred_cuts_of_replay_chunks_are_all_noticed(tmp_path):
    replay = build()
    replay.extend(Counter(3, [8]).collect(20))
    record = replay.flush(tmp_path)
    path = tmp_path / record["chunks"][0]["file"]
    good, rng = path.read_bytes(), np.random.default_rng(0)
    for trial in range(1100):
        path.write_bytes(damaged(good, rng, trial))
        with pytest.raises(CorruptError):
            replay.restore(tmp_path, record)
    path.unlink()
    with pytest.raises(CorruptError):
        replay.restore(tmp_path, record)
