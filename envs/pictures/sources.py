"""From settings to a source of sequences, whose pictures are drawn if they are not there yet."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from envs.pictures.saccades import Saccades
from envs.pictures.scenes import SCENE_TIERS, make_scenes
from envs.pictures.sequences import ObjectViews, Source
from envs.pictures.store import TIERS, make_beyond, make_pictures
from envs.spec import EnvError


def make_source(data: Any, tell: Callable[[str, int], None] = lambda *_: None) -> Source:
    """Make the source that the settings name (kind, tier, size, root, colour, saliency, inhibition)."""
    tiers: dict[str, Any] = TIERS if data.kind == "objects" else SCENE_TIERS
    if data.tier not in tiers:
        raise EnvError(f"there is no data.tier={data.tier} of {data.kind}; choose {', '.join(tiers)}")
    wanted, root = tiers[data.tier], Path(data.root)
    if data.kind == "saccades":
        return Saccades(make_scenes(root, wanted, tell), saliency=data.saliency, inhibition=data.inhibition)
    wanted = replace(wanted, size=data.size) if data.size else wanted
    beyond = partial(make_beyond, root, wanted, tell)
    return ObjectViews(make_pictures(root, wanted, tell), colour=data.colour, beyond=beyond)
