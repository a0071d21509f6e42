"""One pre-training run on disk: data to batches to updates, saved and resumed to the bit."""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from agents import checkpoint as disk
from agents import randomness
from agents.assembly import choose_device, set_threads
from agents.cli import UserError
from agents.compiling import Compiled
from agents.config import config_dict
from agents.crash import check_weights
from agents.lessons import check_lessons, make_lessons
from agents.logging import Logger
from agents.loop import Averages
from agents.progress import Progress
from agents.rundir import Run
from agents.stopping import Stopper
from worldmodel import Objective, build
from worldmodel.checkpoint import describe


def learning_rate(update: int, learning: Any) -> float:
    """The rate of an update (counted from 0): a line up to `lr`, then a cosine down to `lr_last`."""
    first, peak, last = learning.lr_first, learning.lr, learning.lr_last
    if update < learning.warmup:
        return first + (peak - first) * update / learning.warmup
    phase = (update - learning.warmup) / max(learning.updates - learning.warmup, 1)
    return last + (peak - last) * (1 + math.cos(math.pi * min(phase, 1.0))) / 2


class Pretraining:
    """Everything that a run is made of; `run` learns until the budget is spent or somebody asks to stop."""

    def __init__(
        self, cfg: Any, run: Run, stop: Stopper, closing: ExitStack, tell: Callable[[str, int], None]
    ) -> None:
        """Draw or open the data and build everything; files and the terminal are closed by `closing`."""
        self.cfg, self.path, self.stop = cfg, run.path, stop
        self.device = choose_device(cfg.device)
        set_threads(cfg.learning.threads)
        randomness.seed_everything(cfg.seed)
        self.lessons = make_lessons(cfg, tell)
        self.objective: Objective = build(cfg.worldmodel, self.lessons.shapes).to(self.device)
        check_lessons(cfg, self.objective)
        self.lessons.prepare(self.objective.model)
        self.generator = torch.Generator().manual_seed(cfg.seed)
        self.optimiser = self._make_optimiser()
        self.updates, self.averages = 0, Averages()
        self.began, self.worked_s = time.monotonic(), 0.0
        self.console = Progress(
            cfg.learning.updates, cfg.logger.every_s, cfg.logger.progress, budget="updates"
        )
        closing.callback(self.console.close)
        self.loss: Callable[..., Any] = self.objective
        if cfg.learning.compile:
            learns = [self.objective.model]
            self.loss = Compiled(self.objective, self.device, self.console.say, "the step", learns=learns)
        self.logged: dict[str, Any] | None = None
        saved = disk.load_latest(run.checkpoints, self._report_bad, self._restore) if run.resumed else None
        sinks = ["tensorboard"] if cfg.logger.tensorboard else []
        wandb = {"project": cfg.logger.project} if cfg.logger.wandb else None
        self.logger = Logger(self.path, sinks, wandb, resume=self.logged)
        closing.callback(self.logger.close)
        if saved and self.updates < cfg.learning.updates:
            self.console.say(f"resuming {self.path} at {self.updates:,} updates")

    def run(self) -> bool:
        """Learn; True when the budget is spent."""
        learning = self.cfg.learning
        while self.updates < learning.updates and not self.stop():
            self.averages.add(self._update())
            self.updates += 1
            if self.updates % learning.log_every == 0 or self.updates == learning.updates:
                self._log()
            due = learning.checkpoint_every and self.updates % learning.checkpoint_every == 0
            if due or self.updates == learning.updates:
                self._checkpoint()
            self.console.update(self.frames, self.updates)
        if self.updates < learning.updates:
            self._checkpoint()
        return self.updates >= learning.updates

    @property
    def frames(self) -> int:
        """Observations looked at so far."""
        return self.updates * self.cfg.learning.batch * self.lessons.each

    def _make_optimiser(self) -> torch.optim.Optimizer:
        """AdamW that decays matrices and leaves scales and shifts alone."""
        weights = self.objective.trainable()
        decayed = {
            "params": [w for w in weights if w.ndim > 1],
            "weight_decay": self.cfg.learning.weight_decay,
        }
        free = {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0}
        return torch.optim.AdamW([decayed, free], lr=self.cfg.learning.lr, fused=True)

    def _update(self) -> dict[str, Tensor]:
        """Draw a batch and take a gradient step on it."""
        learning = self.cfg.learning
        drawn = self.lessons.draw(learning.batch, self.generator)
        batch = {key: value.to(self.device) for key, value in drawn.items()}
        rate = learning_rate(self.updates, learning)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.stop.impatient = learning.compile and self.updates == 0  # compiling cannot look at a flag
        loss, metrics = self.loss(batch)
        self.stop.impatient = False
        if not torch.isfinite(loss):
            text = f"the loss is {loss.item()} at update {self.updates + 1:,}"
            raise UserError(text, f"use a smaller learning.lr than {learning.lr:g} with run.fresh=true")
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.objective.target.update()
        return metrics | {"learning/rate": torch.tensor(rate)}

    def _log(self) -> None:
        """Write a row of averaged metrics, and speeds."""
        elapsed = self.worked_s + time.monotonic() - self.began
        self.logger.log(self._counters(), self.averages.take())
        memory = psutil.Process().memory_info().rss / 2**20
        self.logger.time(self._counters(), {"speed/elapsed_s": elapsed, "speed/rss_mb": memory})

    def _counters(self) -> dict[str, int]:
        return {"frames": self.frames, "decisions": 0, "updates": self.updates}

    def _checkpoint(self) -> None:
        """Publish everything needed to go on as if nothing had happened."""
        root, weights = self.path / "checkpoints", dict(self.objective.state_dict())
        check_weights(weights, root / "last", "use a smaller learning.lr with run.fresh=true")
        live = {
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "randomness": randomness.state(),
        }
        tensors, tree = disk.flatten_state(live)
        state = {
            "updates": self.updates,
            "averages": self.averages.state(),
            "logger": self.logger.state(),
            "worked_s": self.worked_s + time.monotonic() - self.began,
            "live": tree,
        }
        disk.save(
            root,
            self.updates,
            {"weights": weights, "optim": tensors},
            {
                "state": state,
                "worldmodel": describe(self.objective.model),
                "config": config_dict(self.cfg),
            },
            keep=self.cfg.learning.keep,
        )

    def _restore(self, saved: disk.Checkpoint) -> None:
        """Put every part where the checkpoint left it."""
        state = saved.documents["state"]
        live = disk.unflatten_state(saved.tensors["optim"], state["live"])
        self.objective.load_state_dict(saved.tensors["weights"])
        self.optimiser.load_state_dict(live["optimiser"])
        self.generator.set_state(live["generator"])
        self.updates, self.worked_s, self.logged = state["updates"], state["worked_s"], state["logger"]
        self.averages.restore(state["averages"])
        disk.drop_after(self.path / "checkpoints", self.updates)
        randomness.restore(live["randomness"])

    def _report_bad(self, path: Path, error: Exception) -> None:
        self.console.say(f"warning: {error}\n  going back to the checkpoint before {path.name}")
