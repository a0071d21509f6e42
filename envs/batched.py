"""N environments as one TorchRL environment, with exact ends, restarts and whole-batch snapshots."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Binary, Bounded, Composite, OneHot, Unbounded
from torchrl.envs import EnvBase

from envs.backends import Backend, Local
from envs.factory import factory_args, make
from envs.names import hint
from envs.spec import EnvError, Spec

BACKENDS = ("serial", "thread", "process", "envpool")


class Batched(EnvBase):
    """TorchRL face of a backend.

    `("next", …)` holds the true final observation of an episode, the root after it the first one of the next.
    An environment that broke shows a truncated decision of 0 frames on its last good observation.
    """

    def __init__(self, backend: Backend):
        num = len(backend.arrays["reward"])
        super().__init__(batch_size=torch.Size([num]), device=torch.device("cpu"))
        # TorchRL environments already have `specs`; the plain facts are called something else.
        self.backend, self.facts = backend, backend.spec
        self.num = num
        self._keys = list(self.facts.observation)
        self._now: dict[str, torch.Tensor] = {}
        self._is_init = np.ones(num, bool)
        self._fresh = np.zeros(num, bool)
        self._resumed = False
        self._declare()

    @property
    def restarts_used(self) -> int:
        """How many environments were replaced so far."""
        return self.backend.restarts_used

    @property
    def warnings(self) -> list[str]:
        """What did not go exactly as promised (for instance an inexact restore)."""
        return self.backend.warnings

    def current(self) -> TensorDict:
        """Return the root tensordict for the next decision: N."""
        num = self.num
        entries = dict(self._now)
        for key in ("done", "terminated", "truncated"):
            entries[key] = torch.zeros(num, 1, dtype=torch.bool)
        entries["is_init"] = torch.from_numpy(self._is_init.copy())[:, None]
        entries["frames"] = self._root_frames()
        # Without a device, whoever takes it would copy it to ours.
        return TensorDict(entries, self.batch_size, device=self.device)

    def step_and_maybe_reset(self, tensordict: TensorDictBase) -> tuple[TensorDictBase, TensorDictBase]:
        """Step all environments, begin new episodes where they ended: N -> (N with "next", next root N)."""
        tensordict.set("next", self._step(tensordict))
        return tensordict, self.current()

    def snapshot(self) -> dict[str, Any]:
        """Return everything needed to go on exactly: per-environment snapshots, observations and counters."""
        arrays = self.backend.arrays
        return {
            "num": self.num,
            "spec": self.facts.to_json(),
            "envs": self.backend.snapshots(),
            "obs": {key: value.numpy().copy() for key, value in self._now.items()},
            "is_init": self._is_init.copy(),
            "fresh": self._fresh.copy(),
            "restarts_used": self.backend.restarts_used,
            **{name: arrays[name].copy() for name in ("episode", "decision", "frames", "seed")},
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on from a snapshot; the first `reset()` afterwards returns the restored observation."""
        if int(snapshot["num"]) != self.num:
            raise EnvError(
                f"the snapshot holds {snapshot['num']} environments, not {self.num}; set env.num to match"
            )
        if Spec.from_json(snapshot["spec"]) != self.facts:
            raise EnvError("the snapshot is of another environment; resume with the env settings of its run")
        arrays = self.backend.arrays
        for name in ("episode", "decision", "frames", "seed"):
            arrays[name][:] = _plain(snapshot[name])
        self.backend.restore([{k: _plain(v) for k, v in one.items()} for one in snapshot["envs"]])
        self.backend.restarts_used = int(snapshot["restarts_used"])
        self._now = {key: torch.from_numpy(np.array(_plain(snapshot["obs"][key]))) for key in self._keys}
        self._is_init = np.array(_plain(snapshot["is_init"]), bool)
        self._fresh = np.array(_plain(snapshot["fresh"]), bool)
        self._resumed = True

    def skip_episodes(self, begun: Sequence[int]) -> None:
        """Count this many episodes of each environment as played; call it before the first `reset()`."""
        self.backend.arrays["episode"][:] = np.asarray(begun) - 1

    def render(
        self, index: int = 0, height: int = 240, width: int = 320, quality: str = "full"
    ) -> np.ndarray:
        """Draw one environment: uint8 height width 3."""
        return self.backend.render(index, height, width, quality)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Stop workers and simulators."""
        if not self.is_closed:
            self.backend.close()
        super().close(raise_if_closed=raise_if_closed)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        arrays = self.backend.arrays
        arrays["action"][:] = tensordict.get("action").detach().numpy()
        self._resumed = False
        self.backend.step()
        nxt = {key: torch.from_numpy(arrays[f"next/{key}"].copy()) for key in self._keys}
        if arrays["failed"].any():
            self._cut_failed(nxt)
        done = arrays["terminated"] | arrays["truncated"]
        self._is_init = self._fresh = done
        self._now = nxt
        if done.any():
            rows = torch.from_numpy(np.flatnonzero(done))
            begun = {key: torch.from_numpy(arrays[f"now/{key}"][done]) for key in self._keys}
            # The caller holds the final observations: new tensors for the new episodes.
            self._now = {key: value.index_copy(0, rows, begun[key]) for key, value in nxt.items()}
        return TensorDict(
            {
                **nxt,
                "is_init": torch.zeros(self.num, 1, dtype=torch.bool),
                "done": torch.from_numpy(done)[:, None].clone(),
                **{k: torch.from_numpy(arrays[k].copy())[:, None] for k in _SCALARS},
            },
            self.batch_size,
            device=self.device,
        )

    def _cut_failed(self, nxt: dict[str, torch.Tensor]) -> None:
        arrays = self.backend.arrays
        failed = arrays["failed"]
        arrays["reward"][failed] = 0.0
        arrays["frames"][failed] = 0
        arrays["terminated"][failed] = False
        arrays["truncated"][failed] = True
        rows = torch.from_numpy(failed.copy())
        for key, value in nxt.items():
            value[rows] = self._now[key][rows]

    def _reset(self, tensordict: TensorDictBase | None = None, **_: Any) -> TensorDict:
        asked = tensordict.get("_reset", None) if tensordict is not None else None
        wanted = np.ones(self.num, bool) if asked is None else asked.reshape(self.num).numpy()
        if self._resumed and asked is None:
            self._resumed = False
            return self.current()
        # A new episode that nobody stepped yet is handed out, not thrown away: no episode number is skipped.
        rows = np.flatnonzero(wanted & ~self._fresh)
        if len(rows) or not self._now:
            self._begin(rows)
        return self.current()

    def _begin(self, rows: np.ndarray) -> None:
        arrays = self.backend.arrays
        arrays["failed"][:] = False
        self.backend.begin(rows.tolist())
        mask = arrays["failed"].copy()
        mask[rows] = True
        old = self._now or {key: torch.from_numpy(arrays[f"now/{key}"].copy()) for key in self._keys}
        picks = torch.from_numpy(np.flatnonzero(mask))
        self._now = {
            key: value.index_copy(0, picks, torch.from_numpy(arrays[f"now/{key}"][mask]))
            for key, value in old.items()
        }
        self._is_init = self._is_init | mask
        self._fresh = self._fresh | mask

    def _set_seed(self, seed: int | None) -> None:
        arrays = self.backend.arrays
        arrays["seed"][:] = 0 if seed is None else seed
        arrays["episode"][:] = -1
        self._fresh[:] = False
        self._resumed = False

    def _root_frames(self) -> torch.Tensor:
        frames = np.where(self._is_init, 0, self.backend.arrays["frames"])
        return torch.from_numpy(frames)[:, None]

    def _declare(self) -> None:
        num, action = self.num, self.facts.action
        shape = torch.Size([num, action.size])
        if action.kind == "discrete":
            self.action_spec = OneHot(action.size, shape=shape, dtype=torch.float32)
        else:
            self.action_spec = Bounded(-1.0, 1.0, shape=shape, dtype=torch.float32)
        fields: dict[str, Any] = {
            key: Bounded(0, 255, shape=torch.Size([num, *array.shape]), dtype=torch.uint8)
            if array.dtype == "uint8"
            else Unbounded(torch.Size([num, *array.shape]), dtype=torch.float32)
            for key, array in self.facts.observation.items()
        }
        column = torch.Size([num, 1])
        fields["is_init"] = Binary(1, shape=column, dtype=torch.bool)
        fields["frames"] = Unbounded(column, dtype=torch.int64)
        self.observation_spec = Composite(fields, shape=(num,))
        self.reward_spec = Unbounded(column, dtype=torch.float32)
        ends = {k: Binary(1, shape=column, dtype=torch.bool) for k in ("done", "terminated", "truncated")}
        self.done_spec = Composite(ends, shape=(num,))


_SCALARS = ("reward", "terminated", "truncated", "frames")


def make_batch(
    factory: Mapping[str, Any],
    num: int,
    *,
    backend: str = "serial",
    workers: int | None = None,
    timeout_s: float = 60.0,
    restarts: int = 5,
    seed: int = 0,
) -> Batched:
    """Build `num` environments from the arguments of `envs.make`; environment i is simulator (seed, i)."""
    if backend not in BACKENDS:
        raise EnvError(f"unknown env.backend {backend!r}; {hint(str(backend), BACKENDS)}")
    if num < 1:
        raise EnvError(f"env.num is {num}; at least one environment is needed")
    plan = factory_args(factory)
    if backend == "envpool":
        from envs.pool import Pool

        return Batched(Pool(plan, num, seed, workers=workers or 1))
    limits = {"timeout_s": timeout_s, "restarts": restarts}
    spec = _spec_of(plan)
    if backend == "process":
        from envs.processes import Processes

        count = min(num, workers or os.cpu_count() or 1)
        return Batched(Processes(plan, spec, num, seed, workers=count, **limits))
    count = 1 if backend == "serial" else min(num, workers or os.cpu_count() or 1)
    return Batched(Local(plan, spec, num, seed, workers=count, **limits))


def from_config(env: Any, seed: int, num: int | None = None, backend: str | None = None) -> Batched:
    """Build the batch that an `env` config describes."""
    return make_batch(
        factory_args(env),
        env.num if num is None else num,
        backend=backend or env.backend,
        workers=env.workers,
        timeout_s=env.timeout_s,
        restarts=env.restarts,
        seed=seed,
    )


def _plain(value: Any) -> Any:
    # A checkpoint hands arrays back as tensors.
    return value.numpy() if isinstance(value, torch.Tensor) else value


def _spec_of(plan: dict[str, Any]) -> Spec:
    simulator = make(**plan)
    simulator.close()
    return simulator.spec
