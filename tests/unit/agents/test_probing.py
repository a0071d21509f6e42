"""Episodes are recorded as they were, and questions about them have the answers they must have."""

import pytest
import torch

from agents import probe_report
from agents.assembly import build_agent, shapes_of
from agents.config import load_config
from agents.invariance import beliefs, latents, nuisances, omitted, spread_ratio
from agents.probing import BRIEF, Questions, View, interview, metrics
from agents.recording import record
from agents.rollouts import facts
from envs import EnvError
from envs.render import choose_backend
from worldmodel import build


@pytest.fixture(scope="module")
def rover():
    """A fresh agent, the model, another one, and a recording of them in the plane."""
    cfg = load_config(["env=toy_rover", "trainer=debug", "agent=policy", "agent.wander=0"])
    spec = facts(cfg.env)
    torch.manual_seed(0)
    agent = build_agent(cfg, spec, torch.device("cpu"))
    twin = build(cfg.worldmodel, shapes_of(spec), seed=1).model.eval()
    agent.model.eval()
    recording = record(agent, cfg.env, episodes=12, decisions=50, seed=0)
    for model in (agent.model, twin):
        model.observe(recording.obs)
    return agent, twin, recording


def ask(rover, **changes):
    agent, twin, recording = rover
    wanted = {"horizons": [1, 4], "heads": ["linear"], "discrete": False} | changes
    return Questions(agent.model, twin, recording, **wanted)


def best(answers, role, **wanted):
    found = [a for a in answers if a.role == role and all(getattr(a, k) == v for k, v in wanted.items())]
    return max(a.value for a in found)


def test_a_recording_is_what_happened(rover):
    _, _, recording = rover
    assert recording.valid.all()
    assert recording.is_first.sum() == recording.episodes
    assert not recording.prev_action[:, 0].any()
    turned = recording.truth["planar_pose"][:, 1:, 2] - recording.truth["planar_pose"][:, :-1, 2]
    torch.testing.assert_close(turned.float(), 0.5 * recording.prev_action[:, 1:, 1], atol=1e-5, rtol=0)
    # Every other episode is random, and random actions last.
    kept = (recording.prev_action[:, 2:] == recording.prev_action[:, 1:-1]).float().mean((1, 2))
    assert kept[1::2].min() > 0.5
    assert kept[::2].max() < 0.1


