"""The configuration: what words become, which mistakes are caught, the hash, and what files may say."""

import copy
import functools
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.cli import UserError, run_command
from agents.config import (
    config_dict,
    config_hash,
    env_name,
    load_config,
    read_config,
    save_yaml,
    to_yaml,
)
from agents.overrides import FOREIGN, groups, normalise
from agents.schema import RunConfig, leaves


def mistake(call):
    """Return what the user is told, or None where all is well; any other exception is a bug."""
    try:
        call()
    except UserError as error:
        return str(error)
    return None


def test_the_default_is_dmc_walker():
    config = load_config([])
    assert (config.env.kind, config.env.task, env_name(config.env)) == ("dmc", "walker_walk", "dmc_walker")


@pytest.mark.parametrize(
    ("words", "kind", "what", "name"),
    [
        (["env=dmc_cheetah_run"], "dmc", "cheetah_run", "dmc_cheetah_run"),
        (["env=dmc", "env.task=finger_spin"], "dmc", "finger_spin", "dmc_finger_spin"),
        (["env=toy_ring"], "toy", "ring", "toy_ring"),
        (["env=gym", "env.id=Pendulum-v1"], "gym", "Pendulum-v1", "gym_Pendulum-v1"),
        (["env.id=Pendulum-v1"], "gym", "Pendulum-v1", "gym_Pendulum-v1"),
        (["env.entry=pkg.mod:make"], "entry", "pkg.mod:make", "pkg.mod:make"),
        (["env=dmc_walker", "env.task=walker_run"], "dmc", "walker_run", "dmc_walker_run"),
        (["experiment=masked"], "dmc", "cartpole_swingup", "dmc_cartpole_swingup_masked"),
        (["experiment=masked", "env=dmc_walker"], "dmc", "walker_walk", "dmc_walker_walk_masked"),
        (["experiment=masked", "env=dmc_finger_spin"], "dmc", "finger_spin", "dmc_finger_spin_masked"),
        (["env.task=walker_run", "experiment=delayed"], "dmc", "walker_run", "dmc_walker_run_delayed"),
        (["experiment=masked", "env=toy_ring"], "toy", "ring", "toy_ring_masked"),
        (["experiment=masked", "env=dmc_walker", "env.name=mine"], "dmc", "walker_walk", "mine"),
        (["experiment=masked", "env=gym", "env.id=Ant-v5"], "gym", "Ant-v5", "gym_Ant-v5"),
        (["experiment=recalled"], "dmc", "walker_walk", "dmc_walker_walk_recalled"),
        (["experiment=rewarded"], "dmc", "cheetah_run", "dmc_cheetah_run_rewarded"),
        (["experiment=race", "env=dmc_cheetah_run"], "dmc", "cheetah_run", "dmc_cheetah_run"),
        (["experiment=race", "env.task=cheetah_run"], "dmc", "cheetah_run", "dmc_cheetah_run"),
    ],
)
def test_an_environment_is_found_by_its_short_name(words, kind, what, name):
    env = load_config(words).env
    chosen = {"dmc": env.task, "toy": env.task, "gym": env.id, "entry": env.entry}[kind]
    assert (env.kind, chosen, env_name(env)) == (kind, what, name)


def test_numbers_may_be_written_the_short_way():
    config = load_config(["trainer.frames=1e6", "replay.capacity=200_000", "trainer.updates_per_decision=1"])
    assert (config.trainer.frames, config.replay.capacity) == (1_000_000, 200_000)
    assert isinstance(config.trainer.updates_per_decision, float)


def test_arguments_of_an_environment_are_free():
    config = load_config(["env.id=Pendulum-v1", "env.kwargs.g=9.8", "env.kwargs.inner.x=1"])
    assert config.env.kwargs == {"g": 9.8, "inner": {"x": 1}}


def test_debug_is_small_whatever_an_experiment_sets():
    for experiment in groups(RunConfig)["experiment"]:
        config = load_config([f"experiment={experiment}", "trainer=debug"])
        assert (config.trainer.frames, config.trainer.warmup_frames, config.env.num) == (1_000, 200, 2)
    assert load_config(["experiment=walker", "trainer=debug", "trainer.frames=70"]).trainer.frames == 70


