"""Runs training commands in forked children of one process that has imported everything once.

A start costs seconds in imports; twenty kills would cost minutes. This module is a script that reads a JSON
request a line (what `Runner.train` sends) and answers each with a JSON line.
"""

import hashlib
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WARM = (
    "torchrl.collectors",
    "agents.session",
    "agents.train",
    "envs.batched",
    "envs.toy",
    "gymnasium",
    "hydra",
)


def serve() -> None:
    """Answer requests until standard input closes."""
    import torch

    torch.set_num_threads(1)

    for module in WARM:
        importlib.import_module(module)

    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        began = time.monotonic()
        sent, child = None, os.fork()
        if child == 0:
            _train(request["argv"], request["log"], request["kill_at"])
        if request["kill_when"] is not None:
            while not os.path.exists(request["kill_when"]) and time.monotonic() - began < 90:
                time.sleep(0.05)
            os.kill(child, request["signal"])
            sent = time.monotonic()
        elif request["kill_after"] is not None:
            time.sleep(request["kill_after"])
            os.kill(child, request["signal"])
            sent = time.monotonic()
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        now = time.monotonic()
        answer = {"code": code, "seconds": now - began, "left_after": None if sent is None else now - sent}
        print(json.dumps(answer), flush=True)


def _train(argv: list[str], log: str, kill_at: int | None) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    code, points = 1, itertools.count()
    if kill_at is not None:
        from agents import durable

        durable.step = lambda name: os.kill(os.getpid(), signal.SIGKILL) if next(points) == kill_at else None
    try:
        code = agents_train(argv)
        print(f"points={next(points)}")
    except SystemExit as leaving:  # a signal in the first update leaves at once
        code = leaving.code if isinstance(leaving.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def agents_train(argv: list[str]) -> int:
    """Run the command in this process."""
    from agents.train import main

    return main(argv)


class Runner:
    """The other end: start it once, ask it to train, kill what it started."""

    def __init__(self, folder: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.log = folder / "log.txt"
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=folder,
        )
        assert self._answer()["ready"]

    def train(
        self,
        *argv: str,
        kill_after: float | None = None,
        kill_when: Path | None = None,
        kill_at: int | None = None,
        sig: int = signal.SIGKILL,
    ) -> dict:
        """Run a training command; code and duration.

        A signal comes after seconds or once a file exists; SIGKILL at the n-th step of what is made durable.
        """
        when = kill_when and str(kill_when)
        request = {"argv": argv, "kill_after": kill_after, "kill_when": when, "signal": int(sig)}
        request |= {"log": str(self.log), "kill_at": kill_at}
        assert self.process.stdin is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """Stop the helper."""
        self.process.kill()
        self.process.wait()

    def _answer(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the runner died; see {self.log}"
        return json.loads(line)


def fingerprint(run: Path) -> dict[str, str]:
    """SHA-256 of everything training made: weights, optimiser, replay rows and metrics."""
    last = run / "checkpoints" / "last"
    files = [last / "weights.safetensors", last / "optim.safetensors", run / "metrics.jsonl"]
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    state = json.loads((last / "state.json").read_text())
    if "replay" in state:
        found["replay"] = _digest_rows(run / "replay", state["replay"]["chunks"])
    found["done"] = state["updates"] if "updates" in state else state["progress"]["counters"]["frames"]
    return found


def _digest_rows(folder: Path, chunks: list[dict]) -> str:
    """SHA-256 of a replay's rows, however they were cut into files."""
    import numpy as np
    from safetensors.numpy import load_file

    contents = [load_file(folder / chunk["file"]) for chunk in chunks]
    whole = {name: np.concatenate([content[name] for content in contents]) for name in contents[0]}
    order, digest = np.argsort(whole["rows"], kind="stable"), hashlib.sha256()
    for name in sorted(whole):
        digest.update(np.ascontiguousarray(whole[name][order]).tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    serve()
