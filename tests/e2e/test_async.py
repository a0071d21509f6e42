"""Collection beside learning, through the command line: exact counters, a polite signal, resuming."""

import json
import signal

import pytest

from tests.e2e.runner import Runner

RUN = ("trainer=debug", "env=toy_point_mass", "trainer.collector=async", "logger.progress=plain")


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    helper = Runner(tmp_path_factory.mktemp("runner"))
    yield helper
    helper.close()


def test_an_asynchronous_run_stops_resumes_and_counts_exactly(runner, tmp_path):
    run = tmp_path / "run"
    # Too long to finish, so that the signal meets it at work: after the first checkpoint beyond 500 frames.
    long = (*RUN, "trainer.frames=1000000", f"run.dir={run}")
    stopped = runner.train(*long, kill_when=run / "checkpoints" / "000000512", sig=signal.SIGTERM)
    assert stopped["code"] == 143, runner.log.read_text()
    saved = json.loads((run / "checkpoints" / "last" / "state.json").read_text())
    before = saved["progress"]["counters"]
    assert before["frames"] >= 512
    frames = before["frames"] + 200
    again = runner.train(*RUN, f"trainer.frames={frames}", f"run.dir={run}")
    assert again["code"] == 0, runner.log.read_text()
    assert "new episodes begin" in runner.log.read_text()
    state = json.loads((run / "checkpoints" / "last" / "state.json").read_text())
    counters = state["progress"]["counters"]
    assert frames <= counters["frames"] < frames + 16
    assert counters["decisions"] == counters["frames"] == state["replay"]["decisions"]
    assert counters["updates"] == counters["decisions"] // 4
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["frames"] for row in rows] == sorted(row["frames"] for row in rows)
    lengths = [row["train/length"] for row in rows if "train/length" in row]
    # The interrupted episodes are dropped, not glued to the ones that follow.
    assert lengths
    assert set(lengths) == {100.0}
