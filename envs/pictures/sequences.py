"""Sequences of views of one thing, and the actions that lead from view to view."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from envs.pictures.objects import LATENTS, relative
from envs.pictures.store import Pictures
from envs.spec import EnvError

QUATERNION = slice(0, 4)
HUES = [LATENTS.index("floor_hue"), LATENTS.index("light_hue")]


class Sequences(NamedTuple):
    """B things, each in V views."""

    images: Tensor  # B V C Y X, uint8
    actions: Tensor  # B V A, what led to a view; zeros before the first
    poses: Tensor  # B V P, where each view stands


class Source(Protocol):
    """Where sequences come from; a generator decides which views are drawn."""

    shape: tuple[int, int, int]  # C Y X of a view
    action_size: int
    place: slice  # of a pose, what is the place or the attitude and not a nuisance
    turn: slice  # of an action, what changes it
    path_head: str  # linear where actions add up, mlp where they do not
    labels: Tensor  # O, the class of each thing
    held_out: Tensor  # O, whether it is kept for judging

    def draw(self, things: Tensor, views: int, generator: torch.Generator) -> Sequences:
        """Draw a sequence of each of these things: B -> B V."""
        ...

    def action(self, before: Tensor, after: Tensor) -> Tensor:
        """What leads from one pose to another: B P, B P -> B A."""
        ...

    def beyond(self) -> "Source | None":
        """Things outside of what was to be seen, for judging alone; None where there is no such thing."""
        ...


class ObjectViews:
    """Turned objects: an action is the relative rotation, with `colour` also how both hues change."""

    place = turn = QUATERNION
    path_head = "mlp"

    def __init__(
        self, pictures: Pictures, *, colour: bool = False, beyond: Callable[[], Pictures] | None = None
    ) -> None:
        # In memory, channels first: a draw is then one gather.
        images = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pictures.images, -1, 2)))
        self.images, self.colour, self._beyond = images, colour, beyond
        self.latents = torch.from_numpy(np.array(pictures.latents))
        self.labels = torch.from_numpy(np.array(pictures.labels))
        self.held_out = torch.from_numpy(np.array(pictures.held_out))
        height, width = images.shape[3:]
        self.shape: tuple[int, int, int] = (3, height, width)
        self.action_size = 6 if colour else 4

    def draw(self, things: Tensor, views: int, generator: torch.Generator) -> Sequences:
        """Draw different views of each of these objects, in any order: B -> B V."""
        total = self.images.shape[1]
        if views > total:
            text = f"a sequence of {views} different views is longer than the {total} that an object has"
            raise EnvError(f"{text}; use learning.observed={total - 1} or less, or a larger data.tier")
        order = torch.rand(len(things), total, generator=generator).argsort(1)[:, :views]
        poses = self.latents[things[:, None], order]
        actions = torch.zeros(len(things), views, self.action_size)
        actions[:, 1:] = self.action(poses[:, :-1], poses[:, 1:])
        return Sequences(self.images[things[:, None], order], actions, poses)

    def beyond(self) -> "ObjectViews | None":
        """Held-out objects turned farther than any here, drawn when first asked for."""
        return ObjectViews(self._beyond(), colour=self.colour) if self._beyond else None

    def action(self, before: Tensor, after: Tensor) -> Tensor:
        """The relative rotation (x, y, z, w), then the plain difference of hues: ... 8, ... 8 -> ... A."""
        turn = relative(before[..., QUATERNION].double().numpy(), after[..., QUATERNION].double().numpy())
        parts = [torch.from_numpy(turn).float()]
        if self.colour:
            parts.append(after[..., HUES] - before[..., HUES])
        return torch.cat(parts, -1)
