"""The shell around commands: exit codes, error texts, typed options and packages that hide ours."""

import errno
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import cli
from agents.cli import DiskError, UserError, option, parse_options, run_command

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Play:
    """Options for the tests."""

    run: str = option(text="a run")
    episodes: int = option(10, "episodes to play", low=1, high=1000)
    speed: float = option(1.0, "speed", low=0.0)
    film: bool = option(False, "film it")
    mode: str = option("policy", "who acts", choices=("policy", "planner"))
    planner: str | None = option(None, "what searches (default: as trained)", choices=("none", "mppi"))
    out: Path | None = option(None, "where to")
    seeds: list[int] = option(text="seeds", factory=list)


def mistake(call):
    """Return what the user is told, or None where all is well; any other exception is a bug."""
    try:
        call()
    except UserError as error:
        return str(error)
    return None


def run_body(error):
    def body(options):
        raise error

    return run_command("play", body, ["run=x"], options=Play)


def test_options_become_the_types_that_the_dataclass_declares():
    words = [
        "run=r=1",
        "episodes=1e2",
        "speed=2",
        "film=yes",
        "mode=planner",
        "out=a/b",
        "seeds=1,2",
        "seeds=3",
    ]
    assert parse_options(words, Play) == Play("r=1", 100, 2.0, True, "planner", None, Path("a/b"), [1, 2, 3])


def test_none_clears_an_optional_option_only():
    assert parse_options(["run=x", "out=none"], Play).out is None
    assert parse_options(["run=x", "planner=none"], Play).planner == "none"  # one of its choices
    with pytest.raises(UserError, match="whole number"):
        parse_options(["run=x", "episodes=none"], Play)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "run is missing"),
        (["run=x", "episode=3"], "did you mean episodes"),
        (["run=x", "--episodes", "3"], "written key=value, as in episodes="),
        (["run=x", "episodes=many"], "needs a whole number, got 'many'"),
        (["run=x", "episodes=1.5"], "needs a whole number"),
        (["run=x", "episodes=inf"], "needs a whole number"),
        (["run=x", "episodes=0"], "at least 1"),
        (["run=x", "episodes=1001"], "at most 1000"),
        (["run=x", "speed=nan"], "finite"),
        (["run=x", "film=maybe"], "true or false"),
        (["run=x", "mode=polcy"], "did you mean policy"),
        (["run=x", "run=y"], "given twice"),
        (["run="], "needs a text"),
    ],
)
def test_a_mistake_names_the_option_and_the_fix(words, said):
    with pytest.raises(UserError, match="fix: ") as caught:
        parse_options(words, Play)
    assert said in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.text(max_size=20) | st.builds("{}={}".format, st.sampled_from(["run", "seeds", "out"]), st.text())
    )
)
def test_any_words_give_options_or_a_user_error(words):
    said = mistake(lambda: parse_options(words, Play))
    assert said is None or "fix: " in said


@given(st.integers(1, 1000), st.floats(0, 1e6), st.booleans(), st.lists(st.integers(), max_size=4))
@settings(max_examples=200, deadline=None)
def test_values_survive_being_written_and_read(episodes, speed, film, seeds):
    words = [
        "run=x",
        f"episodes={episodes}",
        f"speed={speed!r}",
        f"film={film}",
        f"seeds={','.join(map(str, seeds))}",
    ]
    assert parse_options(words, Play) == Play("x", episodes, speed, film, seeds=seeds)


class EnvError(Exception):
    """Looks like the error of the environments package."""

    __module__ = "envs.spec"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("no run", "name one"), 2, "error: no run\n  fix: name one\n"),
        (DiskError("disk full"), 74, "error: disk full\n"),
        (EnvError("unknown task; did you mean x"), 2, "error: unknown task; did you mean x\n"),
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), 74, "no space left on device: /data/x"),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), 74, "permission denied: /root/x"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (
            ModuleNotFoundError("No module named 'nosuchpkg'", name="nosuchpkg"),
            2,
            "nosuchpkg is not installed",
        ),
    ],
)
def test_an_expected_error_is_told_without_a_traceback(error, code, said, capsys, monkeypatch):
    monkeypatch.delenv("JEPA_DEBUG", raising=False)
    assert run_body(error) == code
    text = capsys.readouterr().err
    assert said in text
    assert "Traceback" not in text


