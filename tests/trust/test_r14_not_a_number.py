"""R14: NaN and infinity are found within one update, never saved, and what led to them is seen again."""

import json

import pytest
import torch

from agents import checkpoint
from agents.actor_critic import ActorCritic
from agents.reproduce import main as reproduce
from agents.train import main as train
from tests.e2e.conftest import TOY

RUN = (*TOY, "trainer.frames=400", "trainer.checkpoint_every=100", "trainer.eval_every=0")
NAN, INF = float("nan"), float("inf")


def nothing_bad_is_saved(run):
    for path in checkpoint.retained(run / "checkpoints"):
        for name, value in checkpoint.load(path).tensors["weights"].items():
            assert value.isfinite().all(), (path, name)


def broken_at(monkeypatch, update, breaks):
    """From this update on, `breaks` is called with the agent and the batch before it is taken."""
    plain, count = ActorCritic.update, [0]

    def broken(self, batch):
        count[0] += 1
        if count[0] >= update:
            breaks(self, batch)
        return plain(self, batch)

    monkeypatch.setattr(ActorCritic, "update", broken)
    return count


def a_weight(agent, batch):
    with torch.no_grad():
        next(agent.policy.parameters()).view(-1)[0] = NAN


def a_reward(agent, batch):
    batch["reward"][0] = INF


def an_observation(agent, batch):
    batch["state"][0, 0] = NAN


@pytest.mark.parametrize(
    ("breaks", "begins"),
    [
        (a_weight, "the weights, policy."),
        (a_reward, "the batch, reward"),
        (an_observation, "the batch, state"),
    ],
)
def test_a_bad_number_stops_the_run_in_its_update_and_its_bundle_shows_it_again(
    tell, monkeypatch, tmp_path, breaks, begins
):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        count = broken_at(patch, 60, breaks)
        code, text = tell(train, *RUN, f"run.dir={run}")
        assert code == 2
        assert count[0] == 60
    assert "update 60, at " in text
    assert "not finite" in text
    nothing_bad_is_saved(run)
    frames = max(int(line["frames"]) for line in map(json.loads, (run / "metrics.jsonl").open()))
    assert frames - int(checkpoint.retained(run / "checkpoints")[0].name) <= 100
    code, text = tell(reproduce, f"run={run}")
    assert code == 0
    assert f"begins in: {begins}" in text
    # And from the last checkpoint the run goes on as if nothing had been.
    assert tell(train, *RUN, f"run.dir={run}")[0] == 0


def test_a_bad_gradient_is_as_bad_as_a_bad_loss(tell, monkeypatch, tmp_path):
    def breaks(agent, batch):
        next(agent.critic.parameters()).register_hook(lambda gradient: gradient * NAN)

    with monkeypatch.context() as patch:
        broken_at(patch, 60, breaks)
        code, text = tell(train, *RUN, f"run.dir={tmp_path / 'run'}")
    assert code == 2
    assert "grad/critic" in text
    nothing_bad_is_saved(tmp_path / "run")
    assert tell(reproduce, f"run={tmp_path / 'run'}")[0] == 1  # the cause was in no weight and in no batch


def test_numbers_that_are_seen_late_are_never_saved(tell, monkeypatch, tmp_path):
    """As on a GPU, where the update does not look: the metrics do, and so does the checkpoint."""
    monkeypatch.setattr("agents.actor_critic.odd", lambda numbers: [])
    with monkeypatch.context() as patch:
        broken_at(patch, 60, a_reward)
        code, text = tell(train, *RUN, f"run.dir={tmp_path / 'run'}")
        assert code == 2
        assert "by update 60" in text
        patch.setattr("agents.crash.WATCHED", ("nothing",))
        code, text = tell(train, *RUN, f"run.dir={tmp_path / 'second'}")
    assert code == 2
    assert "were not saved" in text
    nothing_bad_is_saved(tmp_path / "run")
    nothing_bad_is_saved(tmp_path / "second")


def test_a_run_without_a_failed_update_has_nothing_to_show(tell, finished):
    code, text = tell(reproduce, f"run={finished}")
    assert code == 2
    assert "keeps no failed update" in text


def test_a_nan_observation_ends_the_run_with_its_place(tell, tmp_path):
    code, text = tell(train, "env=toy_nan_obs", "trainer=debug", f"run.root={tmp_path}")
    assert code == 2
    assert "environment 0, episode 0, decision 5: observation 'state' is NaN" in text
    assert "fix the simulator" in text


def test_a_nan_in_evaluation_ends_it_too(tell, tmp_path):
    # Never due in training: the two environments there are numbers 0 and 1, the third evaluation episode 2.
    third = ("env.kwargs.only_index=2", "trainer.eval_episodes=3", "trainer.frames=40")
    code, text = tell(train, "env=toy_nan_obs", "trainer=debug", *third, f"run.root={tmp_path}")
    assert code == 2
    assert "environment 2, after 5 frames" in text
