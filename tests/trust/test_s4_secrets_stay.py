"""S4: secrets of the environment appear in no byte that a run leaves or prints, not even when it fails."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECRETS = {
    "WANDB_API_KEY": "canary-1f07a9c2",
    "HF_TOKEN": "canary-77be0d31",
    "AWS_SECRET_ACCESS_KEY": "canary-c0ffee42",
    "MY_PASSWORD": "canary-5eed5eed",
}
BROKEN = """
import numpy as np, gymnasium as gym

class Broken(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (3,))
    action_space = gym.spaces.Box(-1, 1, (1,))
    steps = 0

    def reset(self, seed=None, options=None):
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.steps += 1
        value = np.nan if self.steps > 150 else 0.1
        return np.full(3, value, np.float32), 0.0, False, self.steps % 20 == 0, {}

make = Broken
"""


def test_no_secret_is_written_or_printed(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    words = ["trainer=debug", "trainer.frames=400", "logger.every_s=0.1", f"run.root={tmp_path / 'runs'}"]
    command = [sys.executable, "-m", "agents.train", "env.entry=broken:make", *words]
    environment = os.environ | SECRETS | {"PYTHONPATH": f"{ROOT}:{tmp_path}", "JEPA_DEBUG": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, timeout=300, check=False
    )
    assert done.returncode == 2, done.stderr.decode()  # a NaN, said in words
    written = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert any(path.name == "run.json" for path in written)
    assert any("events" in path.name or path.name == "metrics.jsonl" for path in written)
    everything = [done.stdout, done.stderr, *(path.read_bytes() for path in written)]
    for name, secret in SECRETS.items():
        assert not any(secret.encode() in text for text in everything), name
