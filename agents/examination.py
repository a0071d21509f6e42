"""What a model that was pre-trained on views has learned: classes, poses, paths and which view is which.

Heads are fitted to things the model was trained on and judged on things it has never seen. The names:

- `class/<feature>@M`: share of things whose family a linear head finds; from the `belief` of M views, the
  `mean` of their latents, or (without @M) the `latent` of one view
- `action/<head>`: R2 of the action between two views, from their latents; `action_beyond`, between views
  outside of what was seen in training; `hues`, of the part of an action that changes colours
- `pose/<head>`: R2 of where a view stands, from its latent; `belief_pose`, from the belief after three
- `first_action/mlp`: R2 of the first of three views' actions from the belief: what was not forgotten
- `path/<source>@M`: R2 of the way from the first view to view M + 1, from the belief of M and the last action
- `retrieval/<metric>@M`: which of the other views is the predicted one
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from envs.pictures.sequences import Sequences, Source
from worldmodel import WorldModel
from worldmodel.diagnostics import latent_std, participation_rank
from worldmodel.probes import Split, predict, probe, retrieval, score

VIEWS = 8  # looked at, at most
LENGTHS = (1, 2, 3, 4, 5, 8)
PATHS = (1, 2, 3, 5, 7)
FIT, JUDGE, EACH = 4000, 2000, 10  # sequences in all, and of one thing, at most
CHUNK = 256

Metrics = dict[str, float]


class Subject:
    """A model with sequences it has encoded: what heads are fitted to, and on what they are judged."""

    def __init__(self, model: WorldModel, source: Source, *, seed: int = 0) -> None:
        # A copy in evaluation mode: whatever is asked, the model stays as it was, batch statistics included.
        self.model, self.source = copy.deepcopy(model).eval(), source
        self.device = next(model.parameters()).device
        generator = torch.Generator().manual_seed(10_000 + seed)
        known, new = ((~source.held_out).nonzero()[:, 0], source.held_out.nonzero()[:, 0])
        things = torch.cat([_repeated(known, FIT), _repeated(new, JUDGE)])
        parts = [self.look(some, VIEWS + 1, generator, source) for some in things.split(CHUNK)]
        self.z, self.actions, self.poses = (torch.cat(column) for column in zip(*parts, strict=True))
        self.labels = torch.nn.functional.one_hot(source.labels[things]).double()
        judged, chosen = source.held_out[things], things % 6 == 0
        self.parts = Split(~judged & ~chosen, ~judged & chosen, judged)
        self.seed = seed

    @torch.no_grad()
    def look(
        self, things: Tensor, views: int, generator: torch.Generator, source: Source
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw sequences and encode them: B -> B V D, B V A, B V P."""
        drawn: Sequences = source.draw(things, views, generator)
        z = self.model.encode({"pixels": drawn.images.to(self.device)}).float().cpu()
        return z, drawn.actions, drawn.poses

    @torch.no_grad()
    def belief(self, views: int, *, see: bool = True, act: bool = True) -> Tensor:
        """The belief after the first M views; unseen, latents are zero, and undone, actions: N W."""
        z, done = self.z[:, :views] * float(see), self.actions[:, :views] * float(act)
        chunks = zip(z.split(CHUNK), done.split(CHUNK), strict=True)
        found = [self.model.aggregate(a.to(self.device), b.to(self.device))[0][:, -1] for a, b in chunks]
        return torch.cat(found).float().cpu()

    def ask(self, features: Tensor, labels: Tensor, head: str) -> Any:
        """Fit a head and judge it: N F, N L -> score."""
        return probe(features, labels, self.parts, head=head, seed=self.seed)

    def ablated(self, versions: Sequence[Tensor], labels: Tensor, head: str) -> list[float]:
        """Fit a head to the first version of features, judge it on each: V times N F, N L -> V R2."""
        count, never = len(versions), torch.zeros_like(self.parts.judge)
        fit, choose = (torch.cat([part, *[never] * (count - 1)]) for part in self.parts[:2])
        judged = torch.cat([self.parts.judge] * count)
        repeated = labels.repeat(count, 1)
        parts = Split(fit, choose, judged)
        predicted = predict(torch.cat(list(versions)), repeated, parts, head=head, seed=self.seed)
        truth = labels[self.parts.judge].double()
        return [score(each[self.parts.judge], truth).uniform for each in predicted.chunk(count)]