def test_what_other_frameworks_call_a_setting_leads_to_one_that_exists():
    assert set(FOREIGN.values()) <= {key for key, _, _ in leaves()}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["env=dmc_wlker"], "did you mean dmc_walker"),
        (["env=../../etc/passwd"], "there is no environment"),
        (["trainer.stpes=3"], "unknown key trainer.stpes; did you mean trainer.frames?"),
        (["steps=5"], "did you mean trainer.frames"),
        (["agent.batch_size=3"], "did you mean agent.batch"),
        (["replay.capasity=3"], "did you mean replay.capacity"),
        (["trainr=debug"], "did you mean trainer"),
        (["trainer=debgu"], "did you mean debug"),
        (["worldmodel.encoder.hiden=3"], "did you mean worldmodel.encoder.hidden"),
        (["worldmodel=seq_jep"], "did you mean seq_jepa"),
        (["--steps", "5"], "written key=value, as in trainer.frames="),
        (["dmc_walker"], "as in env=dmc_walker"),
        (["trainer.frames=abc"], "trainer.frames needs a whole number, got 'abc'"),
        (["trainer.frames=1.5"], "trainer.frames needs a whole number"),
        (["trainer.frames="], "trainer.frames needs a whole number"),
        (["trainer.video=maybe"], "trainer.video needs true or false"),
        (["trainer.frames=0"], "at least 1"),
        (["trainer.frames=-5"], "at least 1"),
        (["env.action_repeat=0"], "at least 1"),
        (["agent.lr=x"], "unknown key agent.lr"),
        (["learning_rate=1e-3"], "did you mean agent.model_lr"),
        (["agent.model_lr=nan"], "finite"),
        (["agent.discount=2"], "at most 1"),
        (["agent.planner=mpi"], "did you mean mppi"),
        (["agent.plan.guides=0", "agent.plan.margin=1"], "or agent.plan.margin=null"),
        (["env.observations=pixel"], "did you mean pixels"),
        (["agent.batch=5000000"], "larger than replay.capacity"),
        (["agent.nstep=9"], "longer than agent.window"),
        (["env.num=4096", "replay.capacity=8192"], "does not fit the 2 replay rows"),
        (["device=tpu"], "choose auto, cpu, cuda"),
        (["env.num=null"], "env.num"),
        (["seed=1,2"], "one run takes one value"),
        (["seed=[1"], "cannot read"),
        (["seed=1", "seed=2"], "given twice"),
        (["env=gym"], "needs env.id"),
        (["env=entry"], "needs env.entry"),
        (["env.entry=/tmp/evil.py"], "form package.module:function"),
        (["env=dmc_walker", "env.id=Pendulum-v1"], "no effect"),
        (["hydra.run.dir=/tmp"], "no effect here"),
        (["logger.project=${oc.env:HOME}"], "resolver"),
        (["worldmodel.encoder.hidden=${oc.env:HOME}"], "resolver"),
        (["env.kwargs.token=${oc.env:HOME}"], "resolver"),
        (["agent.plan=3"], "holds several settings"),
        (["experiment=nope"], "there is no experiment=nope"),
        (["worldmodel/encodr=mlp"], "did you mean worldmodel/encoder"),
    ],
)
def test_a_mistake_is_answered_in_two_lines_with_a_fix(words, said, capsys):
    assert run_command("train", lambda config: 0, words) == 2
    text = capsys.readouterr().err
    assert said in text
    assert "fix: " in text
    assert "Traceback" not in text
    assert len(text.splitlines()) == 2


def test_a_secret_of_the_environment_is_never_shown(capsys, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "canary-5f1e")
    assert run_command("train", lambda config: 0, ["logger.project=${oc.env:WANDB_API_KEY}"]) == 2
    shown = capsys.readouterr()
    assert "canary-5f1e" not in shown.out + shown.err


KEYS = st.sampled_from(
    ["env", "seed", "trainer.frames", "agent.batch", "env.kwargs.a", "worldmodel.x", "trainer", ""]
)
VALUES = st.text(st.characters(codec="ascii"), max_size=12) | st.integers().map(str) | st.floats().map(str)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.builds("{}={}".format, KEYS, VALUES) | st.text(max_size=12), max_size=3))
def test_any_words_are_rewritten_or_refused_with_a_fix(words):
    said = mistake(lambda: normalise(words))
    assert said is None or "fix: " in said


