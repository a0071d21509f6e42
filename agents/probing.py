"""The questions that probes ask of a world model, every answer between its floor and its ceiling."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from agents.answers import Answer
from agents.assembly import shapes_of
from agents.cli import UserError
from agents.dependence import Part, dependences, parts_of
from agents.invariance import nuisances
from agents.recording import FEWEST, Recording, record
from envs import Spec
from envs.truth import POSES, displacement
from worldmodel import State, WorldModel, build
from worldmodel.probes import Split, probe, retrieval, score, split, stack

CANDIDATES = 50  # a prediction is ranked among this many observations
ROWS = 4000  # about as many as a small head can use
BRIEF: dict[str, Any] = {"episodes": 12, "decisions": 100, "horizons": [1, 5, 8], "heads": ["linear"]}


class View:
    """What one model makes of a recording, which leaves the model as it is."""

    def __init__(self, model: WorldModel, recording: Recording, times: Tensor, horizon: int) -> None:
        self.model, self.recording, self.times, self.horizon = model, recording, times, horizon
        self.device = next(model.parameters()).device
        self.done = recording.prev_action.to(self.device)
        self.z = self._encode()

    @torch.no_grad()
    def _encode(self) -> Tensor:
        """Latents of every row, one episode at a time: E T+1 D."""
        episodes = range(self.recording.episodes)
        seen = [{k: v[e : e + 1].to(self.device) for k, v in self.recording.obs.items()} for e in episodes]
        return torch.cat([self.model.encode(obs) for obs in seen]).float()

    @torch.no_grad()
    def beliefs(self, *, see: bool = True, act: bool = True) -> Tensor:
        """Beliefs of every row; unseen, latents are zero, and undone, actions: E T+1 W."""
        model, first = self.model, self.recording.is_first.to(self.device)
        memory = None if model.aggregator.causal else model.start(self.recording.episodes)
        return model.aggregate(self.z * float(see), self.done * float(act), first, None, memory)[0].float()

    @cached_property
    def belief(self) -> Tensor:
        """Beliefs from all that was seen and done: E T+1 W."""
        return self.beliefs()

    @cached_property
    @torch.no_grad()
    def imagined(self) -> Tensor:
        """Latents predicted from every time on for what was then done, never looking: E times H D."""
        model, episodes, out = self.model, self.recording.episodes, []
        cache, last, wanted = model.start(episodes), int(self.times.max()), set(self.times.tolist())
        first = self.recording.is_first.to(self.device)
        for t in range(last + 1):
            now = slice(t, t + 1)
            belief, cache = model.aggregate(self.z[:, now], self.done[:, now], first[:, now], cache=cache)
            assert cache is not None  # it came in, so it goes out
            if t in wanted:
                plan = self.done[:, t + 1 : t + 1 + self.horizon]
                state = State(belief[:, 0], cache)
                out.append(model.imagine(state, lambda _, h, p=plan: p[:, h], self.horizon).latents)
        return torch.stack(out, 1).float()


class Questions:
    """All questions about a trained model, an untrained twin and the truth of one recording."""

    def __init__(
        self,
        trained: WorldModel,
        untrained: WorldModel,
        recording: Recording,
        *,
        horizons: Sequence[int],
        heads: Sequence[str],
        discrete: bool,
        parts: Sequence[Part] = (),
        seed: int = 0,
    ) -> None:
        self.recording, self.heads, self.discrete, self.seed = recording, heads, discrete, seed
        self.observed = list(parts)
        self.horizons, farthest = sorted(horizons), max(horizons)
        length = recording.valid.shape[1]
        count = max(1, min(ROWS // recording.episodes, length - farthest - 1))
        # From the second row on: nothing has been done before the first.
        self.times = torch.linspace(1, length - farthest - 1, count).long().unique()
        self.ours = View(trained, recording, self.times, farthest)
        self.floor = View(untrained, recording, self.times, farthest)
        # A row counts if its farthest future exists.
        self.kept = recording.valid[:, self.times + farthest].flatten()
        self.number = torch.arange(recording.episodes).repeat_interleave(len(self.times))[self.kept]
        if len(self.number.unique()) < FEWEST:
            text = f"only {len(self.number.unique())} episodes last long enough for horizon {farthest}"
            raise UserError(text, "record more episodes, or choose smaller horizons")
        self.parts: Split = split(self.number, seed=seed)
        self.truth = torch.cat([v for k, v in recording.truth.items() if not k.startswith("constant_")], -1)

    def rows(self, values: Tensor, later: int = 0) -> Tensor:
        """Take the probed rows of something known at every row, so much later: E T+1 ... -> M ..."""
        return values.cpu()[:, self.times + later].flatten(0, 1)[self.kept]

    def ask(
        self, question: str, target: str, labels: Tensor, horizon: int
    ) -> Callable[..., Iterator[Answer]]:
        """A function of (role, source, features) that yields the answers to one question."""

        def of(role: str, source: str, *features: Tensor) -> Iterator[Answer]:
            for head in self.heads:
                found = probe(stack(features), labels, self.parts, head=head, seed=self.seed)
                label = (question, target, source, role, head, horizon)
                yield Answer(*label, "r2", found.uniform)
                yield Answer(*label, "r2_weighted", found.weighted)
                if target == "action" and self.discrete:
                    yield Answer(*label, "accuracy", found.accuracy)

        return of

    def actions(self) -> Iterator[Answer]:
        """Equivariance: which action lies between two observations?"""
        read = self.ask("equivariance", "action", self.rows(self.recording.prev_action, 1), 1)
        for role, source, seen in (
            ("ours", "two latents", self.ours.z),
            ("floor", "two latents, untrained", self.floor.z),
            ("ceiling", "two true states", self.truth),
        ):
            yield from read(role, source, self.rows(seen), self.rows(seen, 1))

    def states(self) -> Iterator[Answer]:
        """What is true now?"""
        for name, value in self.recording.states.items():
            read = self.ask("state", name, self.rows(value), 0)
            yield from read("ours", "latent", self.rows(self.ours.z))
            yield from read("ours", "belief", self.rows(self.ours.belief))
            yield from read("floor", "latent, untrained", self.rows(self.floor.z))
            yield from read("floor", "belief, untrained", self.rows(self.floor.belief))

    def constants(self) -> Iterator[Answer]:
        """What stays true for a whole episode?"""
        for name, value in self.recording.truth.items():
            if not name.startswith("constant_"):
                continue
            read = self.ask("constant", name, self.rows(value), 0)
            for role, view, suffix in (("ours", self.ours, ""), ("floor", self.floor, ", untrained")):
                yield from read(role, f"latent{suffix}", self.rows(view.z))
                yield from read(role, f"belief{suffix}", self.rows(view.belief))
                yield from read(role, f"mean latent so far{suffix}", self.rows(_running_mean(view.z)))

    def paths(self) -> Iterator[Answer]:
        """Path integration: how far has one come, and which way?"""
        name = next((pose for pose in POSES if pose in self.recording.truth), None)
        if name is None:
            return
        pose, done = self.recording.truth[name].numpy(), self.recording.prev_action
        blind, still = {"see": False}, {"act": False}
        seen = {
            ("ours", "observations and actions"): self.ours.belief,
            ("ours", "actions only"): self.ours.beliefs(**blind),
            ("ours", "observations only"): self.ours.beliefs(**still),
            ("floor", "observations and actions, untrained"): self.floor.belief,
        }
        for k in self.horizons:
            moved = displacement(name, pose[:, self.times], pose[:, self.times + k])
            labels = torch.from_numpy(moved).flatten(0, 1)[self.kept]
            read = self.ask("path", name, labels, k)
            for (role, source), belief in seen.items():
                yield from read(role, source, *self.along(belief, k))
            for role, view, suffix in (("ours", self.ours, ""), ("floor", self.floor, ", untrained")):
                ahead = view.imagined[:, :, :k].cpu().flatten(0, 1)[self.kept]
                source = f"one observation, then imagined{suffix}"
                yield from read(role, source, self.rows(view.belief), ahead.mean(1), ahead[:, -1])
            yield from read("floor", "last action only", self.rows(done, k))
            every = [self.rows(done, step + 1) for step in range(k)]
            yield from read("ceiling", "every action in order", *every)
            yield from read("ceiling", "true state and every action", self.rows(self.truth), *every)
            yield from read("ceiling", "true states", *self.along(self.truth, k))

    def along(self, values: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """A path of k decisions in three parts: where it begins, where it ends, and the mean in between."""
        sums = F.pad(values.cpu().double().cumsum(1), (0, 0, 1, 0))
        means = (sums[:, self.times + k + 1] - sums[:, self.times]) / (k + 1)
        return self.rows(values), self.rows(values, k), means.flatten(0, 1)[self.kept]

    def rollouts(self) -> Iterator[Answer]:
        """How far ahead does the model see, without looking?"""
        for k in self.horizons:
            truth = self.rows(self.ours.z, k)
            ahead = self.ours.imagined[:, :, k - 1].cpu().flatten(0, 1)[self.kept]
            mean = truth[self.parts.fit].mean(0).expand_as(truth)
            for role, source, guess in (
                ("ours", "imagined", ahead),
                ("floor", "copy of the present", self.rows(self.ours.z)),
                ("floor", "mean", mean),
            ):
                label = ("rollout", "latent", source, role, "none", k)
                error = 1 - F.cosine_similarity(guess, truth, dim=1).mean().item()
                yield Answer(*label, "cosine_error", error)
                yield Answer(*label, "r2_weighted", score(guess.double(), truth.double()).weighted)
                for rivals, among in (("same episode", self._same), ("other episodes", self._others)):
                    for metric, value in self._ranked(guess, truth, among()).items():
                        yield Answer("retrieval", rivals, source, role, "none", k, metric, value)

    def dependences(self) -> Iterator[Answer]:
        """What of an observation does a latent hang on?"""
        obs = {key: self.rows(value) for key, value in self.recording.obs.items()}
        return dependences(self.ours.model, self.floor.model, obs, self.observed, seed=self.seed)

    def _same(self) -> list[Tensor]:
        """Groups of probed rows of one episode."""
        return [(self.number == e).nonzero()[:, 0] for e in self.number.unique()]

    def _others(self) -> list[Tensor]:
        """Groups of probed rows of many episodes."""
        generator = torch.Generator().manual_seed(self.seed)
        return list(torch.randperm(int(self.kept.sum()), generator=generator).split(CANDIDATES))

    def _ranked(self, guess: Tensor, truth: Tensor, groups: list[Tensor]) -> dict[str, float]:
        """Mean rank scores over groups of at most CANDIDATES rows, spread over their episode."""
        found = [g[:: max(1, len(g) // CANDIDATES)][:CANDIDATES] for g in groups]
        ranked = [retrieval(guess[g], truth[g]) for g in found if len(g) == CANDIDATES]
        if not ranked:
            return {}
        return {name: sum(each[name] for each in ranked) / len(ranked) for name in ranked[0]}

    def all(self) -> Iterator[Answer]:
        """Every question in turn."""
        asked = (self.actions, self.states, self.constants, self.paths, self.rollouts, self.dependences)
        for question in asked:
            yield from question()
        yield from nuisances(self.recording, self.ours, self.floor, seed=self.seed)


def interview(
    agent: Any,
    cfg: Any,
    spec: Spec,
    *,
    episodes: int,
    decisions: int,
    horizons: Sequence[int],
    heads: Sequence[str],
    seed: int,
    env: Any = None,
    tell: Callable[[str, int], None] = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[list[Answer], int] | None:
    """Record fresh episodes of an agent and ask its world model everything: answers and how many rows.

    Nothing of the agent is changed. None when `stop` asked to leave.
    """
    model, was = agent.model, agent.model.training
    model.eval()
    try:
        recording = record(
            agent,
            env or cfg.env,
            episodes=episodes,
            decisions=decisions,
            seed=seed,
            tell=lambda count: tell("recording", count),
            stop=stop,
        )
        if recording is None:
            return None
        twin = build(cfg.worldmodel, shapes_of(spec), seed=seed).model.eval().to(agent.device)
        twin.observe({key: value.to(agent.device) for key, value in recording.obs.items()})  # scales alike
        asked = {"horizons": horizons, "heads": heads, "discrete": agent.discrete, "seed": seed}
        asked["parts"] = parts_of(spec)
        questions, answers = Questions(model, twin, recording, **asked), []
        for answer in questions.all():
            if stop():
                return None
            answers.append(answer)
            tell("answers", len(answers))
        return answers, int(questions.kept.sum())
    finally:
        model.train(was)


def metrics(answers: Sequence[Answer]) -> dict[str, float]:
    """Name what is worth a curve: probe/<question>/<target>/<source>@<horizon>."""
    return {
        f"probe/{a.question}/{a.target}/{a.source}@{a.horizon}".replace(", ", "-").replace(" ", "_"): a.value
        for a in answers
        if a.shown
    }


def _running_mean(values: Tensor) -> Tensor:
    """The mean of all rows so far: E T ... -> E T ..."""
    return values.cumsum(1) / torch.arange(1, values.shape[1] + 1, device=values.device)[:, None]
