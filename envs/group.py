"""Some simulators stepped one after the other into shared arrays; the same code in every backend."""

import contextlib
import math
from typing import Any

import numpy as np

from envs.factory import make
from envs.spec import EnvError, Simulator, Spec, explain

Arrays = dict[str, np.ndarray]


def layout(spec: Spec, num: int) -> list[tuple[str, tuple[int, ...], str]]:
    """List name, shape and dtype of the arrays a batch of `num` environments shares with its workers."""
    rows = [("action", (num, spec.action.size), "float32"), ("reward", (num,), "float32")]
    rows += [(name, (num,), "bool") for name in ("terminated", "truncated", "failed")]
    rows += [(name, (num,), "int64") for name in ("frames", "episode", "decision", "seed")]
    for key, array in spec.observation.items():
        rows += [(f"next/{key}", (num, *array.shape), array.dtype)]
        rows += [(f"now/{key}", (num, *array.shape), array.dtype)]
    return rows


def carve(buffer: Any, spec: Spec, num: int) -> Arrays:
    """View one block of bytes as the arrays of `layout`."""
    arrays, start = {}, 0
    for name, shape, dtype in layout(spec, num):
        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(buffer, dtype, count, start).reshape(shape)
        start += -(-count * np.dtype(dtype).itemsize // 64) * 64
    return arrays


def block_size(spec: Spec, num: int) -> int:
    """Count the bytes `carve` needs."""
    return sum(-(-int(np.prod(s)) * np.dtype(d).itemsize // 64) * 64 for _, s, d in layout(spec, num))


class Group:
    """The simulators with numbers `first` to `first + len`; arrays hold all environments of the batch.

    `next/<key>` is the true observation after a step, `now/<key>` the first one of a new episode.
    """

    def __init__(self, factory: dict[str, Any], arrays: Arrays, first: int, count: int):
        self._factory, self._arrays, self._first = factory, arrays, first
        self._rows = range(first, first + count)
        self._keys = [name.removeprefix("next/") for name in arrays if name.startswith("next/")]
        self._floats = [key for key in self._keys if arrays[f"next/{key}"].dtype == np.float32]
        self.sims: list[Simulator] = [self._build(row) for row in self._rows]

    def begin(self, rows: list[int]) -> None:
        """Start the next episode of these environments."""
        for row in rows:
            self._begin(row)

    def step(self) -> dict[int, str]:
        """Apply the actions; return what went wrong in each environment that broke and was built anew."""
        arrays, broken = self._arrays, {}
        actions, reward, frames = arrays["action"], arrays["reward"], arrays["frames"]
        terminated, truncated = arrays["terminated"], arrays["truncated"]
        fields = [(key, arrays[f"next/{key}"]) for key in self._keys]
        ended = []
        arrays["decision"][self._first : self._rows.stop] += 1
        for row, sim in zip(self._rows, self.sims, strict=True):
            try:
                step = sim.step(actions[row])
            except EnvError as error:
                raise EnvError(f"{self._where(row)}: {error}") from error
            except Exception as error:  # noqa: BLE001 - counted, shown and restarted
                broken[row] = f"{self._where(row)}: {explain(error)}"
                continue
            for key, out in fields:
                out[row] = step.obs[key]
            reward[row], frames[row] = step.reward, step.frames
            terminated[row], truncated[row] = step.terminated, step.truncated
            if step.terminated or step.truncated:
                ended.append(row)
        self._check_finite(broken)
        for row in ended:
            self._begin(row)
        for row in broken:
            self._replace(row)
        return broken

    def snapshots(self) -> list[dict[str, Any]]:
        """Return one snapshot per simulator."""
        return [
            {**sim.snapshot(), "_decision": int(self._arrays["decision"][row])}
            for row, sim in zip(self._rows, self.sims, strict=True)
        ]

    def restore(self, snapshots: list[dict[str, Any]]) -> list[str]:
        """Put every simulator where a snapshot was taken; return the warnings of inexact ones."""
        warnings = []
        for row, sim, snapshot in zip(self._rows, self.sims, snapshots, strict=True):
            sim.seed = int(self._arrays["seed"][row])
            sim.restore({key: value for key, value in snapshot.items() if key != "_decision"})
            self._arrays["episode"][row] = sim.episode
            self._arrays["decision"][row] = int(snapshot["_decision"])
            if not getattr(sim, "exact", True):
                warnings.append(f"environment {row}: {getattr(sim, 'warning', 'inexact restore')}")
        return warnings

    def render(self, row: int, height: int, width: int, quality: str) -> np.ndarray:
        """Draw one environment: uint8 height width 3."""
        return self.sims[row - self._first].render(height, width, quality)

    def close(self) -> None:
        """Close every simulator."""
        for sim in self.sims:
            sim.close()

    def _build(self, row: int) -> Simulator:
        sim = make(**self._factory, seed=int(self._arrays["seed"][row]), index=row)
        sim.episode = int(self._arrays["episode"][row])
        return sim

    def _replace(self, row: int) -> None:
        # Whatever a broken simulator does when it is closed must not hide why it broke.
        with contextlib.suppress(Exception):
            self.sims[row - self._first].close()
        self.sims[row - self._first] = self._build(row)
        self._begin(row)

    def _begin(self, row: int) -> None:
        sim, arrays = self.sims[row - self._first], self._arrays
        sim.seed = int(arrays["seed"][row])
        sim.episode = int(arrays["episode"][row])
        # Written first: a worker that dies in reset must not try this episode for ever.
        arrays["episode"][row] += 1
        arrays["decision"][row] = 0
        try:
            obs = sim.reset()
        except EnvError:
            raise
        except Exception as error:
            raise EnvError(
                f"{self._where(row)}: reset failed; fix the environment\n  {explain(error)}"
            ) from error
        for key in self._keys:
            arrays[f"now/{key}"][row] = obs[key]
        for key in self._floats:
            if not np.isfinite(obs[key]).all():
                raise EnvError(self._complaint(f"observation {key!r}", row))

    def _check_finite(self, broken: dict[int, str]) -> None:
        part = slice(self._first, self._rows.stop)
        for key in self._floats:
            values = self._arrays[f"next/{key}"]
            if not np.isfinite(values[part]).all():
                for row in self._rows:
                    if row not in broken and not np.isfinite(values[row]).all():
                        raise EnvError(self._complaint(f"observation {key!r}", row))
        for row in self._rows:
            if row not in broken and not math.isfinite(self._arrays["reward"][row]):
                raise EnvError(self._complaint("the reward", row))

    def _complaint(self, what: str, row: int) -> str:
        fix = "fix the simulator, or end the episode before it breaks"
        return f"{self._where(row)}: {what} is NaN or infinite; {fix}"

    def _where(self, row: int) -> str:
        arrays = self._arrays
        return f"environment {row}, episode {arrays['episode'][row]}, decision {arrays['decision'][row]}"
