"""What a user can get wrong ends with a sentence and its fix, not with a traceback or lost work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agents.evaluate import main as evaluate
from agents.play import main as play
from agents.probe import main as probe
from agents.train import main as train
from tests.e2e.conftest import QUIET, TOY, last_wins

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("argv", "fix"),
    [
        (("env=dmc_wakler",), "did you mean dmc_walker"),
        (("env=toy_ring", "trainer.framse=10"), "did you mean trainer.frames"),
        (("env=toy_ring", "steps=10"), "did you mean trainer.frames"),
        (("env=toy_ring", "worldmodel.encoder.latnet=10"), "did you mean worldmodel.encoder.latent"),
        (("env=toy_ring", "trainer.frames=many"), "a whole number"),
        (("env=toy_ring", "trainer.frames=-5"), "trainer.frames=1 or more"),
        (("env=toy_ring", "--frames", "10"), "key=value"),
        (("env=toy_ring", "agent.batch=5000", "replay.capacity=100"), "set replay.capacity=50000"),
        (("env=toy_ring", "agent.window=2", "agent.nstep=1"), "set agent.window=3"),
        (("env=toy_ring", "device=cuda:99"), "device=cpu"),
        (("env=toy_ring", "worldmodel=seq_jepa_pixels"), "worldmodel/encoder=mlp"),
        (
            ("env=toy_ring", "worldmodel/views=last_step", "worldmodel/terms=mse"),
            "worldmodel/views=next_step",
        ),
        (("env=toy_ring", "env.observations=pixels"), "env.observations=state"),
        (("env=toy_ring", "env.kwargs.sise=3"), "remove that key from env.kwargs"),
        (("env=gym", "env.id=Pendulum-v0"), "did you mean Pendulum-v1"),
        (("env=gym", "env.id=Blackjack-v1"), "gymnasium.wrappers.FlattenObservation"),
        (("env.entry=nosuch.module:make",), "run from the folder that contains the package"),
    ],
)
def test_a_wrong_setting_is_named_with_its_fix(tell, tmp_path, argv, fix):
    code, text = tell(train, *argv, "trainer=debug", "logger.progress=off", f"run.root={tmp_path}")
    assert code == 2
    assert "error: " in text
    assert fix in text


@pytest.mark.parametrize("backend", ["disable", "nonsense"])
def test_pixels_without_gl_say_how_to_get_it_or_do_without(tmp_path, backend):
    pixels = ("env=dmc_pendulum", "env.observations=pixels", "worldmodel=seq_jepa_pixels", *QUIET)
    # In a process of its own: GL that another test has opened would still draw.
    answer = subprocess.run(
        [sys.executable, "-m", "agents.train", *pixels, f"run.root={tmp_path}"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "MUJOCO_GL": backend},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr
    assert "env.observations=state" in answer.stderr
    assert "unset it" in answer.stderr


def test_a_machine_without_a_compiler_trains_anyway(tell, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    short = ("trainer.frames=40", "trainer.warmup_frames=20", "trainer.updates_per_decision=0.1")
    code, text = tell(train, *TOY, *short, "agent.compile=true", f"run.dir={tmp_path / 'run'}")
    assert code == 0
    assert text.count("the update runs uncompiled and slower: there is no C++ compiler") == 1
    assert "apt-get install g++" in text


# ---- the disk


def test_a_folder_without_write_permission_is_named(tell, tmp_path):
    tell(train, "--show-config")  # imported while everything is readable
    (tmp_path / "runs").mkdir(mode=0o555)
    root = os.geteuid() == 0
    if root:
        os.chmod(tmp_path, 0o755)
        os.seteuid(65534)
    try:
        code, text = tell(train, *TOY, f"run.root={tmp_path / 'runs'}")
    finally:
        if root:
            os.seteuid(0)
    assert code == 74
    assert "permission denied" in text
    assert "run.root=" in text


@pytest.mark.parametrize(
    ("path", "fix"), [("file", "give a directory"), ("file/run", "choose another place")]
)
def test_a_run_directory_below_a_file_is_named(tell, tmp_path, path, fix):
    (tmp_path / "file").write_text("mine")
    code, text = tell(train, *TOY, f"run.dir={tmp_path / path}")
    assert code in (2, 74)
    assert fix in text


def test_a_directory_with_other_files_is_left_alone(tell, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    code, text = tell(train, *TOY, f"run.dir={tmp_path}")
    assert code == 2
    assert "thesis.tex" in text
    assert "give a new or empty directory" in text
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


# ---- what was stored


def test_a_run_of_another_environment_is_not_resumed(tell, finished):
    code, text = tell(train, "env=toy_ring", "trainer=debug", f"run.dir={finished}")
    assert code == 2
    assert "env.task: 'point_mass' there, 'ring' here" in text
    assert "give another run.dir" in text


OWN = """
import gymnasium
import numpy as np


