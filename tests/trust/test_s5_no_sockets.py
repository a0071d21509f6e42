"""S5: a default run talks to nobody. Whatever would open a network connection is heard by an audit hook."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LISTENING = """
import socket, sys
heard = []

def hear(event, args):
    if event in ("socket.connect", "socket.bind", "socket.sendto") and args[0].family != socket.AF_UNIX:
        heard.append((event, str(args[1])))
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "urllib.Request", "http.client.connect"):
        heard.append((event, str(args[:2])))

sys.addaudithook(hear)
{action}
print("HEARD", heard)
sys.exit(1 if heard else 0)
"""
TRAIN = """
from agents.train import main
assert main(sys.argv[1:]) == 0
"""


def listen(action, *words, cwd):
    code = LISTENING.replace("{action}", action)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_training_opens_no_connection(tmp_path):
    words = (
        "env=toy_point_mass",
        "trainer=debug",
        "trainer.frames=200",
        "logger.tensorboard=true",
        f"run.dir={tmp_path / 'run'}",
    )
    done = listen(TRAIN, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "HEARD []" in done.stdout


def test_a_connection_would_be_heard(tmp_path):
    call = "try: socket.create_connection(('127.0.0.1', 9), 0.1)\nexcept OSError: pass"
    assert listen(call, cwd=tmp_path).returncode == 1
