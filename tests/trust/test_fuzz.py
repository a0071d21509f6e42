"""No mistake on a command line ends in a traceback: thousands of lines, composed or refused with a fix."""

import importlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.test_commands import COMMANDS

NAMES = """
env worldmodel agent replay trainer logger run experiment seed device env.kwargs env.num env.id data heads
out runs env.time_limit agent.plan agent.plan.samples agent.batch worldmodel/encoder worldmodel.encoder
episodes learning worldmodel.encoder.latent worldmodel/terms trainer.frames replay.capacity checkpoint
study.only
"""
VALUES = r"""
dmc_walker toy_ring gym mlp table null true -1 0 1e9 1e400 nan inf [1,2] {a:1} [ { ' " \ ~ * & | ; last
objects linear ${oc.env:HOME} ${seed} !!python/name:os.system ../x
"""
PLACES = st.sampled_from(tuple(NAMES.split())) | st.text(max_size=8)
NUMBERS = st.integers().map(str) | st.floats().map(str)
THINGS = st.sampled_from(tuple(VALUES.split())) | NUMBERS | st.text(max_size=12)
SHAPES = st.sampled_from(["{}={}", "{}.{}", "+{}={}", "~{}", "--{}={}", "{}", "{}=", "={}", "@{}={}"])
WORDS = st.builds(lambda shape, place, thing: shape.format(place, thing), SHAPES, PLACES, THINGS)
LINES = st.lists(WORDS, max_size=4)
LOOSE = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def refused_or_composed(name, words, monkeypatch, capsys):
    """Run the command without its body."""
    module = importlib.import_module(f"agents.{name}")
    with monkeypatch.context() as patch:
        patch.setattr(module, name, lambda settings: None)
        code = module.main(words)
    said = capsys.readouterr().err
    assert code in (0, 2), (name, words, said)
    assert "Traceback" not in said, (name, words, said)
    assert code == 0 or "error: " in said, (name, words, said)


@pytest.mark.parametrize("name", COMMANDS)
@settings(max_examples=15, **LOOSE)
@given(words=LINES)
def test_a_few_lines_for_each_command(name, words, monkeypatch, capsys):
    refused_or_composed(name, words, monkeypatch, capsys)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", COMMANDS)
@settings(max_examples=500, **LOOSE)
@given(words=LINES)
def test_many_lines_for_each_command(name, words, monkeypatch, capsys):
    refused_or_composed(name, words, monkeypatch, capsys)
