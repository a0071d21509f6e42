"""The replay: windows stay inside one episode, sampling is uniform over transitions, a restore is exact."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from agents import chunks, durable
from agents.cli import DiskError, UserError
from agents.replay import forecast_bytes, make_replay
from agents.returns import rewarded_share
from agents.starts import BLOCK, FORGOTTEN, LEAST, pick

FIELDS = {"state": ((3,), "float32")}  # episode number, step in the episode, column


class Counter:
    """Play episodes that count: observe (episode, step, column); action and reward are the step."""

    def __init__(
        self, columns: int, lengths, restart: float = 0.0, seed: int = 0, death: float = 0.0
    ) -> None:
        self.columns, self.lengths, self.restart, self.death = columns, lengths, restart, death
        self.rng = np.random.default_rng(seed)
        self.episode, self.step = np.arange(columns), np.zeros(columns, int)
        self.length = np.array([self._draw() for _ in range(columns)])
        self.episodes = columns

    def _draw(self) -> int:
        return int(self.rng.choice(self.lengths))

    def collect(self, decisions: int) -> TensorDict:
        """Transitions, batch N T."""
        return torch.stack([self._decide() for _ in range(decisions)], 1)

    def _observe(self) -> torch.Tensor:
        return torch.tensor(
            np.stack([self.episode, self.step, np.arange(self.columns)], 1), dtype=torch.float32
        )

    def _decide(self) -> TensorDict:
        crashed = (
            self.rng.random(self.columns) < self.restart
        )  # a worker died: a new episode begins with no end
        done = (self.step == self.length) | (crashed & (self.step > 0))
        for column in np.flatnonzero(done):
            self.episode[column], self.step[column], self.length[column] = self.episodes, 0, self._draw()
            self.episodes += 1
        init, before = self.step == 0, self._observe()
        died = self.rng.random(self.columns) < self.death  # a decision of 0 frames that led nowhere
        self.step += ~died
        self.length[died] = self.step[died]
        over = torch.tensor(self.step == self.length).unsqueeze(1)
        even = torch.tensor(self.episode % 2 == 0).unsqueeze(1)
        step = torch.tensor(self.step, dtype=torch.float32).unsqueeze(1)
        after = {
            "state": self._observe(),
            "reward": step,
            "terminated": over & even,
            "truncated": over & ~even,
            "frames": torch.tensor(~died).unsqueeze(1).long() * 2,
        }
        root = {"state": before, "action": step, "is_init": torch.tensor(init).unsqueeze(1), "next": after}
        return TensorDict(root, batch_size=[self.columns])


def build(capacity=600, columns=3, window=4, batch=64, **options):
    return make_replay(FIELDS, 1, capacity=capacity, num_envs=columns, window=window, batch=batch, **options)


def assert_windows_are_episodes(batch: TensorDict) -> None:
    """Every row of a window comes from one episode and column, in order, with its action and reward."""
    episode, step, column = batch["state"].unbind(-1)
    valid, size = batch["valid"], batch["valid"].shape[1]
    assert (episode == episode[:, :1]).all()
    assert (column == column[:, :1]).all()
    count = valid.sum(1, keepdim=True)
    assert (valid == (torch.arange(size) < count)).all()
    expected = step[:, :1] + torch.minimum(torch.arange(size), count - 1)
    assert (step == expected).all()
    assert (batch["prev_action"][..., 0] == step).all()
    assert (batch["reward"] == step).all()
    assert (batch["is_first"] == (step == 0)).all()
    ends = batch["terminated"] | batch["truncated"]
    assert not ends[:, :-1][valid[:, 1:]].any(), "a transition leaves the end of an episode"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    columns=st.integers(1, 4),
    rows=st.integers(7, 40),
    window=st.integers(2, 6),
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    pieces=st.lists(st.integers(1, 25), min_size=1, max_size=6),
    restart=st.sampled_from([0.0, 0.1]),
    death=st.sampled_from([0.0, 0.0, 0.2]),
    seed=st.integers(0, 99),
)
def test_windows_never_leave_their_episode(columns, rows, window, lengths, pieces, restart, death, seed):
    replay = build(rows * columns, columns, window, batch=32, seed=seed)
    play = Counter(columns, lengths, restart, seed, death)
    for piece in pieces:
        replay.extend(play.collect(piece))
        batch = replay.sample()
        assert_windows_are_episodes(batch)
        if replay.ring.startable.any():
            assert batch["valid"][:, 1].all(), "every start has a transition"


def test_a_planted_boundary_bug_is_caught():
    replay, play = build(seed=1), Counter(3, [5, 9])
    replay.extend(play.collect(300))
    ring = replay.ring
    ring.key.copy_(torch.arange(ring.rows).repeat(3))  # keys that do not skip at an episode's start
    with pytest.raises(AssertionError):
        assert_windows_are_episodes(replay.sample(500))


def test_windows_survive_many_laps_of_the_ring():
    replay, play = build(120, 2, 5, batch=200), Counter(2, [3, 17, 40])
    for _ in range(40):
        replay.extend(play.collect(13))
        assert_windows_are_episodes(replay.sample())
    assert len(replay) == 120
    newest = play._observe()[0, :2]
    rows = replay.ring.fields["state"].view(2, 60, 3)[0, :, :2]
    assert (rows == newest).all(1).any(), "the newest observation is stored"


def test_every_transition_of_short_and_long_episodes_is_drawn_equally_often():
    replay, play = build(2000, 2, 3, batch=2000, seed=3), Counter(2, [1, 2, 200])
    replay.extend(play.collect(400))
    startable = replay.ring.startable
    assert 700 <= int(startable.sum()) <= 800  # one per stored decision
    counts = torch.zeros(len(startable))
    for _ in range(100):
        counts += torch.bincount(replay.sample()["index"][:, 0], minlength=len(startable))
    assert counts[~startable].sum() == 0
    drawn = counts[startable]
    chi_square = ((drawn - drawn.mean()) ** 2 / drawn.mean()).sum()
    freedom = len(drawn) - 1
    assert abs(chi_square - freedom) < 5 * (2 * freedom) ** 0.5


def test_the_last_transition_of_an_episode_starts_a_padded_window_that_holds_its_end():
    replay, play = build(400, 1, 4, batch=500), Counter(1, [5])
    replay.extend(play.collect(20))
    batch = replay.sample()
    last = batch[batch["valid"].sum(1) == 2]
    assert len(last)
    assert (last["state"][:, 1:, 1] == 5).all()  # the true final observation, then copies of it
    assert (last["terminated"] | last["truncated"])[:, 1:].all()
    even = last["state"][:, 0, 0] % 2 == 0
    assert (last["terminated"][:, 1] == even).all()
    assert (last["truncated"][:, 1] == ~even).all()


def test_first_rows_have_no_action_and_no_reward():
    replay, play = build(), Counter(3, [4])
    replay.extend(play.collect(20))
    batch = replay.sample()
    first = batch["is_first"]
    assert first.any()
    assert (batch["prev_action"][first] == 0).all()
    assert (batch["reward"][first] == 0).all()


def test_a_decision_of_a_dead_worker_is_no_transition():
    replay, play = build(3000), Counter(3, [20], death=0.2, seed=2)
    data = play.collect(200)
    replay.extend(data)
    taken = data["next", "frames"] > 0
    assert 0 < taken.sum() < taken.numel()
    assert replay.write_count == taken.sum()
    assert replay.total == taken.sum() + data["is_init"].sum()
    assert int(replay.ring.startable.sum()) == taken.sum()


def test_one_step_writes_equal_one_big_write():
    whole, single = build(), build()
    data = Counter(3, [4, 11], restart=0.05, death=0.05).collect(150)
    whole.extend(data)
    for step in data.unbind(1):
        single.extend(step)
    assert torch.equal(whole.ring.key, single.ring.key)
    assert torch.equal(whole.ring.fields["state"], single.ring.fields["state"])
    assert torch.equal(whole.ring.startable, single.ring.startable)
    assert whole.write_count == single.write_count


def test_pixels_stay_bytes_and_memmap_equals_ram(tmp_path):
    fields = {"pixels": ((3, 8, 8), "uint8")}
    data = Counter(2, [6]).collect(40)
    shots = torch.randint(256, (2, 41, 3, 8, 8), dtype=torch.uint8)
    for root, picked in ((data, shots[:, :-1]), (data["next"], shots[:, 1:])):
        root["pixels"] = picked
    batches = []
    for options in ({}, {"storage": "memmap", "dir": tmp_path}):
        replay = make_replay(fields, 1, capacity=200, num_envs=2, window=3, batch=16, **options)
        replay.extend(data)
        batches.append(replay.sample())
    assert batches[0]["pixels"].dtype == torch.uint8
    assert (batches[0] == batches[1]).all()


def test_priorities_set_the_frequencies():
    replay, play = build(400, 2, 3, batch=4000, sampler="prioritized", alpha=0.5), Counter(2, [10])
    replay.extend(play.collect(50))
    rows = replay.ring.startable.nonzero().flatten()
    replay.update_priority(rows, torch.ones(len(rows)))
    replay.update_priority(rows[:1], torch.tensor([100.0]))
    counts = torch.bincount(replay.sample()["index"][:, 0], minlength=400)
    expected = 4000 * 10 / (len(rows) - 1 + 10)
    assert abs(int(counts[rows[0]]) - expected) < 5 * expected**0.5
    assert counts[~replay.ring.startable].sum() == 0


def test_windows_say_how_much_they_were_preferred():
    replay, play = build(400, 2, 3, batch=4000, sampler="prioritized", alpha=0.5), Counter(2, [10])
    replay.extend(play.collect(50))
    rows = replay.ring.startable.nonzero().flatten()
    replay.update_priority(rows, torch.full((len(rows),), 4.0))
    replay.update_priority(rows[:1], torch.tensor([10_000.0]))
    batch = replay.sample()
    expected = torch.where(batch["index"][:, :1] == rows[0], 100.0, 2.0).expand(batch.shape)
    assert torch.equal(batch["weight"], expected)
    rewards = torch.zeros(400).index_fill_(0, rows[: len(rows) // 4], 1.0)  # a quarter of what can be drawn
    drawn = rewards[batch["index"][:, :1]]
    whole = torch.ones_like(drawn, dtype=torch.bool)
    share = rewarded_share(drawn, whole, batch["weight"][:, :1])
    assert share == pytest.approx(0.25, abs=0.03)
    assert drawn.mean() > 0.4


def test_windows_drawn_uniformly_are_not_preferred():
    replay, play = build(400, 2, 3), Counter(2, [10])
    replay.extend(play.collect(50))
    assert (replay.sample()["weight"] == 1).all()


def test_new_rows_get_the_highest_priority():
    replay, play = build(400, 2, 3, sampler="prioritized", alpha=1.0), Counter(2, [1000])
    replay.extend(play.collect(10))
    replay.update_priority(torch.tensor([0, 1]), torch.tensor([7.0, 0.5]))
    replay.extend(play.collect(5))
    assert replay.draw.weight[9] == 1
    assert (replay.draw.weight[10:15] == 7).all(), (
        "the previous newest row became startable, and so did the new ones"
    )
    assert replay.draw.weight[15] == 0


def test_where_nothing_is_wrong_old_rows_are_drawn_as_well_as_the_newest():
    replay, play = build(8000, 1, 3, batch=6400, sampler="prioritized"), Counter(1, [10**6])
    replay.extend(play.collect(2000))
    known = replay.ring.startable.nonzero().flatten()
    replay.update_priority(known, torch.zeros(len(known)))
    replay.extend(play.collect(1))
    fresh = int((replay.draw.weight == 1).sum())
    drawn = replay.sample()["index"][:, 0].unique(return_counts=True)[1]
    assert len(drawn) > 1500
    assert drawn.max() == pytest.approx(6400 / (fresh + (len(known) - fresh) * LEAST), rel=0.2)


@pytest.mark.parametrize("odd", [math.inf, math.nan])
def test_a_priority_that_is_no_number_leaves_the_others_as_they_are(odd):
    replay, play = build(400, 2, 3, batch=4000, sampler="prioritized"), Counter(2, [10])
    replay.extend(play.collect(50))
    rows = replay.ring.startable.nonzero().flatten()
    replay.update_priority(rows[:1], torch.tensor([odd]))
    assert replay.draw.weight.isfinite().all()
    assert len(replay.sample()["index"][:, 0].unique()) == len(rows)


def test_fade_halves_the_frequency_of_old_rows():
    fade = 0.5 ** (1 / 100)  # half after 100 decisions, that is 50 of each of the two columns
    replay, play = build(402, 2, 3, batch=20000, sampler="prioritized", fade=fade), Counter(2, [10**6])
    replay.extend(play.collect(350))  # wraps
    step = replay.sample()["state"][:, 0, 1]
    newer, older = ((step >= 300) & (step < 350)).sum(), ((step >= 250) & (step < 300)).sum()
    assert 1.85 < newer / older < 2.15


def test_rows_that_have_faded_are_not_drawn_and_cost_nothing():
    fade = 0.9
    replay, play = build(4000, 2, 3, batch=500, sampler="prioritized", fade=fade), Counter(2, [10**6])
    replay.extend(play.collect(300))
    step = replay.sample()["state"][:, 0, 1]
    assert step.max() == 299  # the newest that has a successor
    assert step.min() >= 300 - len(replay.draw.faded)
    assert len(replay.draw.faded) <= math.log(FORGOTTEN) / math.log(fade) / 2 + 1


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, 5 * BLOCK + 3])
def test_places_are_picked_as_from_one_running_sum(count):
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(count, generator=generator) * (torch.rand(count, generator=generator) < 0.3)
    weights[count // 2] = 1.0
    draws = torch.rand(5000, generator=generator, dtype=torch.float64)
    total = weights.double().cumsum(0)
    assert torch.equal(pick(weights, draws), torch.searchsorted(total, draws * total[-1], right=True))


@pytest.mark.parametrize("only", [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 3])
def test_a_place_without_weight_is_never_picked(only):
    weights = torch.zeros(3 * BLOCK)
    weights[only] = 0.1
    assert (pick(weights, torch.tensor([0.0, 1e-300, 0.5, 1.0], dtype=torch.float64)) == only).all()


@pytest.mark.parametrize("fade", [0.999, 1.0])
def test_restore_gives_the_same_storage_and_the_same_batches(tmp_path, fade):
    options = {"capacity": 300, "columns": 3, "sampler": "prioritized", "fade": fade}
    replay, play = build(**options), Counter(3, [3, 30])
    for _ in range(5):
        replay.extend(play.collect(37))
        batch = replay.sample()
        replay.update_priority(batch["index"], torch.rand(64))
        record = replay.flush(tmp_path)
    tensors = replay.state_tensors()
    again = build(**options, seed=9)
    again.restore(tmp_path, record, tensors)
    for name, field in replay.ring.state_dict().items():
        assert torch.equal(field, again.ring.state_dict()[name]), name
    more = play.collect(50)
    for one in (replay, again):
        one.extend(more)
    for _ in range(3):
        left, right = replay.sample(), again.sample()
        assert all(torch.equal(left[name], right[name]) for name in left.keys())  # noqa: SIM118 - a TensorDict
    first, second = tmp_path / "a", tmp_path / "b"
    assert replay.flush(first)["cursor"] == again.flush(second)["cursor"]


def test_rows_after_the_checkpoint_leave_no_trace(tmp_path):
    replay, play = build(), Counter(3, [8])
    replay.extend(play.collect(40))
    record = replay.flush(tmp_path)
    replay.extend(play.collect(40))
    replay.flush(tmp_path)  # the process dies here: its checkpoint never appears
    (tmp_path / ".tmp-half-1").write_bytes(b"half")
    again = build()
    again.restore(tmp_path, record)
    assert again.total == record["cursor"]
    again.extend(Counter(3, [5], seed=5).collect(30))
    newest = again.flush(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {entry["file"] for entry in newest["chunks"]}
    third = build()
    third.restore(tmp_path, newest)
    assert torch.equal(third.ring.key, again.ring.key)


def test_a_large_flush_is_split_and_restores(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "LIMIT", 1000)
    replay = build()
    replay.extend(Counter(3, [8]).collect(150))
    record = replay.flush(tmp_path)
    assert len(record["chunks"]) > 5
    again = build()
    again.restore(tmp_path, record)
    assert torch.equal(again.ring.fields["state"], replay.ring.fields["state"])
    assert torch.equal(again.ring.startable, replay.ring.startable)


def test_another_capacity_is_a_user_error_that_names_it(tmp_path):
    replay = build()
    replay.extend(Counter(3, [8]).collect(20))
    record = replay.flush(tmp_path)
    with pytest.raises(UserError, match=r"rows: saved 200, now 100[\s\S]*replay.capacity"):
        build(300).restore(tmp_path, record)


def test_prune_keeps_what_retained_checkpoints_need(tmp_path):
    replay, play, records = build(90), Counter(3, [8]), []
    for _ in range(8):
        replay.extend(play.collect(15))
        records.append(replay.flush(tmp_path))
    chunks.prune(tmp_path, [])
    assert len(chunks.listed(tmp_path)) == 8
    chunks.prune(tmp_path, records[-2:])
    assert len(chunks.listed(tmp_path)) < 8
    for record in records[-2:]:
        build(90).restore(tmp_path, record)
    assert len(records[-1]["chunks"]) <= 3


def test_the_forecast_is_what_the_ring_takes():
    replay = build(6000, sampler="prioritized")
    taken = sum(t.nbytes for t in [*replay.ring.fields.values(), replay.ring.key, replay.ring.startable])
    assert forecast_bytes(FIELDS, 1, 6000) == taken + replay.draw.weight.nbytes


def test_a_full_disk_is_reported_and_the_last_record_still_restores(tmp_path, monkeypatch):
    replay, play = build(), Counter(3, [8])
    replay.extend(play.collect(20))
    record = replay.flush(tmp_path)
    replay.extend(play.collect(20))

    def full(name: str) -> None:
        if name == "write":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "step", full)
    with pytest.raises(DiskError, match="disk is full"):
        replay.flush(tmp_path)
    again = build()
    again.restore(tmp_path, record)
    assert again.total == record["cursor"]
    monkeypatch.undo()
    assert replay.flush(tmp_path)["cursor"] == replay.total


def test_too_small_a_capacity_and_a_reserved_name_are_user_errors():
    with pytest.raises(UserError, match="window of 4"):
        build(9)
    with pytest.raises(UserError, match="reward"):
        make_replay({"reward": ((), "float32")}, 1, capacity=99, num_envs=1, window=2, batch=1)
    with pytest.raises(UserError, match="sampler"):
        build(sampler="best")


def test_a_collector_can_write_to_it():
    from torchrl.collectors import Collector
    from torchrl.envs.utils import RandomPolicy

    env = _counting_env()
    replay = build(600, 3)
    collector = Collector(
        env, RandomPolicy(env.full_action_spec), frames_per_batch=60, total_frames=180, replay_buffer=replay
    )
    for _ in collector:
        pass
    collector.shutdown()
    assert replay.write_count == 180
    step = replay.sample()["state"][..., 1]
    valid = replay.sample()["valid"]
    assert step.shape == valid.shape == (64, 4)
    assert (step.diff(dim=1) >= 0).all()


def _counting_env():
    from torchrl.data import Binary, Bounded, Composite, Unbounded
    from torchrl.envs import EnvBase

    class Counting(EnvBase):
        def __init__(self) -> None:
            super().__init__(batch_size=[3])
            self.observation_spec = Composite(
                state=Unbounded((3, 3)), is_init=Binary(shape=(3, 1), dtype=torch.bool), shape=[3]
            )
            self.action_spec = Bounded(-1, 1, (3, 1))
            self.reward_spec = Unbounded((3, 1))
            flag = Binary(shape=(3, 1), dtype=torch.bool)
            self.full_done_spec = Composite(
                done=flag, terminated=flag.clone(), truncated=flag.clone(), shape=[3]
            )
            self.count = torch.zeros(3)

        def _out(self, **extra) -> TensorDict:
            state = torch.stack([torch.zeros(3), self.count, torch.arange(3.0)], 1)
            flags = {
                name: torch.zeros(3, 1, dtype=torch.bool) for name in ("done", "terminated", "truncated")
            }
            return TensorDict({"state": state, **flags, **extra}, batch_size=[3])

        def _reset(self, tensordict=None, **options):
            self.count = torch.zeros(3)
            return self._out(is_init=torch.ones(3, 1, dtype=torch.bool))

        def _step(self, tensordict):
            self.count = self.count + 1
            return self._out(reward=torch.ones(3, 1), is_init=torch.zeros(3, 1, dtype=torch.bool))

        def _set_seed(self, seed):
            return None

    return Counting()