@settings(max_examples=12, deadline=None)
@given(st.builds("{}={}".format, KEYS, VALUES))
def test_any_word_composes_or_is_refused_with_a_fix(word):
    said = mistake(lambda: load_config([word]))
    assert said is None or "fix: " in said


SAME = {
    "seed": 3,
    "run.root": "x",
    "logger.wandb": True,
    "env.workers": 2,
    "env.timeout_s": 1.0,
    "trainer.frames": 7,
    "trainer.eval_every": 0,
    "trainer.checkpoint_every": 1,
    "trainer.keep": 9,
    "trainer.log_every": 1,
    "trainer.video": False,
}
OTHER = {
    "agent.batch": 128,
    "agent.plan.horizon": 5,
    "env.action_repeat": 3,
    "env.num": 2,
    "env.kwargs": {"a": 1},
    "replay.sampler": "uniform",
    "trainer.updates_per_decision": 2.0,
    "trainer.warmup_frames": 1,
    "worldmodel": {"rollout_steps": 9},
}


def test_the_hash_covers_training_and_nothing_else():
    config = load_config([])
    plain = config_hash(config)
    assert re.fullmatch("[0-9a-f]{64}", plain)
    for key, value in {**SAME, **OTHER}.items():
        changed = copy.deepcopy(config)
        *path, last = key.split(".")
        setattr(functools.reduce(getattr, path, changed), last, value)
        assert (config_hash(changed) == plain) == (key in SAME), key


def test_a_saved_configuration_reads_back_equal(tmp_path):
    config = load_config(
        ["env=toy_ring", "trainer=debug", "agent.policy_regulariser=1e-7", "env.kwargs.tiny=1e-12"]
    )
    save_yaml(config, tmp_path / "config.yaml")
    (tmp_path / "config.json").write_text(json.dumps(config_dict(config)))
    assert read_config(tmp_path / "config.yaml") == config
    assert read_config(tmp_path / "config.json") == config


def test_a_run_of_before_goes_on_as_it_was_made(tmp_path):
    config = load_config(["env=toy_ring", "trainer=debug", "agent.plan.eval_horizon=null"])
    saved = config_dict(config)
    del saved["agent"]["plan"]["eval_horizon"], saved["agent"]["hide"]  # which it did not know
    del saved["agent"]["horizons"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert read_config(tmp_path / "config.json") == config
    assert config_hash(config) != config_hash(load_config(["env=toy_ring", "trainer=debug"]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("env: {kind: entry, entry: 'os:system'}", "names code"),
        ("env: {kind: gym, id: 'evil:Env-v0'}", "names code"),
        ("logger: {project: '${oc.env:HOME}'}", "resolver"),
        ("env: {kind: dmc, task: walker_walk, kwargs: {a: '${oc.env:HOME}'}}", "resolver"),
        ("a: &a [1, 1]\nb: *a", "aliases"),
        ("env: !!python/object/apply:os.system ['true']", "cannot be read"),
        ("trainer: {stpes: 3}", "does not fit this version"),
        ("trainer: {frames: -3}\nenv: {task: walker_walk}", "at least 1"),
        ("- 1", "no settings"),
        ("{", "cannot be read"),
        ("", "no settings"),
    ],
)
def test_a_file_from_a_stranger_can_neither_run_code_nor_read_the_environment(text, said, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"fix: ") as caught:
        read_config(path)
    assert said in str(caught.value)


def test_an_own_environment_is_accepted_again_when_the_user_names_it(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(load_config(["env.entry=pkg.mod:make"])))
    assert read_config(path, entry="pkg.mod:make").env.entry == "pkg.mod:make"
    with pytest.raises(UserError, match="names code"):
        read_config(path, entry="pkg.mod:other")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 50_000, "x" * 2_000_000])
def test_a_deep_or_huge_file_is_refused(text, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError):
        read_config(path)


def test_show_config_prints_what_would_run(capsys):
    assert run_command("train", lambda config: 9, ["env=toy_ring", "--show-config"]) == 0
    assert "task: ring" in capsys.readouterr().out
