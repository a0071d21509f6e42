"""Sequences of glances: patches of a scene where the eye lands, and the eye movements between them."""

import torch
from torch import Tensor

from envs.pictures.scenes import Scenes
from envs.pictures.sequences import Sequences
from envs.spec import EnvError

OPEN = 1e-16  # every place can be looked at, once nothing salient is left
SHUT = 1e-30  # and one that was, again, once nothing else is left: some weight remains whatever happens


class Saccades:
    """Patches around fixations that follow saliency and do not return: an action is a displacement.

    A fixation at (row, col) is the pixel at [patch // 2, patch // 2] of its patch, which holds the picture's
    own pixels and zeros outside of it; its pose is (row, col) / size. Without `saliency` all places are
    equally likely; with `inhibition` those within patch / 2 of a fixation are out until nothing else remains.
    """

    place = turn = slice(0, 2)
    path_head = "linear"

    def __init__(
        self, scenes: Scenes, *, patch: int = 32, saliency: bool = True, inhibition: bool = True
    ) -> None:
        size = scenes.images.shape[1]
        if not 2 <= patch <= size:
            raise EnvError(f"a patch of {patch} pixels does not suit scenes of {size}; choose 2 to {size}")
        self.patch, self.size, self.inhibition = patch, size, inhibition
        # In memory, channels first, with its border: every patch is then a window, and a draw is one gather.
        inside = slice(patch // 2, patch // 2 + size)
        self.padded = torch.zeros(len(scenes.images), 3, *2 * (size + patch - 1,), dtype=torch.uint8)
        self.padded[:, :, inside, inside] = torch.from_numpy(scenes.images[:]).movedim(-1, 1)
        self.images = self.padded[:, :, inside, inside]  # N 3 size size, the pictures as a whole
        # N 3 size size patch patch, of which none is a copy.
        self.windows = self.padded.unfold(2, patch, 1).unfold(3, patch, 1)
        self.saliency = torch.from_numpy(scenes.saliency[:].copy()) if saliency else None
        self.labels = torch.from_numpy(scenes.labels.copy())
        self.held_out = torch.from_numpy(scenes.held_out.copy())
        self.shape: tuple[int, int, int] = (3, patch, patch)
        self.action_size = 2
        self.disc = _disc(patch / 2)

    def draw(self, things: Tensor, views: int, generator: torch.Generator) -> Sequences:
        """Look at each of these scenes several times: B -> B V."""
        at = self.fixate(things, views, generator)
        poses = at / self.size
        actions = torch.zeros_like(poses)
        actions[:, 1:] = self.action(poses[:, :-1], poses[:, 1:])
        rows, columns = at.unbind(-1)
        return Sequences(self.windows[things[:, None], :, rows, columns], actions, poses)

    def action(self, before: Tensor, after: Tensor) -> Tensor:
        """The displacement of the eye, in pictures: ... 2, ... 2 -> ... 2."""
        return after - before

    def beyond(self) -> None:
        """There is nothing beyond the edge of a picture."""

    def fixate(self, things: Tensor, views: int, generator: torch.Generator) -> Tensor:
        """Choose places to look at, one after the other: B -> B V 2, rows and columns."""
        each, size = torch.arange(len(things)), self.size
        if self.saliency is None:
            weights = torch.ones(len(things), size, size)
        else:
            weights = self.saliency[things].float().add_(OPEN)
        at = torch.empty(len(things), views, 2, dtype=torch.long)
        for view in range(views):
            # A row, then a column in it: the same distribution as over all pixels, and far less to add up.
            at[:, view, 0] = row = _choose(weights.sum(-1), generator)
            at[:, view, 1] = _choose(weights[each, row], generator)
            if self.inhibition and view + 1 < views:
                # What a disc has beyond the edge is moved onto the edge, which is inside the disc.
                rows, columns = (at[:, view, :, None].int() + self.disc).clamp(0, size - 1).unbind(1)
                weights.flatten(1).scatter_(1, (rows * size + columns).long(), SHUT)
        return at


def _choose(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Draw by weight, in double precision as SHUT is small: B K -> B."""
    reached = weights.double().cumsum(-1)
    drawn = torch.rand(len(weights), 1, generator=generator, dtype=torch.double) * reached[:, -1:]
    return torch.searchsorted(reached, drawn, right=True).squeeze(-1).clamp(max=weights.shape[-1] - 1)


def _disc(radius: float) -> Tensor:
    """The steps to all pixels within a radius, in short integers as there are many: 2 K."""
    reach = torch.arange(-int(radius), int(radius) + 1, dtype=torch.int32)
    steps = torch.cartesian_prod(reach, reach).T
    return steps[:, steps.square().sum(0) <= radius**2].contiguous()
