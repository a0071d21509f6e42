"""Every command does on a real run what its help says."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import imageio
import pytest
import torch

from agents.analyse import main as analyse
from agents.bench import main as bench
from agents.check_env import main as check_env
from agents.doctor import main as doctor
from agents.plot import main as plot
from agents.pretrain import main as pretrain
from agents.train import main as train

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    *("train", "evaluate", "play", "plot", "bench", "doctor", "check_env", "probe"),
    *("pretrain", "calibrate", "claims", "analyse", "reproduce"),
)


def fresh(*words, cwd=ROOT):
    """Run `python -m agents.…` in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", *words]
    return subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_answers_quickly_and_names_an_option(command):
    best = 9.0
    for _ in range(3):  # another process may be in the way once
        began = time.monotonic()
        answer = fresh(f"agents.{command}", "--help")
        best = min(best, time.monotonic() - began)
        if best < 2:
            break
    assert best < 2
    assert answer.returncode == 0
    assert f"usage: python -m agents.{command}" in answer.stdout
    assert "=" in answer.stdout


def test_help_into_a_closed_pipe_is_quiet():
    command = f"{sys.executable} -m agents.train --help | head -n 1"
    answer = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert answer.stdout.startswith("usage:")
    assert answer.stderr == ""


def test_the_world_model_of_a_run_loads_on_its_own(finished):
    from worldmodel import load

    model = load(finished)
    z = model.encode({"state": torch.zeros(1, 2, 4)})
    belief, _ = model.aggregate(z, torch.zeros(1, 2, 2))
    assert belief.shape[:2] == (1, 2)


def test_probe_writes_a_report_that_says_the_same_twice_and_leaves_the_run_alone(tell, finished, tmp_path):
    from agents.probe import main as probe
    from tests.e2e.runner import fingerprint

    before = fingerprint(finished)
    small = ("episodes=8", "decisions=18", "horizons=1,3", "heads=linear")
    reports = []
    for name in ("first", "second"):
        code, said = tell(probe, f"run={finished}", *small, f"out={tmp_path / name}")
        assert code == 0
        assert "path of pose at 3" in said
        reports.append((tmp_path / name / "report.json").read_text())
    assert reports[0] == reports[1]
    assert fingerprint(finished) == before
    answers = json.loads(reports[0])["answers"]
    assert {a["question"] for a in answers} == {"equivariance", "state", "path", "rollout", "retrieval"}
    assert {a["role"] for a in answers} == {"ours", "floor", "ceiling"}
    page = (tmp_path / "first" / "report.html").read_text()
    assert page.count("data:image/png;base64") == 5
    assert "http" not in page  # it needs nothing else


def test_probing_another_environment_leaves_the_first_report_alone(tell, copied):
    from agents.probe import main as probe

    small = ("episodes=8", "decisions=18", "horizons=1", "heads=linear")
    assert tell(probe, f"run={copied}", *small)[0] == 0
    assert tell(probe, f"run={copied}", *small, "env=toy_point_mass")[0] == 0
    reports = {path.parent.name for path in copied.glob("probes/*/report.json")}
    assert reports == {"000000400-s0", "000000400-s0-toy_point_mass"}


def test_play_films_every_decision(tell, tmp_path):
    from agents.play import main as play
    from envs import EnvError
    from envs.render import choose_backend

    try:
        choose_backend()
    except EnvError as error:
        pytest.skip(str(error))
    short = ("trainer=debug", "logger.progress=off", "trainer.frames=100", "trainer.warmup_frames=50")
    limits = ("env.time_limit=50", "env.action_repeat=2", "env.num=1", "trainer.video=true")
    code, text = tell(train, "env=dmc_cartpole", *short, *limits, f"run.dir={tmp_path / 'run'}")
    assert code == 0, text
    assert list(tmp_path.glob("run/videos/000000100.mp4"))
    film = ("size=64", "episodes=2", "stride=5", f"out={tmp_path / 'a.mp4'}")
    code, text = tell(play, f"run={tmp_path / 'run'}", *film)
    assert code == 0, text
    for name in ("a-0.mp4", "a-1.mp4"):
        pictures = imageio.mimread(tmp_path / name)
        assert len(pictures) == 25 // 5
        assert pictures[0].shape == (64, 64, 3)
    code, text = tell(play, f"run={tmp_path / 'run'}", "size=64", "stride=1000", f"out={tmp_path / 'b.mp4'}")
    assert code == 0, text
    assert len(imageio.mimread(tmp_path / "b.mp4")) == 1
    code, text = tell(play, f"run={tmp_path / 'run'}", f"out={tmp_path / 'films' / 'c'}")
    assert code == 2
    assert f"use out={tmp_path / 'films' / 'c.mp4'}" in text
    code, text = tell(play, f"run={tmp_path / 'run'}", f"out={tmp_path / 'a-0.mp4' / 'b.mp4'}")
    assert code == 74
    assert "part of the path is a file" in text


def test_plot_draws_the_curve(tell, finished, tmp_path):
    code, text = tell(plot, f"runs={finished}", f"out={tmp_path / 'curve.png'}")
    assert code == 0
    assert "at 400 frames" in text
    picture = imageio.imread(tmp_path / "curve.png")
    assert picture[..., :3].std() > 1  # something is drawn on it