def _repeated(things: Tensor, wanted: int) -> Tensor:
    """Every thing as often as it takes to make about so many, within bounds."""
    return things.repeat(min(max(wanted // len(things), 1), EACH))


def examine(subject: Subject, tell: Callable[[str, int], None] = lambda *_: None) -> Metrics:
    """Ask a model every question."""
    found: Metrics = {}
    for question in (_health, _classes, _poses, _paths, _retrieval):
        for name, value in question(subject):
            found[name] = float(value)
            tell("questions answered", len(found))
    return found


def _health(s: Subject) -> Iterator[tuple[str, Any]]:
    """Whether latents are alive."""
    yield "latent/rank", participation_rank(s.z[:, 0])
    yield "latent/std", latent_std(s.z[:, 0])


def _classes(s: Subject) -> Iterator[tuple[str, Any]]:
    """The family, from one view and from several."""
    yield "class/latent", s.ask(s.z[:, 0], s.labels, "linear").accuracy
    for views in LENGTHS:
        yield f"class/belief@{views}", s.ask(s.belief(views), s.labels, "linear").accuracy
        yield f"class/mean@{views}", s.ask(s.z[:, :views].mean(1), s.labels, "linear").accuracy


def _poses(s: Subject) -> Iterator[tuple[str, Any]]:
    """The action between two views, where one stands, and what a belief keeps of both."""
    place, turn = s.source.place, s.source.turn
    pair, done = s.z[:, :2].flatten(1), s.actions[:, 1]
    for head in ("linear", "mlp"):
        yield f"action/{head}", s.ask(pair, done[:, turn], head).uniform
        yield f"pose/{head}", s.ask(s.z[:, 0], s.poses[:, 0, place], head).uniform
    if turn != slice(None):
        rest = slice(turn.stop, None)
        if done[:, rest].shape[1]:
            yield "hues/linear", s.ask(pair, done[:, rest], "linear").uniform
    beyond = s.source.beyond()
    if beyond is not None:
        yield "action_beyond/mlp", _beyond(s, beyond)
    belief = s.belief(3)
    yield "belief_pose/mlp", s.ask(belief, s.poses[:, 2, place], "mlp").uniform
    yield "first_action/mlp", s.ask(belief, s.actions[:, 1, turn], "mlp").uniform


def _beyond(s: Subject, source: Source) -> float:
    """R2 of actions between views outside of what was seen; the head knows only what is inside."""
    known = ~s.parts.judge
    things = _repeated(torch.arange(len(source.labels)), JUDGE)
    z, actions, _ = s.look(things, 2, torch.Generator().manual_seed(20_000 + s.seed), source)
    features = torch.cat([s.z[known, :2].flatten(1), z.flatten(1)])
    labels = torch.cat([s.actions[known, 1], actions[:, 1]])[:, s.source.turn]
    outside = torch.arange(len(features)) >= int(known.sum())
    pad = torch.zeros(len(things), dtype=torch.bool)
    parts = Split(torch.cat([s.parts.fit[known], pad]), torch.cat([s.parts.choose[known], pad]), outside)
    return probe(features, labels, parts, head="mlp", seed=s.seed).uniform


def _paths(s: Subject) -> Iterator[tuple[str, Any]]:
    """The way from the first view to the last, integrated in the belief; between floors and a ceiling."""
    place, turn, head = s.source.place, s.source.turn, s.source.path_head
    for views in PATHS:
        last = s.actions[:, views]
        whole = s.source.action(s.poses[:, 0], s.poses[:, views])[:, turn]

        def ask(features: Tensor, label: Tensor = whole) -> float:
            return s.ask(features, label, head).uniform

        both = torch.cat([s.belief(views), last], 1)
        if views == 1:  # the last action is the answer
            yield f"path/both@{views}", ask(both)
            continue
        act = torch.cat([s.belief(views, see=False), last], 1)
        see = torch.cat([s.belief(views, act=False), last * 0], 1)
        # As published: the intact head, blinded or paralysed only when judged. Then heads of their own.
        read = s.ablated((both, act, see), whole, head)
        for name, value in zip(("both", "act_ablated", "see_ablated"), read, strict=True):
            yield f"path/{name}@{views}", value
        yield f"path/act@{views}", ask(act)
        yield f"path/see@{views}", ask(see)
        yield f"path/last_action@{views}", ask(last)
        yield f"path/final_pose@{views}", ask(s.poses[:, views, place])
        yield f"path/every_action@{views}", ask(s.actions[:, 1 : views + 1].flatten(1))


@torch.no_grad()
def _retrieval(s: Subject) -> Iterator[tuple[str, Any]]:
    """Rank the views of a held-out thing by how like the prediction they are, after one view and three."""
    model, judged = s.model, s.parts.judge.nonzero()[:, 0][:JUDGE]
    z, actions, poses = s.z[judged], s.actions[judged], s.poses[judged]
    for views in (1, 3):
        belief = model.aggregate(z[:, :views].to(s.device), actions[:, :views].to(s.device))[0][:, -1]
        ahead = range(views, VIEWS + 1)
        predicted = [
            model.predict(belief, s.source.action(poses[:, views - 1], poses[:, k]).to(s.device)).latent
            for k in ahead
        ]
        ranked = [
            retrieval(torch.stack([p[i] for p in predicted]).cpu(), z[i, views:]) for i in range(len(judged))
        ]
        for metric in ("mrr", "hit@1"):
            yield f"retrieval/{metric}@{views}", sum(r[metric] for r in ranked) / len(ranked)
