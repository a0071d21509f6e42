"""What a world model is pre-trained on: batches drawn with a generator, and an examination at the end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from agents.cli import UserError
from agents.examination import VIEWS
from agents.pretrain_schema import COLUMNS
from envs.pictures.sequences import Sequences, Source
from envs.pictures.sources import make_source
from worldmodel import Objective, WorldModel

Tell = Callable[[str, int], None]


class Lessons(Protocol):
    """Where batches come from."""

    shapes: dict[str, Any]  # of observations and actions, as the world model wants them
    each: int  # observations in an example

    def prepare(self, model: WorldModel) -> None:
        """Tell a model that learns anew what it must know of its inputs, such as their scale."""
        ...

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw a training batch of so many examples."""
        ...

    def examine(self, objective: Objective, seed: int, home: Path, tell: Tell) -> dict[str, float]:
        """Ask what was learned, and draw into the folder what can be looked at."""
        ...


def make_lessons(cfg: Any, tell: Tell) -> Lessons:
    """Make what the settings name; pictures that are not there yet are drawn."""
    if cfg.data.kind == "table":
        from agents.table_lessons import TableLessons
        from agents.tables import read_table

        return TableLessons(read_table(cfg.data.table, cfg.data.label, seed=cfg.seed))
    if cfg.data.kind == "states":
        from agents.states import StateLessons, read_states

        return StateLessons(*read_states(cfg.data, cfg.seed, tell), steps=cfg.data.steps)
    return PictureLessons(make_source(cfg.data, tell), cfg.learning.observed)


class PictureLessons:
    """Views of things that nobody has put aside for judging; the last one of a sequence is predicted."""

    def __init__(self, source: Source, observed: int) -> None:
        self.source, self.each = source, observed + 1
        self.things = (~source.held_out).nonzero()[:, 0]
        self.shapes = shapes_of(source)

    def prepare(self, model: WorldModel) -> None:
        """Nothing: pictures are scaled alike everywhere."""

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw sequences of so many things."""
        drawn = torch.randint(len(self.things), (count,), generator=generator)
        return as_batch(self.source.draw(self.things[drawn], self.each, generator))

    def examine(self, objective: Objective, seed: int, home: Path, tell: Tell) -> dict[str, float]:
        """Ask for classes, poses, paths and views, and draw the landscape of latents."""
        from agents.examination import Subject, examine
        from agents.landscape import draw

        subject = Subject(objective.model, self.source, seed=seed)
        draw(subject, home / "plots" / "landscape.png")
        return examine(subject, tell)


def shapes_of(source: Source) -> dict[str, Any]:
    """Describe pictures and actions as the world model wants them."""
    pixels = {"shape": list(source.shape), "dtype": "uint8"}
    return {"observation": {"pixels": pixels}, "action": {"kind": "continuous", "size": source.action_size}}


def as_batch(drawn: Sequences) -> dict[str, Tensor]:
    """Put sequences in the form of a training batch: B V -> the keys of a batch, each B V ..."""
    return {"pixels": drawn.images, "prev_action": drawn.actions, **nothing_else(*drawn.actions.shape[:2])}


def nothing_else(batch: int, time: int) -> dict[str, Tensor]:
    """The keys of a training batch that data without rewards or ends has nothing to say about: B T."""
    no = torch.zeros(batch, time, dtype=torch.bool)
    return {"is_first": no, "valid": ~no, "reward": torch.zeros(batch, time), "terminated": no}


def check_lessons(cfg: Any, objective: Any) -> None:
    """Refuse world models that data without rewards, or with more views than they take, cannot teach."""
    untold = [name for name in ("reward", "continuation") if name in objective.terms]
    if untold:
        text = f"data.kind={cfg.data.kind} has no {' or '.join(untold)} to learn"
        raise UserError(text, "use worldmodel=seq_jepa_views or t_jepa, or worldmodel/terms=mse_only")
    aggregator, observed = objective.model.aggregator, cfg.learning.observed
    need = max(observed, VIEWS)
    learned = getattr(aggregator, "positions", None) is not None and not aggregator.causal
    if learned and cfg.data.kind not in COLUMNS and aggregator.context < need:
        text = f"{need} views are looked at, and positions are learned for {aggregator.context}"
        raise UserError(text, f"set worldmodel.aggregator.context={need}")
    if aggregator.causal and cfg.data.kind not in COLUMNS and observed > aggregator.context:
        text = f"learning.observed={observed} views exceed the context of {aggregator.context}"
        raise UserError(text, f"set worldmodel.aggregator.context={observed}")
