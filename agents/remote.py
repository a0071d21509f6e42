"""Collection in a process of its own, beside learning: TorchRL's asynchronous collector with one worker.

The two processes share a block of memory (`Board`) with the newest weights, two switches and a note about
what went wrong. The collector runs one batch ahead of the loop and then waits: data is never more than two
batches old, and never more is collected than learning asks for.
"""

import contextlib
import functools
import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.collectors import Collector, MultiCollector

from agents.assembly import build_agent
from agents.collect import AgentPolicy
from agents.randomness import seed_everything
from agents.rollouts import facts
from envs import EnvError, Spec, from_config

BATCH = 16  # decisions per message: it costs about three milliseconds, and weights are as old as a batch
CLOSE_S = 5.0
_VERSION, _RANDOM, _PLAYING = range(3)
_NOTE_BYTES = 1 << 16


class Board:
    """Memory that both processes see: weights with a version, switches, and room for a note."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self._layout, end = [], 0
        for name, value in weights.items():
            self._layout.append((name, end, value.nbytes, value.dtype, value.shape))
            end += -(-value.nbytes // 64) * 64
        self._block = torch.zeros(end, dtype=torch.uint8).share_memory_()
        self._switches = torch.zeros(3, dtype=torch.int64).share_memory_()
        self._note = torch.zeros(_NOTE_BYTES, dtype=torch.uint8).share_memory_()

    def publish(self, weights: dict[str, Tensor]) -> None:
        """Show new weights to the other side."""
        # Odd while being written: the reader then waits instead of acting on half of an update.
        self._switches[_VERSION] += 1
        self._copy(weights, read=False)
        self._switches[_VERSION] += 1

    def fetch(self, weights: dict[str, Tensor], seen: int) -> int:
        """Copy weights newer than version `seen` into place; return the version that is there now."""
        while (version := int(self._switches[_VERSION])) != seen:
            if version % 2:
                time.sleep(1e-4)
                continue
            self._copy(weights, read=True)
            if int(self._switches[_VERSION]) == version:
                return version
        return seen

    @property
    def random(self) -> bool:
        """Whether actions are to be uniformly random."""
        return bool(self._switches[_RANDOM])

    @random.setter
    def random(self, value: bool) -> None:
        self._switches[_RANDOM] = value

    @property
    def playing(self) -> bool:
        """Whether collection has begun; before that TorchRL only tries the policy out."""
        return bool(self._switches[_PLAYING])

    @playing.setter
    def playing(self, value: bool) -> None:
        self._switches[_PLAYING] = value

    def complain(self, error: Exception) -> None:
        """Leave a note about an error."""
        text = {"expected": isinstance(error, EnvError), "text": str(error)[:8_000]}
        data = json.dumps(text | {"traceback": traceback.format_exc()[-8_000:]}).encode()[: _NOTE_BYTES - 1]
        self._note[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)

    def complaint(self) -> dict[str, Any] | None:
        """Read the note about an error, if there is one."""
        data = bytes(self._note.numpy()).rstrip(b"\0")
        return json.loads(data) if data else None

    @torch.no_grad()
    def _copy(self, weights: dict[str, Tensor], *, read: bool) -> None:
        for name, start, size, dtype, shape in self._layout:
            shown = self._block[start : start + size].view(dtype).view(shape)
            target, source = (weights[name], shown) if read else (shown, weights[name])
            target.copy_(source)


class RemoteActor:
    """The policy in the collecting process: builds the agent there and keeps its weights up to date."""

    def __init__(self, cfg: Any, spec: Spec, device: str, seed: int, board: Board) -> None:
        # TorchRL would take a public `spec` for one of its own.
        self._cfg, self._spec, self._device, self._seed, self.board = cfg, spec, device, seed, board
        self._actor: AgentPolicy | None = None
        self._weights: dict[str, Tensor] = {}
        self._seen = 0

    def __call__(self, step: TensorDictBase) -> TensorDictBase:
        """Choose an action for every environment with the newest weights: N."""
        actor = self._actor or self._build()
        actor.rehearsing, actor.random = not self.board.playing, self.board.random
        self._seen = self.board.fetch(self._weights, self._seen)
        return actor(step)

    def _build(self) -> AgentPolicy:
        # It plans, it never updates; what it compiles is no news for the terminal of the run.
        agent = build_agent(self._cfg, self._spec, torch.device(self._device), say=lambda text: None)
        agent.generator.manual_seed(self._seed)
        self._weights = exploring_weights(agent)
        self._actor = AgentPolicy(agent, self._cfg.env.num)
        return self._actor


class Worker(Collector):
    """The collector in the other process; an error goes to the board before the process ends."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, track_traj_ids=False, **kwargs)

    def iterator(self) -> Iterator[TensorDictBase]:
        """Collect for ever: N T."""
        try:
            yield from super().iterator()
        except Exception as error:
            policy: Any = self.policy
            policy.board.complain(error)
            raise SystemExit(1) from error  # quietly: the parent shows the note


