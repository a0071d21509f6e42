"""Read the words of a command line before Hydra does, so that a mistake is answered with the right name."""

import dataclasses
import difflib
import functools
import importlib.util
import json
import re
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from agents.options import UserError, suggest
from agents.schema import RunConfig, leaves

FOREIGN = {
    "steps": "trainer.frames",
    "num_steps": "trainer.frames",
    "total_steps": "trainer.frames",
    "total_timesteps": "trainer.frames",
    "max_steps": "trainer.frames",
    "env_steps": "trainer.frames",
    "warmup": "trainer.warmup_frames",
    "seed_steps": "trainer.warmup_frames",
    "update_ratio": "trainer.updates_per_decision",
    "train_ratio": "trainer.updates_per_decision",
    "utd": "trainer.updates_per_decision",
    "eval_freq": "trainer.eval_every",
    "batch_size": "agent.batch",
    "learning_rate": "agent.model_lr",
    "gamma": "agent.discount",
    "n_step": "agent.nstep",
    "hidden_dim": "agent.hidden",
    "buffer_size": "replay.capacity",
    "num_envs": "env.num",
    "n_envs": "env.num",
    "num_workers": "env.workers",
    "frame_skip": "env.action_repeat",
    "env_id": "env.id",
    "logdir": "run.dir",
    "log_dir": "run.dir",
    "work_dir": "run.dir",
    "exp_name": "run.dir",
    "use_wandb": "logger.wandb",
    "wandb_project": "logger.project",
}
"""What other frameworks call our settings."""


def config_folder() -> Path:
    """Return the folder of the `configs` package, in a checkout or an installed wheel."""
    spec = importlib.util.find_spec("configs")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the package configs is missing", "reinstall: pip install -e .")
    return Path(spec.submodule_search_locations[0])


@functools.cache
def groups(schema: type | None = None) -> dict[str, list[str]]:
    """Return the choices of every config group, or of those that a schema's configuration has, by name."""
    found = {}
    folders = (path for path in config_folder().rglob("*") if path.is_dir() and path.name[0] not in "_.")
    for folder in sorted(folders):
        choices = sorted(path.stem for path in folder.glob("*.yaml"))
        if choices:
            found[folder.relative_to(config_folder()).as_posix()] = choices
    return found if schema is None else _of_schema(found, schema)


def _of_schema(found: dict[str, list[str]], schema: type) -> dict[str, list[str]]:
    """Keep the groups that fill a section of the schema, and the experiments that set nothing else."""
    sections = {field.name for field in dataclasses.fields(schema)} | {"experiment"}
    kept = {name: choices for name, choices in found.items() if name.partition("/")[0] in sections}
    fitting = [name for name in kept["experiment"] if _sections_set(name) <= sections]
    return kept | {"experiment": fitting}


