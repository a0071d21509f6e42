"""Environments: one simulator protocol, batched for TorchRL, seeded per episode, restorable anywhere."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from envs.names import names
from envs.spec import Action, Array, EnvError, Simulator, Spec, Step

if TYPE_CHECKING:
    from envs.batched import Batched, from_config, make_batch
    from envs.factory import make, simulator_from_config

# torch, torchrl and the simulators load on first use, so that `--help` stays fast.
_LAZY = {
    "make": "envs.factory",
    "simulator_from_config": "envs.factory",
    "Batched": "envs.batched",
    "make_batch": "envs.batched",
    "from_config": "envs.batched",
}

__all__ = [
    "Action",
    "Array",
    "Batched",
    "EnvError",
    "Simulator",
    "Spec",
    "Step",
    "from_config",
    "make",
    "make_batch",
    "names",
    "simulator_from_config",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'envs' has no attribute {name!r}")