@pytest.mark.parametrize(
    ("words", "code", "fix"),
    [
        (("out=/proc/a.png",), 74, "choose another place"),
        (("out=a.foo",), 2, "out=curves.png"),
        (("metric=eval/retrun",), 2, "did you mean eval/return"),
        (("evidence=a.csv",), 2, "one of them"),
    ],
)
def test_plot_names_what_is_wrong(tell, finished, words, code, fix):
    found, text = tell(plot, f"runs={finished}", *words)
    assert found == code
    assert fix in text


def test_bench_prints_every_measurement(tell):
    small = ("trainer=debug", "agent.batch=8", "agent.plan.samples=8", "agent.plan.elites=2")
    code, text = tell(bench, "env=toy_point_mass", *small)
    assert code == 0, text
    rows = json.loads(text.strip().splitlines()[-1])
    assert {"env/raw", "env/collect", "sample", "act", "update", "update_over_floor", "plan"} <= rows.keys()
    assert {"loop", "loop_over_parts"} <= rows.keys()
    assert all(value >= 0 for value in rows.values())
    assert "prioritized, 8 windows" in text  # what a run draws with


def test_bench_measures_an_agent_without_a_planner(tell):
    code, text = tell(bench, "env=toy_point_mass", "agent=policy", "trainer=debug", "agent.batch=8")
    assert code == 0, text
    rows = json.loads(text.strip().splitlines()[-1])
    assert {"act", "update", "loop"} <= rows.keys()
    assert not {name for name in rows if name.startswith("plan")}


def test_doctor_finds_nothing_in_the_way(tell, tmp_path):
    code, text = tell(doctor, f"root={tmp_path}")
    assert code == 0, text
    assert "nothing stands in the way" in text


def test_check_env_tells_a_good_environment_from_a_broken_one(tell):
    code, text = tell(check_env, "env=toy_point_mass")
    assert code == 0
    assert "ready to train" in text
    code, text = tell(check_env, "env=toy_nan_obs")
    assert code == 2
    assert "NaN or infinite: state" in text
    assert "fix: " in text


def test_agents_taught_by_latents_and_by_inputs_are_held_against_their_noise(tmp_path, tell):
    short = ("trainer=debug", "logger.progress=off", "trainer.frames=200", "trainer.eval_every=200")
    noisy = ("env=toy_point_mass", "env.time_limit=40", "env.distractors=3", "trainer.eval_episodes=1")
    taught = {"JEPA": (), "reconstruction": ("worldmodel/target=input", "worldmodel/terms=reconstruction")}
    for name, words in taught.items():
        code, text = tell(train, *short, *noisy, *words, f"run.dir={tmp_path / name}")
        assert code == 0, text
    asked = ("experiment=distractors", f"runs={tmp_path}/*", f"out={tmp_path / 'out'}")
    code, text = tell(analyse, *asked, f"record={tmp_path / 'rows.csv'}")
    assert code == 0, text
    assert all(name in text for name in taught)
    assert "10 new rows" in text  # the return, what latents hang on and what is read from them: signal, noise
    assert (tmp_path / "out" / "distractors.png").exists()


def test_an_encoder_of_columns_is_pre_trained_on_a_replay_and_lives_with_dead_sensors(tmp_path, tell):
    short = ("trainer=debug", "logger.progress=off", "trainer.frames=200", "trainer.eval_every=0")
    toy = ("env=toy_point_mass", "env.time_limit=40", "env.drop=0.3", "trainer.eval_episodes=1")
    code, text = tell(train, *short, *toy, f"run.dir={tmp_path / 'runs' / 'mlp'}")
    assert code == 0, text
    learned = (
        f"data.run={tmp_path / 'runs' / 'mlp'}",
        "learning.updates=10",
        "learning.batch=16",
        "logger=off",
    )
    small = ("worldmodel.encoder.width=8", "worldmodel.encoder.ff=8", "worldmodel.encoder.layers=1")
    code, text = tell(pretrain, "experiment=table_walker", *learned, *small, f"run.dir={tmp_path / 'pre'}")
    assert code == 0, text
    assert "predicted/r2" in text
    table = ("worldmodel/encoder=table", *small, f"trainer.encoder={tmp_path / 'pre'}")
    code, text = tell(train, *short, *toy, *table, f"run.dir={tmp_path / 'runs' / 'table'}")
    assert code == 0, text
    assert "tensors of the encoder come from" in text
    asked = ("experiment=sensors", f"runs={tmp_path / 'runs'}/*", "drops=0,0.5", "episodes=1")
    code, text = tell(analyse, *asked, f"out={tmp_path / 'out'}", f"record={tmp_path / 'rows.csv'}")
    assert code == 0, text
    assert "table, pre-trained" in text
    assert "4 new rows" in text
    other = ("worldmodel/encoder=mlp", f"trainer.encoder={tmp_path / 'pre'}")
    code, text = tell(train, *short, *toy, *other, f"run.dir={tmp_path / 'other'}")
    assert code == 2
    assert "nothing of the encoder" in text
