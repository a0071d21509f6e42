"""R18: the checkpoints of every past format load, act as they did, and go on training."""

import json
import shutil
from pathlib import Path

import pytest

from agents.evaluate import main as evaluate
from agents.train import main as train
from tests.e2e.conftest import TOY

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = ("agent.hidden=8", "agent.bins=11", "agent.critics=1", "worldmodel.encoder.latent=8")
TINY = ("worldmodel.encoder.hidden=[8]", "worldmodel.predictor.hidden=[8]", "worldmodel.aggregator.width=8")
# What were the defaults.
GROUPS = "worldmodel.encoder.normaliser=simnorm"
NEAR = "agent.plan.eval_horizon=null"
THEN = ("replay=uniform", "replay.fade=1.0", "worldmodel/terms=rollout", NEAR, GROUPS)
ENDS = ("trainer.eval_every=0", "trainer.checkpoint_every=0", "trainer.frames=260")
WORDS = (*TOY, *SMALL, *TINY, *THEN, *ENDS)


@pytest.mark.parametrize("version", sorted(path.name for path in GOLDEN.iterdir()))
def test_a_golden_run_loads_acts_and_goes_on(tell, tmp_path, version):
    run = shutil.copytree(GOLDEN / version / "run", tmp_path / "run", symlinks=True)
    assert sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) <= 200_000
    expected = json.loads((GOLDEN / version / "evaluation.json").read_text())
    # A search turns another processor's rounding into other actions; the policy does not.
    code, text = tell(evaluate, f"run={run}", "planner=none", "episodes=3", f"out={tmp_path / 'again.json'}")
    assert code == 0, text
    again = json.loads((tmp_path / "again.json").read_text())
    scores = [[episode["score"] for episode in found["episodes"]] for found in (again, expected)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)
    longer = [word for word in WORDS if not word.startswith("trainer.frames")]
    code, text = tell(train, *longer, "trainer.frames=300", f"run.dir={run}")
    assert code == 0, text
    assert f"resuming {run} at 260 frames" in text