def test_a_wrapped_environment_error_is_told_as_itself(capsys):
    wrapped = RuntimeError("collector failed")
    wrapped.__cause__ = RuntimeError("its worker failed")
    wrapped.__cause__.__cause__ = EnvError("worker 3 died")
    assert run_body(wrapped) == 2
    assert capsys.readouterr().err == "error: worker 3 died\n"


def test_a_bug_keeps_its_traceback(capsys):
    assert run_body(ZeroDivisionError("oops")) == 1
    assert "ZeroDivisionError: oops" in capsys.readouterr().err


def test_debug_shows_the_traceback_of_an_expected_error(capsys, monkeypatch):
    monkeypatch.setenv("JEPA_DEBUG", "1")
    assert run_body(UserError("no run")) == 2
    assert "Traceback" in capsys.readouterr().err


def test_sigterm_runs_finally_blocks_and_ends_with_143():
    done = threading.Event()

    def body(options):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(5)
        finally:
            done.set()

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        run_command("play", body, ["run=x"], options=Play)
    assert left.value.code == 143
    assert done.is_set()
    assert signal.getsignal(signal.SIGTERM) is before


def test_help_of_options_shows_defaults_and_choices_and_runs_nothing(capsys):
    assert run_command("play", lambda options: 7, ["--help"], options=Play) == 0
    text = capsys.readouterr().out
    assert "episodes to play [10]" in text
    assert "(policy|planner)" in text
    assert "a run (required)" in text


@pytest.mark.parametrize("module", ["agents.plot", "agents.doctor"])
def test_help_imports_nothing_heavy(module):
    code = f"import runpy, sys; sys.argv[1:] = ['--help']; runpy.run_module({module!r}, run_name='__main__')"
    check_light(code)


def test_help_of_train_lists_environments_groups_and_examples_and_is_light():
    code = "import sys; from agents.cli import run_command; sys.exit(run_command('train', print, ['--help']))"
    text = check_light(code)
    for word in (
        "dmc_walker",
        "toy_ring",
        "trainer=",
        "trainer.frames=",
        "python -m agents.train env=dmc_walker",
    ):
        assert word in text


def check_light(code):
    heavy = ("torch", "torchrl", "mujoco", "dm_control", "gymnasium", "hydra", "matplotlib", "wandb")
    tell = f"print('HEAVY', sorted(set({heavy}) & set(sys.modules)))"
    probe = f"import atexit, sys; atexit.register(lambda: {tell})\n"
    done = subprocess.run(
        [sys.executable, "-c", probe + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("HEAVY []"), done.stdout[-200:]
    return done.stdout


def test_a_package_that_hides_ours_is_named_with_the_way_out(tmp_path, monkeypatch):
    folder = tmp_path / "envs"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    for name in [name for name in sys.modules if name.partition(".")[0] == "envs"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cli, "owners_of", lambda name: ["envs"])
    with pytest.raises(UserError, match=r"distribution envs.*\n.*pip uninstall envs"):
        cli.guard_packages()


def test_threads_are_set_before_torch_unless_the_user_chose(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    cli.prepare_threads(2)
    assert os.environ["OMP_NUM_THREADS"] == "2"
    assert "OMP_WAIT_POLICY" not in os.environ, "threads that sleep between small products halve the speed"
    cli.prepare_threads(3)
    assert os.environ["OMP_NUM_THREADS"] == "2"
    cli.prepare_threads(1)
    assert (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]) == ("2", "PASSIVE")


def test_threads_of_an_experiment_are_set_before_torch_too():
    code = (
        "import os, sys; from agents.cli import run_command\n"
        "def tell(cfg):\n"
        "    print(*map(os.environ.get, ('OMP_NUM_THREADS', 'OMP_WAIT_POLICY')), 'torch' in sys.modules)\n"
        "sys.exit(run_command('train', tell, ['experiment=race']))"
    )
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    env = {name: value for name, value in os.environ.items() if name not in names}
    said = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["2", "None", "False"]