class Concurrent:
    """Collects in another process while this one learns; a resumed run begins new episodes."""

    def __init__(self, cfg: Any) -> None:
        self.cfg, self.spec = cfg, facts(cfg.env)
        self.begun = np.zeros(cfg.env.num, np.int64)  # episodes that the loop has seen the beginning of
        self._collector: Any = None

    def attach(self, agent: Any) -> None:
        """Act with this agent."""
        self._agent = agent
        self._board = Board(exploring_weights(agent))

    def restore(self, state: dict[str, Any]) -> bool:
        """Begin the episodes after those that `state` knows of: the environments died with their process."""
        if "environment" in state:
            self.begun = np.asarray(state["environment"]["episode"], np.int64) + 1
        else:
            self.begun = np.asarray(state["episodes"], np.int64)
        return False

    @property
    def warnings(self) -> Sequence[str]:
        """None: new episodes begin as any do."""
        return ()

    def start(self) -> None:
        """Start the other process and wait until it is ready."""
        cfg, num = self.cfg, self.cfg.env.num
        # One decision at a time is too little work for a GPU, unless it plans or looks at pictures.
        heavy = cfg.agent.planner != "none" or any(len(a.shape) == 3 for a in self.spec.observation.values())
        device = str(self._agent.device) if heavy else "cpu"
        # A resumed run must not repeat the noise it began with.
        seed = int(np.random.SeedSequence([cfg.seed, *self.begun.tolist()]).generate_state(1)[0])
        threads, build = torch.get_num_threads(), cast(Any, MultiCollector)
        self._board.publish(exploring_weights(self._agent))
        try:
            with _no_signals():  # the child inherits that: a Ctrl-C in the terminal reaches both processes
                self._collector = build(
                    [functools.partial(_environment, cfg.env, cfg.seed, seed, self.begun.tolist())],
                    RemoteActor(cfg, self.spec, device, seed, self._board),
                    sync=False,
                    collector_class=Worker,
                    init_fn=functools.partial(_leave_with, os.getpid()),
                    frames_per_batch=max(BATCH // num, 1) * num,
                    total_frames=-1,
                    trust_policy=True,
                    no_cuda_sync=True,
                    num_threads=threads,
                )
        except EnvError as error:  # TorchRL adds the traceback of the worker
            raise EnvError(str(error).partition("\n\nWorker traceback:")[0]) from error
        self._stream = iter(self._collector)

    def next(self, *, random: bool) -> TensorDictBase:
        """Return the batch collected meanwhile; the next one is made with the weights of now: N T."""
        self._board.random, self._board.playing = random, True
        if not random:
            self._board.publish(exploring_weights(self._agent))
        try:
            batch = next(self._stream)
        except (RuntimeError, OSError, EOFError) as error:
            raise self._explain(error) from error
        self.begun += batch.get("is_init").flatten(1).sum(1).numpy()
        return batch

    def state(self) -> dict[str, Any]:
        """How many episodes each environment began."""
        return {"episodes": self.begun.tolist()}

    def close(self) -> None:
        """Stop the other process, by force if it does not answer."""
        if self._collector is not None:
            threads = torch.get_num_threads()
            self._collector.shutdown(timeout=CLOSE_S, raise_on_error=False)
            torch.set_num_threads(threads)
            self._collector = None

    @property
    def pid(self) -> int:
        """Process number of the other process."""
        return self._collector.procs[0].pid

    def _explain(self, error: Exception) -> Exception:
        process, note = self._collector.procs[0], self._board.complaint()
        process.join(1.0)
        if note is not None and note["expected"]:
            return EnvError(note["text"])
        if note is not None:
            return RuntimeError(f"the collecting process failed:\n{note['traceback']}")
        if process.is_alive():
            return error
        return EnvError(
            f"the collecting process ended with code {process.exitcode}, perhaps for lack of memory; the "
            "same command resumes from the last checkpoint, and trainer.collector=sync needs no such process"
        )


def exploring_weights(agent: Any) -> dict[str, Tensor]:
    """The weights (not copies) that exploring reads."""
    modules = agent.exploring._asdict()
    return {f"{name}.{key}": value for name in modules for key, value in modules[name].state_dict().items()}


def _environment(env: Any, seed: int, noise_seed: int, begun: list[int]) -> Any:
    seed_everything(noise_seed)  # for user environments that draw from the global generators
    built = from_config(env, seed=seed)
    built.skip_episodes(begun)
    return built


@contextlib.contextmanager
def _no_signals() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_with(parent: int) -> None:
    # A simulator that never returns does not notice that the parent was killed.
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
