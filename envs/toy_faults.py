"""Toys that break on purpose, to test what the batch does about it."""

import os
import signal
import time
from typing import Any

import numpy as np

from envs.toy import Counter


class Crash(Counter):
    """A counter that dies at frame `at` of every `every`-th episode: by `exception` or by `kill`."""

    name = "crash"

    def __init__(
        self, at: int = 5, how: str = "exception", every: int = 1, only_index: int | None = None, **rest: Any
    ):
        self._at, self._how, self._every, self._only = at, how, every, only_index
        super().__init__(**rest)

    def _due(self) -> bool:
        return (
            self.frames == self._at
            and self.episode % self._every == 0
            and (self._only is None or self._only == self.index)
        )

    def _move(self, action: np.ndarray) -> tuple[float, bool]:
        if self._due():
            if self._how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError(f"toy_crash broke at frame {self.frames} of episode {self.episode}, as asked")
        return super()._move(action)


class Hang(Crash):
    """A counter that stops answering at frame `at`."""

    name = "hang"

    def _move(self, action: np.ndarray) -> tuple[float, bool]:
        if self._due():
            time.sleep(3600)
        return Counter._move(self, action)


class NaNObs(Crash):
    """A counter that shows NaN at frame `at`."""

    name = "nan_obs"

    def _move(self, action: np.ndarray) -> tuple[float, bool]:
        return Counter._move(self, action)

    def _observe(self) -> dict[str, np.ndarray]:
        obs = super()._observe()
        if self._due():
            obs["state"][0] = np.nan
        return obs