def test_the_same_seed_records_the_same_and_leaves_the_agent_its_random_numbers(rover):
    agent = rover[0]
    before = agent.generator.get_state()
    cfg = load_config(["env=toy_rover", "trainer=debug", "agent=policy", "agent.wander=0"])
    first, again, other = (record(agent, cfg.env, episodes=12, decisions=50, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(agent.generator.get_state(), before)
    assert torch.equal(again.truth["planar_pose"], first.truth["planar_pose"])
    assert not torch.equal(other.prev_action, first.prev_action)


def test_an_episode_that_ends_early_is_valid_up_to_its_end():
    cfg = load_config(["env=gym", "env.id=CartPole-v1", "trainer=debug", "agent=policy"])
    agent = build_agent(cfg, facts(cfg.env), torch.device("cpu"))
    recording = record(agent, cfg.env, episodes=6, decisions=60, seed=0)
    lengths = recording.valid.sum(1)
    assert 5 < lengths.min() < 61
    for e, length in enumerate(lengths.tolist()):
        assert recording.valid[e, :length].all()
        assert not recording.valid[e, length:].any()
        state = recording.truth["state"][e]
        assert length == 61 or (state[length - 1].abs() > torch.tensor([2.4, 9e9, 0.209, 9e9])).any()


def test_an_environment_that_breaks_ends_its_episode_there():
    """What its replacement shows is of another episode: no row may lie across."""
    cfg = load_config(["env=toy_crash", "env.kwargs.at=7", "trainer=debug", "agent=policy"])
    agent = build_agent(cfg, facts(cfg.env), torch.device("cpu"))
    recording = record(agent, cfg.env, episodes=4, decisions=20, seed=0)
    assert recording.valid.sum(1).tolist() == [7] * 4
    assert recording.valid[:, :7].all()


def test_probing_leaves_the_model_as_it_was(rover):
    agent, _, _ = rover
    before = {name: value.clone() for name, value in agent.model.state_dict().items()}
    list(ask(rover).all())
    assert all(torch.equal(before[name], value) for name, value in agent.model.state_dict().items())


def test_ceilings_are_above_floors_where_the_truth_decides(rover):
    answers = list(ask(rover, heads=["mlp"]).paths())
    reckoned = {"role": "ceiling", "source": "every action in order", "metric": "r2"}
    last = {"role": "floor", "source": "last action only", "metric": "r2"}
    assert best(answers, **last, horizon=1) == best(answers, **reckoned, horizon=1) > 0.7  # one move is both
    assert best(answers, **reckoned, horizon=4) > best(answers, **last, horizon=4) + 0.2


def test_a_model_that_only_copies_has_the_error_of_a_copy(rover):
    questions = ask(rover)
    copies = questions.ours.z[:, questions.times][:, :, None].expand_as(questions.ours.imagined)
    questions.ours.__dict__["imagined"] = copies
    answers = [a for a in questions.rollouts() if a.metric == "cosine_error"]
    for k in (1, 4):
        mine, copy = (
            next(a.value for a in answers if (a.source, a.horizon) == (source, k))
            for source in ("imagined", "copy of the present")
        )
        assert mine == pytest.approx(copy)


def test_what_is_imagined_begins_as_predicted_from_the_belief(rover):
    agent, _, recording = rover
    questions = ask(rover)
    t = int(questions.times[3])
    with torch.no_grad():
        first = agent.model.predict(questions.ours.belief[:, t], recording.prev_action[:, t + 1]).latent
    torch.testing.assert_close(questions.ours.imagined[:, 3, 0], first, atol=1e-5, rtol=1e-4)


def test_beliefs_without_actions_or_sight_do_not_depend_on_them(rover):
    questions = ask(rover)
    blind = questions.ours.beliefs(see=False)
    questions.ours.z = torch.rand_like(questions.ours.z)
    assert torch.equal(questions.ours.beliefs(see=False), blind)
    still = questions.ours.beliefs(act=False)
    questions.ours.done = torch.rand_like(questions.ours.done)
    assert torch.equal(questions.ours.beliefs(act=False), still)


def test_an_interview_names_its_answers_and_can_be_stopped(rover):
    agent, _, _ = rover
    cfg = load_config(["env=toy_rover", "trainer=debug", "agent=policy", "agent.wander=0"])
    agent.model.train()
    brief = BRIEF | {"horizons": [1, 2], "seed": 0}
    answers, rows = interview(agent, cfg, agent.spec, **brief)
    assert agent.model.training
    assert rows > 500
    found = metrics(answers)
    assert 0 < found["probe/rollout/latent/imagined@2"] < 2
    assert "probe/path/planar_pose/observations_and_actions-untrained@1" in found
    calls = iter([False] * 5 + [True] * 99)
    assert interview(agent, cfg, agent.spec, **brief, stop=lambda: next(calls)) is None


def pictured(worldmodel, *, observations="both", looks=8):
    """An agent that sees pictures, and mostly numbers too, and a recording of it, with rows drawn again."""
    try:
        choose_backend()
    except EnvError as error:
        pytest.skip(str(error))
    chosen = ["env=dmc_cartpole_swingup", f"env.observations={observations}", "env.pixels=32"]
    cfg = load_config([*chosen, f"worldmodel={worldmodel}", "trainer=debug", "agent=policy"])
    torch.manual_seed(0)
    agent = build_agent(cfg, facts(cfg.env), torch.device("cpu"))
    agent.model.eval()
    return cfg, agent, record(agent, cfg.env, episodes=6, decisions=12, seed=0, looks=looks)


def test_a_recording_is_the_same_whether_or_not_rows_are_drawn_again():
    _, _, with_looks = pictured("seq_jepa")
    _, _, without = pictured("seq_jepa", looks=0)
    assert without.redrawn is None
    for kind in ("obs", "truth"):
        mine, other = getattr(with_looks, kind), getattr(without, kind)
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[key], other[key]) for key in mine)
    assert torch.equal(with_looks.prev_action, without.prev_action)
    redrawn, nuisance = with_looks.redrawn, with_looks.redrawn.nuisance
    assert redrawn.obs["pixels"].shape == (6, 6, 8, 3, 32, 32)
    assert nuisance.shape[:3] == (6, 6, 8)
    assert nuisance[:, :, : redrawn.shared].flatten(0, 1).unique(dim=0).shape[0] == 1  # the same everywhere
    assert nuisance[:, :, redrawn.shared :].flatten(0, 2).unique(dim=0).shape[0] == 6 * 6 * 4


