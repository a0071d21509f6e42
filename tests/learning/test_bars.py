"""The default agent learns, from the command line: minutes, so only with `make test ARGS="-m learning"`."""

import json

import pytest

from agents.train import main


@pytest.mark.learning
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("settings", "enough"),
    [
        (["env=gym", "env.id=CartPole-v1", "trainer.frames=30000"], 400),
        (["env=dmc_cartpole_swingup", "trainer.frames=50000"], 700),
        (["env=dmc_walker"], 800),
    ],
)
def test_a_default_run_reaches_its_bar(tmp_path, settings, enough):
    assert (
        main([*settings, f"run.dir={tmp_path / 'run'}", "trainer.video=false", "logger.progress=plain"]) == 0
    )
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(row["eval/return"] for row in rows if "eval/return" in row) >= enough
