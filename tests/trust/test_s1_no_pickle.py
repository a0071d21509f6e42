"""S1: no pickle on any load path. No source file names it, and no command that reads a run calls it."""

import ast
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.claims import main as claims
from agents.evaluate import main as evaluate
from agents.plot import main as plot
from agents.probe import main as probe
from worldmodel import load

ROOT = Path(__file__).parents[2]
OURS = ("worldmodel", "envs", "agents", "configs")
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "jsonpickle"}
CALLS = {("torch", "load"), ("torch", "save"), ("np", "load"), ("numpy", "load"), ("pandas", "read_pickle")}


def sources():
    return [path for package in OURS for path in sorted((ROOT / package).rglob("*.py"))]


def named(tree):
    """What a file imports and calls, by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0], ""
        elif isinstance(node, ast.Call):
            match node.func:
                case ast.Attribute(value=ast.Name(id=owner), attr=name):
                    yield owner, name


def test_no_source_file_names_pickle():
    assert len(sources()) > 80
    for path in sources():
        for owner, name in named(ast.parse(path.read_text(encoding="utf-8"))):
            assert owner not in MODULES, path
            assert (owner, name) not in CALLS, path


def test_the_search_finds_what_it_is_looking_for():
    bad = "import pickle\nfrom joblib import load\nimport torch\ntorch.load('x')\n"
    found = list(named(ast.parse(bad)))
    assert ("pickle", "") in found
    assert ("joblib", "") in found
    assert ("torch", "load") in found


class Refused(AssertionError):
    """Somebody unpickled."""


def refuse(*_, **__):
    raise Refused


class Unpickler:
    """Stands where the real one stood."""

    def __init__(self, *_, **__):
        raise Refused


@pytest.fixture
def unpicklable(monkeypatch):
    """Every way to read a pickle raises."""
    for name in ("load", "loads"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(pickle, "Unpickler", Unpickler)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(np.lib.format, "read_array", refuse)


def test_the_trap_closes(unpicklable):
    with pytest.raises(Refused):
        pickle.loads(b"")  # noqa: S301 - refused
    with pytest.raises(Refused):
        pickle.Unpickler(None)  # noqa: S301 - refused


def test_commands_that_read_a_run_never_unpickle(finished, unpicklable, tmp_path, capsys):
    load(finished)
    assert evaluate([f"run={finished}", "episodes=1"]) == 0
    assert (
        probe([f"run={finished}", "episodes=8", "decisions=20", "horizons=1", f"out={tmp_path / 'p'}"]) == 0
    )
    assert plot([f"runs={finished}", f"out={tmp_path / 'curve.png'}"]) == 0
    assert claims([f"runs={ROOT / 'tests' / 'evidence' / 'claims.csv'}"]) == 0
    capsys.readouterr()


def test_resuming_a_run_never_unpickles(copied, unpicklable, capsys):
    from agents.train import main as train
    from tests.e2e.conftest import TOY

    words = ("trainer.frames=440", "trainer.checkpoint_every=100", "trainer.eval_every=200")
    assert train([*TOY, *words, "trainer.eval_episodes=2", f"run.dir={copied}"]) == 0
    assert "resuming" in capsys.readouterr().err
