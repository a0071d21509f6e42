"""The training loop: one decision or one gradient step a turn, so that any boundary can be resumed from."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from tensordict import TensorDict
from torch import Tensor

from agents import crash


@dataclass
class Counters:
    """Simulator control steps, agent decisions and gradient steps: never mixed."""

    frames: int = 0
    decisions: int = 0
    updates: int = 0
    episodes: int = 0


@dataclass(frozen=True)
class Schedule:
    """When things happen, in frames; 0 means never."""

    frames: int
    warmup_frames: int
    updates_per_decision: float
    log_every: int
    eval_every: int
    checkpoint_every: int
    probe_every: int = 0


@dataclass
class Episodes:
    """Running return and length of the episode in each environment (part of a checkpoint)."""

    returns: list[float]
    lengths: list[int]

    @classmethod
    def start(cls, num: int) -> "Episodes":
        """Nothing collected yet in any of `num` environments."""
        return cls([0.0] * num, [0] * num)

    def add(self, step: TensorDict) -> Iterator[dict[str, float]]:
        """Account for one batched decision, N; yield the statistics of episodes that ended."""
        arrived: Any = step["next"]
        columns = (arrived[name].flatten().tolist() for name in ("reward", "done", "frames"))
        for i, (reward, end, frames) in enumerate(zip(*columns, strict=True)):
            self.returns[i] += reward
            self.lengths[i] += frames
            if end:
                if self.lengths[i]:  # a worker that died before its first step leaves an empty episode
                    yield {"train/return": self.returns[i], "train/length": float(self.lengths[i])}
                self.returns[i], self.lengths[i] = 0.0, 0


@dataclass
class Marks:
    """Frames at which each periodic event last happened (part of a checkpoint)."""

    log: int = 0
    evaluate: int = 0
    checkpoint: int = 0
    probe: int = 0

    def due(self, event: str, every: int, frames: int) -> bool:
        """Whether a multiple of `every` was passed since the event last happened."""
        return every > 0 and frames // every > getattr(self, event) // every


@dataclass
class Averages:
    """Sums of training metrics since the last log row (in checkpoints, or a resumed row would differ)."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0
    odd: list[str] = field(default_factory=list)  # what was found not to be finite
    _late: tuple[Tensor, Any] | None = None

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Add the metrics of one update; stays on their device, so nothing waits."""
        # Together: on a GPU every operation is a launch, and there are some twenty metrics.
        values = torch.stack(list(metrics.values())).double()
        if self.count:
            nothing = torch.zeros((), dtype=torch.float64)
            values += torch.stack([self.sums.get(name, nothing) for name in metrics]).to(values.device)
        self.sums = dict(zip(metrics, values.unbind(), strict=True))
        self.count += 1
        self.odd = self._look(list(metrics), values)

    def _look(self, names: list[str], sums: Tensor) -> list[str]:
        """Name what is not finite; on a GPU, as of the update before: nobody waits."""
        if sums.device.type == "cuda":
            before, copy = self._late, torch.empty_like(sums, device="cpu", pin_memory=True)
            copy.copy_(sums, non_blocking=True)
            self._late = copy, torch.cuda.Event()
            self._late[1].record()
            if before is None:
                return []
            sums = before[0]
            before[1].synchronize()
        return crash.odd(dict(zip(names, sums.tolist(), strict=True)))

    def take(self) -> dict[str, float]:
        """Return the averages and start over."""
        means = {name: float(total) / self.count for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means

    def state(self) -> dict:
        """JSON-able copy."""
        totals = {name: float(total) for name, total in self.sums.items()}
        # The rank of what has collapsed is not a number, which JSON has no word for.
        sums = {name: total if math.isfinite(total) else repr(total) for name, total in totals.items()}
        return {"sums": sums, "count": self.count}

    def restore(self, state: dict) -> None:
        """Continue from `state`."""
        self.sums = {k: torch.tensor(float(v), dtype=torch.float64) for k, v in state["sums"].items()}
        self.count = state["count"]


@dataclass
class Progress:
    """Everything the loop itself remembers."""

    counters: Counters
    episodes: Episodes
    marks: Marks = field(default_factory=Marks)
    averages: Averages = field(default_factory=Averages)

    def state(self) -> dict:
        """JSON-able copy."""
        return {
            "counters": vars(self.counters),
            "marks": vars(self.marks),
            "episodes": vars(self.episodes),
            "averages": self.averages.state(),
        }

    @classmethod
    def restored(cls, state: dict) -> "Progress":
        """The memory that `state` describes."""
        progress = cls(Counters(**state["counters"]), Episodes(**state["episodes"]), Marks(**state["marks"]))
        progress.averages.restore(state["averages"])
        return progress


class Hooks(Protocol):
    """What the loop calls; none of them may touch anything that training reads."""

    def log(self, at: Progress, metrics: dict[str, float]) -> None:
        """Write a row of averaged training metrics."""
        ...

    def episode(self, at: Progress, metrics: dict[str, float]) -> None:
        """Write the return of a finished training episode."""
        ...

    def evaluate(self, at: Progress) -> bool:
        """Evaluate the agent as it is now; False when interrupted, and then it will be asked again."""
        ...

    def probe(self, at: Progress) -> bool:
        """Ask what the world model knows by now; False when interrupted, and then it will be asked again."""
        ...

    def checkpoint(self, at: Progress) -> None:
        """Save everything."""
        ...

    def tick(self, at: Progress) -> None:
        """Show where the run is."""
        ...


def online(
    update: Callable[[TensorDict], dict[str, Tensor]],
    collect: Callable[[], TensorDict],
    replay: Any,
    schedule: Schedule,
    progress: Progress,
    hooks: Hooks,
    *,
    stop: Callable[[], bool],
) -> bool:
    """Collect, store, learn until the frame budget is spent; False if `stop` asked to leave before that.

    Each turn does exactly one thing, and which one is a function of `progress` alone: a run that is cut
    between two turns and resumed takes the same turns as one that was not.
    """
    counters, marks = progress.counters, progress.marks
    while not stop():
        owed = math.floor(counters.decisions * schedule.updates_per_decision) - counters.updates
        finished = counters.frames >= schedule.frames
        if owed > 0 and counters.frames >= schedule.warmup_frames:
            if counters.updates == 0:
                # It may compile for a minute: a Ctrl-C meanwhile must lose nothing.
                hooks.checkpoint(progress)
            batch = replay.sample()
            progress.averages.add(update(batch))
            if progress.averages.odd:
                raise crash.diverged(progress.averages.odd, counters.updates + 1)
            replay.update_priority(batch["index"], batch["priority"][:, 0])
            counters.updates += 1
        elif marks.due("log", schedule.log_every, counters.frames):
            marks.log = counters.frames
            hooks.log(progress, progress.averages.take())
        elif marks.due("evaluate", schedule.eval_every, counters.frames) or (
            finished and marks.evaluate < counters.frames
        ):
            if hooks.evaluate(progress):
                marks.evaluate = counters.frames
        elif marks.due("probe", schedule.probe_every, counters.frames) or (
            finished and schedule.probe_every > 0 and marks.probe < counters.frames
        ):
            if hooks.probe(progress):
                marks.probe = counters.frames
        elif marks.due("checkpoint", schedule.checkpoint_every, counters.frames) or (
            finished and marks.checkpoint < counters.frames
        ):
            marks.checkpoint = counters.frames
            hooks.checkpoint(progress)
        elif finished:
            return True
        else:
            _store(collect(), replay, progress, hooks)
        hooks.tick(progress)
    return False


def _store(step: TensorDict, replay: Any, progress: Progress, hooks: Hooks) -> None:
    """Put a batch of decisions (N or N T) into the replay buffer and count it."""
    replay.extend(step)
    counters = progress.counters
    for one in step.unbind(-1) if step.ndim > 1 else [step]:
        frames = one["next", "frames"]
        counters.frames += int(frames.sum())
        counters.decisions += int((frames > 0).sum())  # a worker that crashed took no decision
        for statistics in progress.episodes.add(one):
            counters.episodes += 1
            hooks.episode(progress, statistics)
