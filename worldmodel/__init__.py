"""Action-conditioned latent world models: encode, aggregate, predict, imagine."""

from importlib import import_module
from typing import TYPE_CHECKING

from .errors import ModelError

if TYPE_CHECKING:
    from .builders import build, build_model
    from .checkpoint import describe, load, save
    from .model import Imagined, State, WorldModel
    from .objective import Objective, Outputs

# Resolved on first use: importing the package must not cost the seconds that importing torch does. No file is
# named like a public function, or importing that file would put the module in the function's place.
_HOMES = {
    "Imagined": "model",
    "Objective": "objective",
    "Outputs": "objective",
    "State": "model",
    "WorldModel": "model",
    "build": "builders",
    "build_model": "builders",
    "describe": "checkpoint",
    "load": "checkpoint",
    "save": "checkpoint",
}

__all__ = [
    "Imagined",
    "ModelError",
    "Objective",
    "Outputs",
    "State",
    "WorldModel",
    "build",
    "build_model",
    "describe",
    "load",
    "save",
]


def __getattr__(name: str) -> object:
    """Resolve a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
