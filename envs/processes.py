"""Groups in child processes over shared memory: a child that dies or hangs is replaced within a budget."""

import contextlib
import mmap
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from envs.backends import fresh_arrays, over_budget, split
from envs.group import block_size
from envs.spec import EnvError, Spec
from envs.wire import pack, unpack
from envs.workers import split_snapshots

_START_S = 120.0


class _Lost(Exception):
    """A child died or did not answer; the text is what is known about it."""


class _Child:
    """One process, its channel and its error output."""

    def __init__(self, plan: dict[str, Any], memory: BinaryIO):
        ours, theirs = socket.socketpair()
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        path = [str(Path(__file__).parent.parent), *(entry or "." for entry in sys.path)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
        numbers = [str(theirs.fileno()), str(memory.fileno()), str(os.getpid())]
        # Not multiprocessing: its children import the user's main script again, which breaks scripts without
        # a __main__ guard and loads torch into every worker.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "envs.workers", *numbers],
            pass_fds=(theirs.fileno(), memory.fileno()),
            env=environment,
            stdin=subprocess.DEVNULL,
            stderr=self.log,
        )
        theirs.close()
        self.channel = Connection(ours.detach())
        self.channel.send_bytes(pack(plan))

    def ask(self, message: dict[str, Any]) -> None:
        """Send an order; a dead child shows in `answer`."""
        with contextlib.suppress(ConnectionError):
            self.channel.send_bytes(pack(message))

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """Wait for the reply; raise _Lost without one, EnvError if the child reports a mistake."""
        try:
            if not self.channel.poll(max(timeout_s, 0.0)):
                raise _Lost(f"no answer within the time allowed (env.timeout_s){self._said()}")
            reply = unpack(self.channel.recv_bytes())
        except (EOFError, ConnectionError) as error:
            code = self.process.wait(5)
            raise _Lost(f"worker process ended with code {code}{self._said()}") from error
        if "error" in reply:
            raise EnvError(reply["error"])
        return reply

    def stop(self) -> None:
        """End the process now and free what belonged to it."""
        self.channel.close()
        self.process.kill()
        self.process.wait()
        self.log.close()

    def _said(self) -> str:
        self.log.seek(0)
        text = self.log.read()[-3000:].decode(errors="replace").strip()
        return f"; it printed:\n{text}" if text else " and printed nothing"


class Processes:
    """The batch spread over child processes."""

    def __init__(
        self,
        factory: dict[str, Any],
        spec: Spec,
        num: int,
        seed: int,
        *,
        workers: int,
        timeout_s: float,
        restarts: int,
    ):
        self.spec, self.restarts_used, self.warnings = spec, 0, []
        self._factory, self._num, self._timeout, self._restarts = factory, num, timeout_s, restarts
        self._size = block_size(spec, num)
        folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self._memory = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - shared with children until close
        self._memory.truncate(self._size)
        self._block = mmap.mmap(self._memory.fileno(), self._size)
        self.arrays = fresh_arrays(self._block, spec, num, seed)
        self._pieces = split(num, workers)
        self._children: list[_Child] = []
        try:
            self._children += [self._start(piece) for piece in self._pieces]
            for child in self._children:
                child.answer(_START_S)
        except _Lost as error:
            self.close()
            raise EnvError(f"a worker process could not start: {error}") from error
        except EnvError:
            self.close()
            raise

    def begin(self, rows: Sequence[int]) -> None:
        """Start the next episode of these environments."""
        orders = [
            {"verb": "begin", "rows": [int(row) for row in rows if first <= row < first + count]}
            for first, count in self._pieces
        ]
        self._command(orders, restart=True)

    def step(self) -> None:
        """Apply the actions; replace children that died or hang, and mark their environments as failed."""
        self.arrays["failed"][:] = False
        for reply in self._command([{"verb": "step"}] * len(self._pieces), restart=True):
            for row, text in reply.get("broken", {}).items():
                self.arrays["failed"][int(row)] = True
                self._count(text)

    def snapshots(self) -> list[dict[str, Any]]:
        """Return one snapshot per environment."""
        replies = self._command([{"verb": "snapshots"}] * len(self._pieces))
        return [snapshot for reply in replies for snapshot in split_snapshots(reply)]

    def restore(self, snapshots: list[dict[str, Any]]) -> None:
        """Put every environment where a snapshot was taken."""
        orders = []
        for first, count in self._pieces:
            mine = enumerate(snapshots[first : first + count])
            flat = {f"{i}/{key}": value for i, snapshot in mine for key, value in snapshot.items()}
            orders.append({"verb": "restore", **flat})
        for reply in self._command(orders):
            self.warnings += reply["warnings"]

    def render(self, row: int, height: int, width: int, quality: str) -> np.ndarray:
        """Draw one environment: uint8 height width 3."""
        piece = next(i for i, (first, count) in enumerate(self._pieces) if first <= row < first + count)
        order = {"verb": "render", "row": row, "height": height, "width": width, "quality": quality}
        self._children[piece].ask(order)
        try:
            return self._children[piece].answer(_START_S)["image"]
        except _Lost as error:
            raise EnvError(f"environment {row} could not be drawn: {error}") from error

    def close(self) -> None:
        """Stop every child."""
        for child in self._children:
            child.stop()
        self._children = []
        self._memory.close()

    @property
    def pids(self) -> list[int]:
        """Process numbers of the children."""
        return [child.process.pid for child in self._children]

    def _start(self, piece: tuple[int, int]) -> _Child:
        plan = {"spec": self.spec.to_json(), "num": self._num, "size": self._size, "factory": self._factory}
        return _Child({**plan, "first": piece[0], "count": piece[1]}, self._memory)

    def _command(self, orders: list[dict[str, Any]], *, restart: bool = False) -> list[dict[str, Any]]:
        deadline = time.monotonic() + (self._timeout if restart else _START_S)
        for child, order in zip(self._children, orders, strict=True):
            child.ask(order)
        replies = []
        for number, child in enumerate(self._children):
            try:
                replies.append(child.answer(deadline - time.monotonic()))
            except _Lost as error:
                if not restart:
                    raise EnvError(f"a worker process was lost: {error}") from error
                replies.append(self._replace(number, str(error)))
        return replies

    def _replace(self, number: int, why: str) -> dict[str, Any]:
        first, count = self._pieces[number]
        rows = list(range(first, first + count))
        while True:
            self._count(why)
            self._children[number].stop()
            self._children[number] = self._start(self._pieces[number])
            try:
                self._children[number].answer(_START_S)
                self._children[number].ask({"verb": "begin", "rows": rows})
                self._children[number].answer(self._timeout)
            except _Lost as error:
                why = str(error)
                continue
            self.arrays["failed"][rows] = True
            return {}

    def _count(self, text: str) -> None:
        self.restarts_used += 1
        if self.restarts_used > self._restarts:
            raise EnvError(over_budget(self._restarts, text))
