"""R16: frames are the sum of applied repeats, in environments, in the loop, in every file."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from agents.train import main as train
from tests.unit.envs.test_batched import counter, play


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.sampled_from(["truncate", "terminate"]))
def test_frames_are_the_sum_of_applied_repeats(repeat, length, end):
    """However episode length and repeat fall together, an episode has exactly `length` frames."""
    env = counter(1, repeat, length=length, end=end)
    decisions = -(-length // repeat)
    seen, _ = play(env, env.reset(), 2 * decisions)
    frames = [int(n["frames"][0, 0]) for _, n in seen]
    assert sum(frames[:decisions]) == sum(frames[decisions:]) == length
    assert frames[decisions - 1] == length - repeat * (decisions - 1)
    assert [bool(n["done"][0]) for _, n in seen] == ([False] * (decisions - 1) + [True]) * 2


def test_a_run_counts_what_its_episodes_add_up_to(tell, tmp_path):
    """Episodes of 17 frames, three frames a decision, two environments: 6 decisions each, the last of 2."""
    words = ("env=toy_point_mass", "trainer=debug", "logger.progress=off", "trainer.frames=340")
    more = ("env.time_limit=17", "env.action_repeat=3", "trainer.eval_every=0", f"run.dir={tmp_path / 'run'}")
    code, text = tell(train, *words, *more)
    assert code == 0, text
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    ends = [row for row in rows if "train/length" in row]
    assert all(row["train/length"] == 17 for row in ends)
    for number, row in enumerate(ends):
        assert row["decisions"] == 12 * (number // 2 + 1)
        assert row["frames"] == 34 * (number // 2 + 1)
