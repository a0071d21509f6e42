"""One training run on disk: builds the parts, resumes them, and is the hooks of the loop."""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
from tensordict import TensorDict
from torch import Tensor

from agents import checkpoint as disk
from agents import chunks, crash, loop, probing, progress, randomness, replay, rollouts
from agents.assembly import build_agent, choose_device, set_threads
from agents.cli import UserError
from agents.collect import make_source
from agents.config import config_dict
from agents.logging import Logger
from agents.rundir import Run
from agents.stopping import Stopper
from agents.video import Blind, make_recorder
from worldmodel.checkpoint import describe


class Session:
    """Everything that a run is made of; `run` trains until the budget is spent or somebody asks to stop."""

    def __init__(self, cfg: Any, run: Run, stop: Stopper, closing: ExitStack) -> None:
        """Build everything; what holds processes, files or the terminal is closed by `closing`."""
        self.cfg, self.path, self.stop = cfg, run.path, stop
        self.device = choose_device(cfg.device)
        self.console = progress.Progress(cfg.trainer.frames, cfg.logger.every_s, cfg.logger.progress)
        closing.callback(self.console.close)
        self.threads = set_threads(cfg.trainer.threads)
        randomness.seed_everything(cfg.seed)
        self.recorder = make_recorder(cfg.env, self.console.say) if cfg.trainer.video else Blind()
        self.source = make_source(cfg)
        closing.callback(self.source.close)
        self.spec = self.source.spec
        self.replay = self._make_replay()
        begun = run.resumed and bool(disk.retained(run.checkpoints))
        self.agent = build_agent(
            cfg,
            self.spec,
            self.device,
            encoder=None if begun else cfg.trainer.encoder,
            say=self.console.say,
        )
        self.source.attach(self.agent)
        self.began, self.worked_s = time.monotonic(), 0.0
        self.progress = loop.Progress(loop.Counters(), loop.Episodes.start(cfg.env.num))
        self.fresh = True  # nothing was updated in this process yet
        self.overflowing = False  # values leave what critics can tell, and it was said
        self.logged: dict[str, Any] | None = None
        saved = disk.load_latest(run.checkpoints, self._report_bad, self._restore) if run.resumed else None
        self.logger = Logger(
            self.path,
            ["tensorboard"] if cfg.logger.tensorboard else [],
            {"project": cfg.logger.project} if cfg.logger.wandb else None,
            resume=self.logged,
        )
        closing.callback(self.logger.close)
        self.source.start()
        self.measured = (self.began, self.progress.counters.frames, self.progress.counters.updates)
        if saved:
            self.console.say(f"resuming {self.path} at {self.progress.counters.frames:,} frames")

    # ---- the run

    def run(self) -> bool:
        """Train; True when the frame budget is spent."""
        t = self.cfg.trainer
        schedule = loop.Schedule(
            frames=t.frames,
            warmup_frames=t.warmup_frames,
            updates_per_decision=t.updates_per_decision,
            log_every=t.log_every,
            eval_every=t.eval_every,
            probe_every=t.probe_every,
            checkpoint_every=t.checkpoint_every,
        )
        finished = loop.online(
            self._update, self._collect, self.replay, schedule, self.progress, self, stop=self.stop
        )
        if not finished:
            self.checkpoint(self.progress)
        return finished

    def _update(self, batch: TensorDict) -> dict[str, Tensor]:
        """Take a gradient step; the first may compile for a minute, and a signal then leaves at once."""
        self.stop.impatient, self.fresh = self.fresh, False
        try:
            return self.agent.update(batch)
        except crash.NotFinite as error:
            raise crash.write(self.path, self.agent, error, self._state(), self._documents()) from error
        finally:
            self.stop.impatient = False

    def _collect(self) -> Any:
        return self.source.next(random=self.progress.counters.frames < self.cfg.trainer.warmup_frames)

    def _make_replay(self) -> replay.Replay:
        cfg, spec = self.cfg, self.spec
        fields = {key: (array.shape, array.dtype) for key, array in spec.observation.items()}
        return replay.make_replay(
            fields,
            spec.action.size,
            capacity=cfg.replay.capacity,
            # An episode of L decisions is L + 1 rows: the budget never needs more than twice its decisions.
            expected=2 * -(-cfg.trainer.frames // spec.action_repeat),
            num_envs=cfg.env.num,
            window=cfg.agent.window + 1,
            batch=cfg.agent.batch,
            storage=cfg.replay.storage,
            device=self.device,
            sampler=cfg.replay.sampler,
            alpha=cfg.replay.alpha,
            fade=cfg.replay.fade,
            dir=self.path / "replay",
            seed=cfg.seed,
            captured=cfg.agent.capture,
            say=self.console.say,
        )

    # ---- hooks of the loop

    def log(self, at: loop.Progress, metrics: dict[str, float]) -> None:
        """Write a row of averaged training metrics; say once where values leave what critics can tell."""
        self.logger.log(vars(at.counters), metrics)
        self.logger.time(vars(at.counters), self.speeds(at.counters))
        largest = float(self.agent.bins.values[-1])
        if abs(metrics.get("value/mean", 0.0)) > largest / 2 and not self.overflowing:
            self.overflowing = True
            self.console.say(
                f"warning: values come near {largest:,.0f}, the largest that critics tell apart\n"
                "  fix: make rewards smaller in the environment (env.entry=…), or agent.discount"
            )

    def episode(self, at: loop.Progress, metrics: dict[str, float]) -> None:
        """Write the return of a finished training episode."""
        self.logger.log(vars(at.counters), metrics)
        self.console.show(metrics)

    def evaluate(self, at: loop.Progress) -> bool:
        """Play the evaluation episodes; leaves no trace in training."""
        cfg, frames = self.cfg, at.counters.frames
        with (
            randomness.undisturbed(),
            self.recorder.film(self.path / "videos" / f"{frames:09d}.mp4") as watch,
        ):
            episodes = cfg.trainer.eval_episodes
            played = rollouts.evaluate_episodes(
                self.agent, cfg.env, episodes, cfg.seed, stop=self.stop, watch=watch
            )
        if played is None:
            return False
        metrics = rollouts.summary(played)
        self.logger.log(vars(at.counters), metrics | {"eval/returns": [p.score for p in played]})
        self.logger.time(vars(at.counters), self.speeds(at.counters))
        self.console.show(metrics)
        return True

    def probe(self, at: loop.Progress) -> bool:
        """Ask what the world model knows by now; leaves no trace in training."""
        asked = probing.BRIEF | {"seed": self.cfg.seed, "stop": self.stop}
        try:
            with randomness.undisturbed():
                found = probing.interview(self.agent, self.cfg, self.spec, **asked)
        except UserError as error:  # episodes too short by now: no reason to end a run
            self.console.say(f"no probes at {at.counters.frames:,} frames: {error}")
            return True
        if found is not None:
            self.logger.log(vars(at.counters), probing.metrics(found[0]))
        return found is not None

    def checkpoint(self, at: loop.Progress) -> None:
        """Publish everything needed to go on as if nothing had happened."""
        root = self.path / "checkpoints"
        agent = self.agent.state_dict()
        crash.check_weights(agent["weights"], root / "last")
        state = self._state() | {
            "replay": self.replay.flush(self.path / "replay"),
            "logger": self.logger.state(),
        }
        live = {
            "optimiser": agent["optimiser"],
            "noise": agent["generator"],
            "precision": agent["precision"],
            **self.source.state(),
            "randomness": randomness.state(),
            "replay": self.replay.state_tensors(),
        }
        tensors, tree = disk.flatten_state(live)
        disk.save(
            root,
            at.counters.frames,
            {"weights": agent["weights"], "optim": tensors},
            {"state": state | {"live": tree}, **self._documents()},
            keep=self.cfg.trainer.keep,
        )
        kept = [disk.load(p, only={"state"}).documents["state"]["replay"] for p in disk.retained(root)]
        chunks.prune(self.path / "replay", kept)

    def _state(self) -> dict[str, Any]:
        """What to know about the run before its agent can be built again."""
        return {
            "progress": self.progress.state(),
            "spec": self.spec.to_json(),
            "threads": self.threads,
            "worked_s": self.worked_s + time.monotonic() - self.began,
        }

    def _documents(self) -> dict[str, Any]:
        return {"worldmodel": describe(self.agent.model), "config": config_dict(self.cfg)}

    def tick(self, at: loop.Progress) -> None:
        """Show where the run is."""
        self.console.update(at.counters.frames, at.counters.updates)

    def speeds(self, counters: loop.Counters) -> dict[str, float]:
        """Seconds of work so far, over all resumptions, and the speeds since the last call."""
        now, before = time.monotonic(), self.measured
        self.measured = (now, counters.frames, counters.updates)
        elapsed = max(now - before[0], 1e-9)
        return {
            "speed/elapsed_s": self.worked_s + now - self.began,
            "speed/frames_per_s": (counters.frames - before[1]) / elapsed,
            "speed/updates_per_s": (counters.updates - before[2]) / elapsed,
            "speed/rss_mb": psutil.Process().memory_info().rss / 2**20,
        }

    # ---- resuming

    def _restore(self, saved: disk.Checkpoint) -> None:
        """Put every part where the checkpoint left it; a damaged replay chunk makes it a bad checkpoint."""
        state = saved.documents["state"]
        live = disk.unflatten_state(saved.tensors["optim"], state["live"])
        if state["spec"] != self.spec.to_json():
            raise UserError(
                f"{saved.path} was trained on {state['spec']['name']}, whose observations or actions differ "
                f"from {self.spec.name} as it is now",
                "resume with the environment it was trained on, or start anew with run.fresh=true",
            )
        self.replay.restore(self.path / "replay", state["replay"], live["replay"])
        # Another number of threads may round differently, so the run keeps the one it began with.
        self.threads = set_threads(state["threads"])
        self.agent.load_state_dict(
            {
                "weights": saved.tensors["weights"],
                "optimiser": live["optimiser"],
                "generator": live["noise"],
                "precision": live["precision"],
            }
        )
        self.progress = loop.Progress.restored(state["progress"])
        if not self.source.restore(live):
            self.progress.episodes = loop.Episodes.start(self.cfg.env.num)
            self.console.say("new episodes begin: asynchronous collection does not save environments")
        for text in self.source.warnings:
            self.console.say(f"warning: {text}")
        disk.drop_after(self.path / "checkpoints", self.progress.counters.frames)
        randomness.restore(live["randomness"])
        self.worked_s, self.logged = state["worked_s"], state["logger"]

    def _report_bad(self, path: Path, error: Exception) -> None:
        self.console.say(f"warning: {error}\n  going back to the checkpoint before {path.name}")
