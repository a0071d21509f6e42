"""S3: a configuration from a stranger names no code; thirty that try are refused, and nothing runs."""

import json

import pytest
import yaml

from agents.cli import UserError
from agents.config import read_config
from worldmodel import ModelError, build

OWNED = "owned-by-a-configuration"
SHAPES = {
    "observation": {"state": {"shape": [3], "dtype": "float32"}},
    "action": {"kind": "continuous", "size": 1},
}
CALLS = (
    "os.system",
    "posix.system",
    "subprocess.run",
    "subprocess.Popen",
    "builtins.eval",
    "builtins.exec",
    "builtins.__import__",
    "importlib.import_module",
    "runpy.run_path",
    "pickle.loads",
    "torch.load",
    "numpy.load",
    "shutil.rmtree",
    "pathlib.Path.unlink",
    "webbrowser.open",
    "hydra.utils.instantiate",
    "hydra._internal.utils._locate",
    "ctypes.CDLL",
)
WHERE = ("worldmodel.encoder", "env.kwargs", "agent.plan", "logger")


def document(call, where):
    """A section that asks Hydra to call something."""
    outer, _, inner = where.partition(".")
    called = f"{{_target_: {call}, _args_: ['touch {OWNED}']}}"
    return f"{outer}: {{{inner}: {called}}}" if inner else f"{outer}: {called}"


HOSTILE = [document(call, WHERE[number % len(WHERE)]) for number, call in enumerate(CALLS)] + [
    f"_target_: os.system\n_args_: ['touch {OWNED}']",
    "env: {kind: entry, entry: 'os:system'}",
    "env: {kind: entry, entry: 'subprocess:run', kwargs: {args: [touch, owned-by-a-configuration]}}",
    "env: {kind: gym, id: 'os:Env-v0'}",
    "env: {kind: gym, id: 'this.module:Env-v0'}",
    f"env: !!python/object/apply:os.system ['touch {OWNED}']",
    "env: !!python/name:os.system",
    f"env: !!python/object/new:subprocess.Popen [['touch', '{OWNED}']]",
    "logger: {project: '${oc.env:HOME}'}",
    "logger: {project: '${oc.decode:${oc.env:HOME}}'}",
    "worldmodel: {encoder: {name: 'os.system'}}",
    "worldmodel: {encoder: {name: mlp, activation: 'os.system'}}",
    "worldmodel: {target: {name: !!python/name:os.system}}",
    "defaults: [{override /env: /etc/passwd}]",
    "hydra: {run: {dir: /tmp}, callbacks: {x: {_target_: os.system}}}",
    "a: &a [1, 1, 1]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]",
]


def test_there_are_at_least_thirty():
    assert len(HOSTILE) >= 30


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("name", ["config.yaml", "config.json"])
def test_none_is_accepted_and_nothing_runs(text, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    if name == "config.json":
        try:
            text = json.dumps(yaml.safe_load(text))
        except yaml.YAMLError:
            pytest.skip("not a document that JSON can hold")
    path.write_text(text)
    ours = set(tmp_path.iterdir())
    with pytest.raises((UserError, ModelError), match=r"fix: |worldmodel"):
        # What is free-form is data until the world model reads it, which knows its own parts only.
        build(read_config(path).worldmodel, SHAPES)
    assert set(tmp_path.iterdir()) == ours