def _sections_set(experiment: str) -> set[str]:
    """Name the sections that an experiment sets, or chooses from a group."""
    text = (config_folder() / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8")
    found = re.findall(r"^(?: +- override /(\w+)|(\w+):)", text, re.MULTILINE)
    return {chosen or key for chosen, key in found} - {"defaults"}


def environments() -> list[str]:
    """Return every name that `env=` accepts."""
    from envs import names

    return sorted({*groups()["env"], *names()})


def normalise(words: Sequence[str], schema: type = RunConfig) -> list[str]:
    """Check every word of a command line and rewrite our shorthands into overrides that Hydra understands."""
    known = {key: hint for key, hint, _ in leaves(schema)}
    known_groups = groups(schema)
    first: list[str] = []
    rest: list[str] = []
    seen: dict[str, str] = {}
    for word in words:
        key, value = _split(word, known)
        if key in seen and seen[key] != value:
            raise UserError(f"{key} is given twice: {seen[key]} and {value}", f"keep one {key}=…")
        seen[key] = value
        if key == "env" and "env" in known_groups:
            first += _environment(value)
            if any(other.startswith("experiment=") for other in words):
                first += _own_settings(value)  # an experiment has a task of its own
        elif key in known_groups:
            _check_choice(key, value, known_groups[key])
            rest.append(word)
            if key == "trainer" and any(other.startswith("experiment=") for other in words):
                first += _settings_of(key, value)  # an experiment has budgets of its own
        elif key == "env.kwargs" or key.startswith("env.kwargs."):
            rest.append(f"++{key}={value}")
        elif key.startswith(("worldmodel.", "study.variants")):
            rest.append(word)
        else:
            _check_key(key, known, known_groups)
            rest.append(f"{key}={_number(value, known[key])}")
    return first + (_implied(seen) if "env" in known_groups else []) + rest


def _implied(seen: dict[str, str]) -> list[str]:
    """Choose the kind of environment from a setting that only this kind has, and keep its name honest."""
    extra = []
    if "env" not in seen and "experiment" not in seen:
        kind = "entry" if "env.entry" in seen else "gym" if "env.id" in seen else seen.get("env.kind", "")
        extra = [f"env={kind}"] if kind in groups()["env"] else []
    if {"env.task", "env.id", "env.entry"} & seen.keys() and "env.name" not in seen:
        extra.append("env.name=''")
    return extra


def _split(word: str, known: Iterable[str]) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    plain = key.lstrip("-")
    if plain != key or not equals:
        if plain in environments():
            example = f"env={plain}"
        else:
            example = f"{find_key(plain.replace('-', '_'), known) or 'trainer.frames'}={value or 'VALUE'}"
        raise UserError(f"{word!r} is not a setting", f"settings are written key=value, as in {example}")
    key = key.lstrip("+")
    if not re.fullmatch(r"[\w./]+", key):
        raise UserError(f"{key!r} is not the name of a setting", "see --help for all of them")
    if key == "hydra" or key.startswith(("hydra.", "hydra/")):
        raise UserError(
            "hydra.* settings have no effect here", "choose the directory with run.dir=… or run.root=…"
        )
    return key, value


def find_key(key: str, known: Iterable[str]) -> str:
    """Return the setting that a mistyped or foreign key most likely means, or ''."""
    known = list(known)
    leaf = key.rpartition(".")[2]
    same = [name for name in known if name.rpartition(".")[2] == leaf]
    if same:
        return same[0]
    foreign = difflib.get_close_matches(leaf, FOREIGN, n=1, cutoff=0.75)
    whole = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
    own = difflib.get_close_matches(leaf, [name.rpartition(".")[2] for name in known], n=1, cutoff=0.75)
    if whole:
        return whole[0]
    if own and (not foreign or _closeness(leaf, own[0]) >= _closeness(leaf, foreign[0])):
        return next(name for name in known if name.rpartition(".")[2] == own[0])
    return FOREIGN[foreign[0]] if foreign else ""


def _closeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _check_key(key: str, known: dict[str, Any], choices: dict[str, list[str]]) -> None:
    if key in known:
        return
    inside = [name for name in known if name.startswith(f"{key}.")]
    if inside:
        raise UserError(f"{key} holds several settings", f"set one of them, as in {inside[0]}=…")
    best = find_key(key, [*known, *choices])
    if best:
        raise UserError(f"unknown key {key}; did you mean {best}?", f"write {best}=…")
    section = [name for name in known if name.rpartition(".")[0] == key.rpartition(".")[0]]
    raise UserError(f"unknown key {key}", f"use one of {', '.join(section or choices)}")


def _check_choice(group: str, value: str, choices: list[str]) -> None:
    for one in value.strip("[]").split(","):
        if one.strip() not in (*choices, "null"):
            if one.strip() in groups()[group]:  # a pre-training experiment given to train, or the reverse
                text = f"{group}={one} is for another command"
                raise UserError(text, f"its first lines say which: configs/{group}/{one}.yaml")
            fix = f"choose one of {', '.join(choices)}"
            raise UserError(f"there is no {group}={one}{suggest(one, choices)}", fix)


def _environment(name: str) -> list[str]:
    if name in groups()["env"]:
        return [f"env={name}"]
    known = environments()
    if name not in known:
        close = suggest(name, known, cutoff=0.5)
        fix = "--help lists them; your own: env=gym env.id=… or env.entry=package.module:function"
        raise UserError(f"there is no environment {name!r}{close}", fix)
    kind, _, task = name.partition("_")
    return [f"env={kind}", f"env.task={task}", f"env.name={name}"]


def _settings_of(group: str, choice: str) -> list[str]:
    """What a file of a group sets, as overrides that also hold against what an experiment sets."""
    import yaml

    text = (config_folder() / group / f"{choice}.yaml").read_text(encoding="utf-8")
    place = "" if "@package _global_" in text else f"{group}."

    def flat(tree: dict[str, Any], above: str) -> Iterator[str]:
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from flat(value, f"{above}{key}.")
            else:
                yield f"{above}{key}={value if isinstance(value, str) else json.dumps(value)}"

    return list(flat(yaml.safe_load(text) or {}, place))


def _own_settings(name: str) -> list[str]:
    """What makes an environment with a file of its own that environment, as overrides."""
    if name not in groups()["env"]:
        return []
    return [word for word in _settings_of("env", name) if word.startswith(("env.task=", "env.name="))]


def _number(value: str, hint: Any) -> str:
    """Let people write 1e6 where a whole number is due."""
    whole = int in (hint, *typing.get_args(hint))
    if whole and re.fullmatch(r"\d+(\.\d*)?[eE]\+?\d{1,2}", value) and float(value).is_integer():
        return str(int(float(value)))
    return value