def test_who_ignores_the_picture_is_invariant_and_pixels_are_not():
    """An encoder of vectors sees the state beside the picture, and nothing of how it looks."""
    _, agent, recording = pictured("seq_jepa")
    view = View(agent.model, recording, torch.arange(1, 4), 2)
    answers = list(nuisances(recording, view, view, seed=0))
    spread = {a.source: a.value for a in answers if a.metric == "spread_ratio"}
    assert spread["latent"] < 1e-9
    assert spread["belief"] < 1e-9
    assert spread["pixels"] > 0.3
    r2 = {(a.target, a.source): a.value for a in answers if a.metric == "r2"}
    assert r2["look", "latent"] < 0.1 < r2["look", "pixels"]
    position = [r2["position", f"latent, {looks} looks"] for looks in ("fitted", "new")]
    assert position[0] == pytest.approx(position[1], abs=1e-6)


def test_an_encoder_of_pictures_sees_looks_and_is_left_as_it_was():
    _, agent, recording = pictured("seq_jepa_pixels", observations="pixels")
    before = {name: value.clone() for name, value in agent.model.state_dict().items()}
    view = View(agent.model, recording, torch.arange(1, 4), 2)
    z = latents(view, recording.redrawn)
    assert spread_ratio(z.flatten(0, 1)) > 0.1
    # Had the last row looked as it did, the belief would be the one that it was.
    seen = view.z[:, recording.redrawn.rows][:, :, None].expand_as(z)
    believed = view.belief[:, recording.redrawn.rows][:, :, None].expand_as(z)
    torch.testing.assert_close(beliefs(view, recording.redrawn, seen), believed, atol=1e-5, rtol=1e-4)
    list(nuisances(recording, view, view, seed=0))
    assert all(torch.equal(before[name], value) for name, value in agent.model.state_dict().items())


def test_the_spread_is_a_share_of_whitened_channels():
    looks, states = torch.randn(1, 9, 4).expand(50, 9, 4), torch.randn(50, 1, 4).expand(50, 9, 4)
    assert spread_ratio(looks) == pytest.approx(1)
    assert spread_ratio(states) == 0
    both = torch.cat([1e3 * looks, states], -1)  # of eight channels half, however large they are
    assert spread_ratio(both) == pytest.approx(0.5)
    assert spread_ratio(torch.cat([both, torch.ones(50, 9, 8)], -1)) == pytest.approx(0.5)


def test_a_report_without_pictures_leaves_the_question_out_and_says_why(rover, tmp_path):
    agent, _, recording = rover
    assert recording.redrawn is None
    answers = list(ask(rover).all())
    assert omitted(agent.spec, answers) == "nuisance: nothing is rendered"
    probe_report.write(tmp_path, {"env": "rover"}, answers)
    assert "nuisance" not in (tmp_path / "report.html").read_text()


def test_a_report_with_pictures_says_what_less_is_better(tmp_path):
    cfg, agent, _ = pictured("seq_jepa_pixels", looks=0)
    brief = BRIEF | {"episodes": 6, "decisions": 12, "horizons": [1], "seed": 0}
    answers, _ = interview(agent, cfg, agent.spec, **brief)
    assert omitted(agent.spec, answers) == ""
    found = metrics(answers)
    assert 0 < found["probe/nuisance/spread/latent@0"] < 1
    assert {"probe/nuisance/look/belief@0", "probe/nuisance/position/latent-new_looks@0"} <= found.keys()
    lines = [line for line in probe_report.headlines(answers) if line.startswith("nuisance of spread")]
    lowest = min(a.value for a in answers if (a.target, a.role) == ("spread", "floor"))
    assert f"floor {lowest:.3f}" in lines[0]
    probe_report.write(tmp_path, {"env": "cartpole"}, answers)
    assert "Does it matter how a state looks?" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "nuisance.png").stat().st_size > 5000
