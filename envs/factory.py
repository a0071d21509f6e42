"""Turn a name and a few choices into one simulator."""

import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from envs.names import SUITE, TOYS, hint, resolve_suite
from envs.spec import EnvError, Simulator

KINDS = ("dmc", "gym", "toy", "entry")
CONFIG_KEYS = (
    "kind",
    "task",
    "id",
    "entry",
    "kwargs",
    "action_repeat",
    "observations",
    "pixels",
    "camera",
    "time_limit",
    "hide",
    "delay",
    "distractors",
    "distractor_memory",
    "distractor_scale",
    "drop",
    "reward_seen",
    "recall",
)


def make(
    kind: str,
    *,
    task: str | None = None,
    id: str | None = None,
    entry: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
    action_repeat: int = 1,
    observations: str = "state",
    pixels: int = 64,
    camera: int | str = 0,
    time_limit: int | None = None,
    hide: Sequence[str] = (),
    delay: int = 0,
    distractors: int = 0,
    distractor_memory: float = 0.9,
    distractor_scale: float = 1.0,
    drop: float | None = None,
    reward_seen: bool = False,
    recall: int = 0,
    seed: int = 0,
    index: int = 0,
) -> Simulator:
    """Build one simulator; `time_limit` counts control steps, `pixels` is the side of a square picture.

    `hide` names observations, or parts of them, that are not shown; the rest is `delay` decisions late.
    `distractors` channels of noise are shown beside them. Sensors are dead for an episode with probability
    `drop`, and marked as missing. With `reward_seen` the last reward is shown too, late as the rest.
    With `recall` what was done and how the shown vectors changed in so many decisions is shown as well.
    """
    _check_choices(kind, action_repeat, observations, pixels, time_limit)
    look = {"observations": observations, "pixels": pixels, "camera": camera}
    pace = {"action_repeat": action_repeat, "time_limit": time_limit, "seed": seed, "index": index}
    extra = dict(kwargs or {})
    if kind == "dmc":
        made = _make_suite(task, extra, look | pace)
    elif kind == "toy":
        made = _make_toy(task, extra, observations, pace)
    elif kind == "gym":
        made = _make_gym(id, extra, look | pace)
    else:
        made = _make_entry(entry, extra, look | pace)
    if distractors:
        from envs.distractors import Distracted

        made = Distracted(made, count=distractors, memory=distractor_memory, scale=distractor_scale)
    if drop is not None:
        from envs.sensors import Unreliable

        made = Unreliable(made, share=drop)
    if reward_seen:
        from envs.rewarded import Rewarded

        made = Rewarded(made)
    if hide or delay:
        from envs.veil import Veiled

        made = Veiled(made, hide=hide, delay=delay)
    if recall:
        from envs.recalled import Recalled

        made = Recalled(made, count=recall)
    return made


def simulator_from_config(env: Any, seed: int, index: int = 0) -> Simulator:
    """Build one simulator from any object with the attributes of the `env` config group."""
    return make(**factory_args(env), seed=seed, index=index)


def factory_args(env: Any) -> dict[str, Any]:
    """Read the arguments of `make` (without seed and index) from a config object or mapping."""
    if isinstance(env, Mapping):
        return {key: env[key] for key in CONFIG_KEYS if key in env}
    found = {key: getattr(env, key) for key in CONFIG_KEYS if hasattr(env, key)}
    if isinstance(found.get("kwargs"), Mapping):
        found["kwargs"] = dict(found["kwargs"])
    return found


def _check_choices(kind: str, repeat: int, observations: str, pixels: int, limit: int | None) -> None:
    if kind not in KINDS:
        raise EnvError(f"unknown env.kind {kind!r}; {hint(str(kind), KINDS)}")
    if observations not in ("state", "pixels", "both"):
        raise EnvError(f"env.observations is {observations!r}; choose state, pixels or both")
    for name, value in (("action_repeat", repeat), ("pixels", pixels), ("time_limit", limit)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise EnvError(f"env.{name} is {value!r}; give a whole number of at least 1")


def _make_suite(task: str | None, extra: dict[str, Any], options: dict[str, Any]) -> Simulator:
    domain, name = resolve_suite(task)
    if not domain:
        known = [f"{d}_{t}" for d, tasks in SUITE.items() for t in tasks]
        raise EnvError(f"unknown dm_control task {task!r}; {hint(str(task), known)}")
    from envs.dmc import ControlSuite

    return ControlSuite(domain, name, task_kwargs=extra, **options)


def _make_toy(task: str | None, extra: dict[str, Any], observations: str, pace: dict[str, Any]) -> Simulator:
    name = (task or "").removeprefix("toy_")
    if name not in TOYS:
        raise EnvError(f"unknown toy {task!r}; {hint(str(task), TOYS)}")
    if observations != "state":
        raise EnvError(f"toy_{name} has no pixels; use env.observations=state")
    from envs.toy import build_toy

    return build_toy(name, extra, **pace)


def _make_gym(id: str | None, extra: dict[str, Any], options: dict[str, Any]) -> Simulator:
    import gymnasium

    if not id:
        raise EnvError("env.kind=gym needs a Gymnasium id; for example env.id=Pendulum-v1")
    known = list(gymnasium.registry)
    if id not in gymnasium.registry and ":" not in id:
        raise EnvError(
            f"unknown Gymnasium id {id!r}; {hint(id, known)} (a package may need to be installed first)"
        )
    from envs.gym import Gymnasium

    limit = options["time_limit"]  # instead of the registered one, which would end a longer episode
    pace = {} if limit is None else {"max_episode_steps": limit}
    return Gymnasium(lambda **more: gymnasium.make(id, **(pace | extra), **more), id, **options)


def _make_entry(entry: str | None, extra: dict[str, Any], options: dict[str, Any]) -> Simulator:
    factory = _import_entry(entry)
    accepted = inspect.signature(factory).parameters
    everything = any(p.kind is p.VAR_KEYWORD for p in accepted.values())

    def build(**more: Any) -> Any:
        fitting = {key: value for key, value in more.items() if everything or key in accepted}
        return factory(**extra, **fitting)

    made = _call(entry, build, seed=options["seed"], index=options["index"])
    if isinstance(made, Simulator):
        return made
    from envs.gym import Gymnasium, is_gymnasium

    if not is_gymnasium(made):
        raise EnvError(
            f"env.entry={entry} returned {type(made).__name__}; return a gymnasium.Env or an object with "
            "the methods of envs.Simulator"
        )
    made.close()
    return Gymnasium(lambda **more: _call(entry, build, **more), str(entry), **options)


def _import_entry(entry: str | None) -> Any:
    module, _, attribute = (entry or "").partition(":")
    if not module or not attribute:
        raise EnvError(f"env.entry={entry!r} is not of the form package.module:function")
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:
        raise EnvError(
            f"env.entry={entry} cannot be imported: {type(error).__name__}: {error}; check the name and run "
            "from the folder that contains the package"
        ) from error
    if not callable(found):
        raise EnvError(
            f"env.entry={entry} is not callable; point it at a function that returns the environment"
        )
    return found


def _call(entry: str | None, build: Any, **more: Any) -> Any:
    try:
        return build(**more)
    except Exception as error:
        raise EnvError(
            f"env.entry={entry} raised {type(error).__name__}: {error}; fix the factory or env.kwargs"
        ) from error
