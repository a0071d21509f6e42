"""One small finished run that the tests of this folder copy or look at."""

import shutil

import pytest

QUIET = ("trainer=debug", "logger.progress=off")
TOY = ("env=toy_point_mass", *QUIET, "env.time_limit=40", "trainer.log_every=50")
LONGER = (*TOY, "trainer.frames=600", "trainer.checkpoint_every=100")


def last_wins(*words):
    """The words without those whose setting is named again later."""
    return tuple({word.partition("=")[0]: word for word in words}.values())


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A run of 400 frames with checkpoints at 200, 300 and 400, and two evaluations; do not write to it."""
    from agents.train import main

    run = tmp_path_factory.mktemp("finished") / "run"
    short = ("trainer.frames=400", "trainer.checkpoint_every=100", "trainer.eval_every=200")
    assert main([*TOY, *short, "trainer.eval_episodes=2", f"run.dir={run}"]) == 0
    return run


@pytest.fixture
def copied(finished, tmp_path):
    """The same run, to break."""
    return shutil.copytree(finished, tmp_path / "run", symlinks=True)


@pytest.fixture
def tell(capsys):
    """Run a command in this process; its exit code and all it printed."""

    def run(main, *argv):
        code = main(list(argv))
        said = capsys.readouterr()
        text = said.out + said.err
        assert code == 1 or "Traceback" not in text
        return code, text

    return run
