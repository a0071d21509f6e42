"""Where the groups of a batch run: in this thread, in several threads, or in child processes that may die."""

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Overdue
from typing import Any, Protocol

import numpy as np

from envs.group import Arrays, Group, block_size, carve
from envs.spec import EnvError, Spec


class Backend(Protocol):
    """Steps all environments of a batch through `arrays`; see `envs.group` for their meaning."""

    spec: Spec
    arrays: Arrays
    restarts_used: int
    warnings: list[str]

    def begin(self, rows: Sequence[int]) -> None:
        """Start the next episode of these environments; `now/<key>` holds its first observation."""
        ...

    def step(self) -> None:
        """Apply `action`; `failed` marks environments that broke and began a new episode."""
        ...

    def snapshots(self) -> list[dict[str, Any]]:
        """Return one snapshot per environment."""
        ...

    def restore(self, snapshots: list[dict[str, Any]]) -> None:
        """Put every environment where a snapshot was taken."""
        ...

    def render(self, row: int, height: int, width: int, quality: str) -> np.ndarray:
        """Draw one environment: uint8 height width 3."""
        ...

    def close(self) -> None:
        """Stop everything."""
        ...


def split(num: int, workers: int) -> list[tuple[int, int]]:
    """Cut `num` environments into (first, count) pieces of nearly equal size."""
    edges = [num * i // workers for i in range(workers + 1)]
    return [(a, b - a) for a, b in itertools.pairwise(edges) if b > a]


def fresh_arrays(buffer: Any, spec: Spec, num: int, seed: int) -> Arrays:
    """Carve the arrays and set the counters to before the first episode."""
    arrays = carve(buffer, spec, num)
    arrays["episode"][:] = -1
    arrays["seed"][:] = seed
    return arrays


class Local:
    """All environments in this process: one group, or one per thread (pays if steps release the GIL)."""

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
        self._restarts, self._timeout = restarts, timeout_s
        self.arrays = fresh_arrays(bytearray(block_size(spec, num)), spec, num, seed)
        self._pieces = split(num, workers)
        self._groups = [Group(factory, self.arrays, *piece) for piece in self._pieces]
        self._pool = ThreadPoolExecutor(len(self._groups)) if len(self._groups) > 1 else None

    def begin(self, rows: Sequence[int]) -> None:
        """Start the next episode of these environments."""
        for (first, count), group in zip(self._pieces, self._groups, strict=True):
            group.begin([row for row in rows if first <= row < first + count])

    def step(self) -> None:
        """Apply the actions."""
        self.arrays["failed"][:] = False
        for broken in self._step_all():
            for row, text in broken.items():
                self.arrays["failed"][row] = True
                self.restarts_used += 1
                if self.restarts_used > self._restarts:
                    raise EnvError(over_budget(self._restarts, text))

    def snapshots(self) -> list[dict[str, Any]]:
        """Return one snapshot per environment."""
        return [snapshot for group in self._groups for snapshot in group.snapshots()]

    def restore(self, snapshots: list[dict[str, Any]]) -> None:
        """Put every environment where a snapshot was taken."""
        for (first, count), group in zip(self._pieces, self._groups, strict=True):
            self.warnings += group.restore(snapshots[first : first + count])

    def render(self, row: int, height: int, width: int, quality: str) -> np.ndarray:
        """Draw one environment: uint8 height width 3."""
        piece = next(i for i, (first, count) in enumerate(self._pieces) if first <= row < first + count)
        return self._groups[piece].render(row, height, width, quality)

    def close(self) -> None:
        """Close every simulator."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        for group in self._groups:
            group.close()

    def _step_all(self) -> list[dict[int, str]]:
        if self._pool is None:
            return [self._groups[0].step()]
        tasks = [self._pool.submit(group.step) for group in self._groups]
        try:
            return [task.result(timeout=self._timeout) for task in tasks]
        except Overdue as error:
            raise EnvError(
                f"an environment did not answer within {self._timeout:g} s and a thread cannot be stopped; "
                "use env.backend=process, which restarts it"
            ) from error


def over_budget(restarts: int, text: str) -> str:
    """Say that the restarts are used up, with what the environment itself said."""
    return (
        f"environments broke more often than env.restarts={restarts} allows; fix the environment or raise "
        f"the budget. The last one said:\n{text.rstrip()}"
    )
