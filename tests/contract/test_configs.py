"""Every file in configs/: it composes, it is reachable by name, and it says something the schema knows."""

import pytest

from agents.config import load_config, load_pretraining
from agents.overrides import config_folder, environments, groups, normalise
from agents.pretrain_schema import COLUMNS, PretrainConfig
from agents.schema import RunConfig, leaves

CHOICES = [(group, choice) for group, choices in groups().items() for choice in choices]
NEEDED = {"dmc": ["env.task=walker_walk"], "toy": ["env.task=ring"], "gym": ["env.id=Pendulum-v1"]}
NEEDED["entry"] = ["env.entry=package.module:make"]


def test_every_yaml_belongs_to_a_group_or_is_the_root():
    files = {path.relative_to(config_folder()).as_posix() for path in config_folder().rglob("*.yaml")}
    assert files == {f"{group}/{choice}.yaml" for group, choice in CHOICES} | {"config.yaml", "pretrain.yaml"}


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=[f"{group}={choice}" for group, choice in CHOICES])
def test_every_choice_composes(group, choice):
    words = [f"{group}={choice}", *(NEEDED.get(choice, []) if group == "env" else [])]
    if group == "data" and choice in COLUMNS:
        words.append("worldmodel=t_jepa")
    if choice in ("t_jepa", "hidden_columns"):
        words.append("data=table")
    if choice in groups(RunConfig).get(group, []) and "data=table" not in words:
        assert isinstance(load_config(words), RunConfig)
    if choice in groups(PretrainConfig).get(group, []):
        assert isinstance(load_pretraining(words), PretrainConfig)


def test_every_choice_belongs_to_some_command():
    for group, choice in CHOICES:
        assert choice in [*groups(RunConfig).get(group, []), *groups(PretrainConfig).get(group, [])]


@pytest.mark.parametrize("name", environments())
def test_every_listed_environment_is_accepted(name):
    (first, *_) = normalise([f"env={name}"])
    assert first.partition("=")[2] in groups()["env"]


def test_no_configuration_names_code_or_a_resolver():
    for path in config_folder().rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        assert "_target_" not in text, path
        assert "${oc." not in text, path
        assert "entry:" not in text, path


def test_every_setting_has_a_help_text_and_a_default_inside_its_own_bounds():
    for key, _, entry in [*leaves(), *leaves(PretrainConfig)]:
        assert entry.metadata.get("help"), key
        low, high = entry.metadata["low"], entry.metadata["high"]
        if isinstance(entry.default, int | float):
            assert low is None or entry.default >= low, key
            assert high is None or entry.default <= high, key


def test_debug_shrinks_every_budget():
    small, usual = load_config(["trainer=debug"]), load_config([])
    assert small.trainer.frames <= usual.trainer.frames / 50
    assert small.agent.batch < usual.agent.batch
    assert small.trainer.warmup_frames < small.trainer.frames