class Own(gymnasium.Env):
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, size=3):
        self.size = size
        self.observation_space = gymnasium.spaces.Box(-1, 1, (size,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 20
        return np.zeros(self.size, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.full(self.size, self.left / 20, np.float32), float(action), False, self.left == 0, {}
"""


def test_an_environment_that_changed_since_training_is_refused(tell, tmp_path, monkeypatch):
    (tmp_path / "own_env.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    own = ("env.entry=own_env:Own", "trainer=debug", "logger.progress=off", "trainer.frames=100")
    words = (*own, "trainer.warmup_frames=40", f"run.dir={tmp_path / 'run'}")
    assert tell(train, *words)[0] == 0
    code, text = tell(evaluate, f"run={tmp_path / 'run'}")
    assert code == 2
    assert "add entry=own_env:Own" in text
    assert tell(evaluate, f"run={tmp_path / 'run'}", "entry=own_env:Own")[0] == 0

    import own_env  # pyright: ignore[reportMissingImports]

    monkeypatch.setattr(own_env.Own.__init__, "__defaults__", (4,))
    for command, more in ((evaluate, ("entry=own_env:Own",)), (train, ())):
        first = (f"run={tmp_path / 'run'}",) if command is evaluate else (*words, "trainer.frames=200")
        code, text = tell(command, *last_wins(*first, *more))
        assert code == 2
        assert "trained on own_env:Own" in text


def test_a_run_that_cannot_go_on_exactly_says_so(tell, tmp_path, monkeypatch):
    """Noise that no seed decides cannot be replayed: the run goes on from somewhere else, and is told."""
    seen = "np.full(self.size, self.left / 20, np.float32)"
    assert seen in OWN
    noisy = OWN.replace(seen, "np.float32(np.frombuffer(os.urandom(self.size), np.uint8) / 255)")
    (tmp_path / "noisy_env.py").write_text("import os\n" + noisy)
    monkeypatch.syspath_prepend(tmp_path)
    own = ("env.entry=noisy_env:Own", "trainer=debug", "logger.progress=off", f"run.dir={tmp_path / 'run'}")
    # Within the first episode, of 20 decisions: what ends with a save need not be replayed.
    words = (*own, "trainer.warmup_frames=5", "trainer.checkpoint_every=10", "trainer.eval_every=1000")
    assert tell(train, *words, "trainer.frames=10")[0] == 0
    code, text = tell(train, *words, "trainer.frames=15")
    assert code == 0
    assert "warning: environment 0" in text
    assert "draws randomness" in text


@pytest.mark.parametrize("command", [evaluate, play, probe])
def test_a_run_that_is_not_there_is_answered_with_what_is(tell, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for run, said in (
        ("run=last", "python -m agents.train"),
        ("run=/nonexistent", "does not exist"),
        ("run=empty", "is neither a run directory nor a checkpoint"),
        ("runs=x", "did you mean run?"),
    ):
        code, text = tell(command, run)
        assert code == 2
        assert said in text


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        ((), "add run=last"),
        (("run=last", "checkpoint=last"), "one of them"),
        (("run=last", "heads=tree"), "choose from linear, mlp"),
        (("run=last", "decisions=10", "horizons=1,9"), "choose horizons from 1 to 8"),
        (("run={run}", "env=toy_ring", "episodes=4"), "version of the environment that it was trained on"),
        (("run={run}", "decisions=60", "horizons=50", "episodes=4"), "choose smaller horizons"),
    ],
)
def test_probes_that_cannot_be_say_what_could(tell, finished, tmp_path, words, fix):
    words = [word.format(run=finished) for word in words]
    code, text = tell(probe, *words, f"out={tmp_path / 'out'}")
    assert code == 2
    assert fix in text
    assert not (tmp_path / "out").exists()


def test_an_evaluation_looks_as_far_as_it_is_told(tell, finished, tmp_path):
    scores = {}
    for words in ((), ("horizon=1",), ("horizon=6",)):
        out = tmp_path / "out.json"
        assert tell(evaluate, f"run={finished}", "episodes=1", *words, f"out={out}")[0] == 0
        scores[words] = (found := json.loads(out.read_text()))["episodes"][0]["score"]
        assert found["horizon"] == (int(words[0][-1]) if words else 6)
    assert scores["horizon=6",] == scores[()] != scores["horizon=1",]
    code, text = tell(evaluate, f"run={finished}", "planner=none", "horizon=6")
    assert code == 2
    assert "needs a planner" in text


def test_a_run_without_a_checkpoint_says_so_and_is_not_the_last(tell, finished, tmp_path, monkeypatch):
    started = tmp_path / "runs" / "toy_point_mass" / "s0-started"
    started.mkdir(parents=True)
    (started / "run.json").write_text((finished / "run.json").read_text())
    code, text = tell(evaluate, f"run={started}")
    assert code == 2
    assert "has no checkpoint yet" in text
    monkeypatch.chdir(tmp_path)
    (started.parent / "s0-finished").symlink_to(finished)
    os.utime(started / "run.json", (2**31, 2**31))
    assert tell(evaluate, "run=last")[0] == 0


# ---- the environment
