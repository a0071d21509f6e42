"""One configuration per run: Hydra composes YAML and the command line into the dataclasses of the schema."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Any

from agents import durable
from agents.options import UserError, suggest
from agents.overrides import normalise
from agents.pretrain_schema import PretrainConfig, check_pretraining
from agents.schema import (
    AgentConfig,
    EnvConfig,
    LoggerConfig,
    PlanConfig,
    ReplayConfig,
    RunConfig,
    RunSettings,
    TrainerConfig,
    check,
    check_values,
)

__all__ = [
    "AgentConfig",
    "EnvConfig",
    "LoggerConfig",
    "PlanConfig",
    "PretrainConfig",
    "ReplayConfig",
    "RunConfig",
    "RunSettings",
    "TrainerConfig",
    "config_dict",
    "config_hash",
    "env_name",
    "essentials",
    "load_config",
    "load_pretraining",
    "read_config",
    "save_yaml",
    "to_yaml",
]

NOT_TRAINING = {
    "seed",  # kept beside the hash, so that the seeds of one experiment share it
    "run",
    "logger",
    "env.name",
    "env.workers",
    "env.timeout_s",
    "env.restarts",
    "agent.capture",
    "trainer.frames",
    "trainer.eval_every",
    "trainer.eval_episodes",
    "trainer.probe_every",
    "trainer.checkpoint_every",
    "trainer.keep",
    "trainer.log_every",
    "trainer.video",
    "trainer.threads",
    "variant",
    "study",
    "data.root",
    "learning.log_every",
    "learning.checkpoint_every",
    "learning.keep",
    "learning.threads",
}
"""Settings that do not change what is learned from the same frames, so a resumed run may change them."""

MOST_BYTES = 100_000  # ours have 2,000; a parser needs minutes for a megabyte of brackets
_INDEX = re.compile(r"(\.\d+)+$")
_RESOLVER = re.compile(r"\$\{[^}]*:")


def load_config(argv: Sequence[str]) -> RunConfig:
    """Compose the configuration of a run from the words of a command line and check every value."""
    config = _to_schema(_compose_run(argv))
    if config.env.entry and not any(word.startswith("env.entry=") for word in argv):
        text = f"env.entry={config.env.entry} names code to run, and only the command line may do that"
        raise UserError(text, f"type env.entry={config.env.entry} there")
    check(config)
    return config


def load_pretraining(argv: Sequence[str]) -> PretrainConfig:
    """Compose the configuration of a pre-training run from the words of a command line and check it."""
    config = _to_schema(_compose(normalise(argv, PretrainConfig), PretrainConfig))
    check_values(config)
    check_pretraining(config)
    return config


def read_config(path: Path, *, entry: str | None = None, inert: bool = False) -> RunConfig:
    """Read a saved config.yaml or config.json; it may not name code, so an own `entry` is given anew.

    It may where it is inert: its environment is never built.
    """
    text = _read_small(path)
    try:
        plain = json.loads(text) if path.suffix == ".json" else _parse_yaml(text)
    except (ValueError, RecursionError) as error:
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} cannot be read: {line}", "restore it from a copy") from None
    if not isinstance(plain, dict):
        raise UserError(f"{path} holds no settings", "restore it from a copy")
    if {"data", "learning"} <= plain.keys():
        fix = "look at it with python -m agents.claims, or load its world model with worldmodel.load"
        raise UserError(f"{path.parent} is of a pre-training run, which has no agent", fix)
    _fill_in(plain)
    config = _to_schema(_merge(plain, path))
    if config.env.entry and config.env.entry != entry and not inert:
        raise UserError(*_untrusted(path, config.env.entry))
    # Gymnasium imports what stands before a colon.
    if ":" in (config.env.id or "") and entry != config.env.id and not inert:
        raise UserError(*_untrusted(path, str(config.env.id)))
    check(config)
    return config


def _untrusted(path: Path, code: str) -> tuple[str, str]:
    return f"{path} names code to run ({code}); a file may not do that", f"if you trust it, add entry={code}"


def _parse_yaml(text: str) -> Any:
    import yaml

    try:
        # Aliases let a small file grow without bound.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ValueError("it uses YAML aliases")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def config_dict(config: RunConfig | PretrainConfig) -> dict[str, Any]:
    """Return the configuration as plain dicts, lists and scalars."""
    return dataclasses.asdict(config)


# Settings that runs of before do not know, as these were made: they go on while nothing else is asked for.
LATER = {
    "agent.hide": 0.0,
    "agent.horizons": 5.0,
    "agent.plan.eval_horizon": None,
    "agent.plan.margin": None,
    "data.contents": None,
    "data.steps": 1,
    "env.recall": 0,
    "env.reward_seen": False,
    "worldmodel.aggregator.motion": 0.0,
    "worldmodel.encoder.steps": 1,
    "worldmodel.encoder.frozen": False,
}


def _fill_in(saved: dict[str, Any]) -> None:
    """Give a saved configuration of an agent the later settings that it does not know, as it was made."""
    for key, value in LATER.items():
        *path, name = key.split(".")
        node: Any = saved if path[0] == "agent" else None
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.setdefault(name, value)


def config_hash(config: RunConfig | PretrainConfig) -> str:
    """Return the SHA-256 of every setting that affects training, in hex."""
    kept = sorted(_flat(essentials(config_dict(config))))
    return hashlib.sha256(json.dumps(kept, separators=(",", ":")).encode()).hexdigest()


def essentials(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a configuration that affect training, by their dotted names; lists are whole."""
    return {
        key: value
        for key, value in _flat(tree, dict)
        if not _excluded(key) and not (key in LATER and value == LATER[key])
    }


def to_yaml(config: RunConfig | PretrainConfig) -> str:
    """Return the configuration as YAML text."""
    import yaml

    return yaml.safe_dump(config_dict(config), sort_keys=False, default_flow_style=False)


def save_yaml(config: RunConfig | PretrainConfig, path: Path) -> None:
    """Write the configuration; nothing in it comes from the environment, so no secret can reach the file."""
    with durable.disk_errors(path):
        durable.replace_file(path, to_yaml(config).encode())


def env_name(config: EnvConfig) -> str:
    """Return a short name of the environment, for directories and labels."""
    if config.name:
        return config.name
    what = {"gym": config.id, "entry": config.entry}.get(config.kind, config.task) or ""
    return f"{config.kind}_{what}".rstrip("_") if config.kind != "entry" else what


PRIMARY = {RunConfig: "config", PretrainConfig: "pretrain"}  # the file that composition begins with


def _compose_run(argv: Sequence[str]) -> Any:
    from omegaconf import OmegaConf

    words = normalise(argv)
    unnamed = [word for word in words if not word.startswith("env.name=")]
    given = {word.partition("=")[0] for word in argv}
    if unnamed != words and "experiment" in given and not given & {"env.name", "env.id", "env.entry"}:
        # An experiment that changes the environment makes a name from the task, to tell its runs apart.
        node = _compose(unnamed, RunConfig)
        if OmegaConf.is_interpolation(node.env, "name"):
            return node
    return _compose(words, RunConfig)


def _compose(words: list[str], schema: type) -> Any:
    from hydra import compose, initialize_config_module
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    for name, node in (("run_schema", RunConfig), ("pretrain_schema", PretrainConfig)):
        ConfigStore.instance().store(name=name, node=node)
    try:
        with initialize_config_module("configs", version_base="1.3"):
            return compose(PRIMARY[schema], overrides=words)
    except (HydraException, OmegaConfBaseException) as error:
        raise _translate(error) from None


def _merge(plain: dict[str, Any], path: Path) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.merge(OmegaConf.structured(RunConfig), plain)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        text = str(error).splitlines()[0]
        raise UserError(f"{path} does not fit this version: {text}", "use the version in run.json") from None


def _to_schema(node: Any) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for key, value in _flat(OmegaConf.to_container(node, resolve=False)):
        if isinstance(value, str) and _RESOLVER.search(value):
            # A resolved ${oc.env:…} would write a secret into every file that holds the configuration.
            fix = f"write the value itself, or let the shell fill it in: {key}=$NAME"
            raise UserError(f"{key} uses a resolver, which could copy secrets into files: {value}", fix)
    try:
        return OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        raise _translate(error) from None


def _translate(error: Exception) -> UserError:
    """Turn an error of Hydra or OmegaConf into one that names the key, the value and the fix."""
    text = "\n".join(str(part) for part in (error, error.__cause__) if part is not None)
    key = _first(r"full_key: ([\w.]+)", text) or _first(r"override '?\+*([\w.]+)", text)
    if re.search(r"not in struct|not in '|Could not override", text) and key:
        section = _world_model_keys() if key.startswith("worldmodel") else []
        return UserError(f"unknown key {key}{suggest(key, section)}", "--show-config prints every setting")
    wanted = _first(r"could not be converted to (\w+)", text) or _first(r"is not a valid (\w+)", text)
    if wanted:
        value = _first(r"Value '(.*?)' (?:of type|could|is)", text)
        nouns = {
            "integer": "a whole number",
            "float": "a number",
            "boolean": "true or false",
            "bool": "true or false",
        }
        want, key = nouns.get(wanted.lower(), wanted.lower()), key or "a setting"
        return UserError(f"{key} needs {want}, got {value!r}", f"write {key}=VALUE with {want}")
    if "weep" in text and "multirun" in text.lower():
        fix = "start one command per value, or quote a list: key='[1,2]'"
        return UserError("one run takes one value per setting", fix)
    missing = _first(r"Could not find '([\w./]+)'", text)
    if missing:
        return UserError(f"there is no config {missing}", "--help lists the choices of every group")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("Error merging")]
    line = next(iter(lines), type(error).__name__)
    fix = "values with spaces or brackets need quotes: key='[1,2]'"
    return UserError(f"cannot read {key or 'the settings'}: {line}", fix)


def _world_model_keys() -> list[str]:
    from omegaconf import OmegaConf

    tree = OmegaConf.to_container(_compose([], RunConfig).worldmodel, resolve=False)
    return sorted({f"worldmodel.{_INDEX.sub('', key)}" for key, _ in _flat(tree)})


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found.group(1) if found else ""


def _flat(node: Any, into: type | UnionType = dict | list, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, into) and node:
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in pairs:
            yield from _flat(value, into, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def _excluded(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in NOT_TRAINING)


def _read_small(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise UserError(f"{path} is not a plain file", "give a run directory")
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path} is too large for a configuration", "restore it from a backup")
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError):
        raise UserError(f"there is no readable configuration at {path}", "give a run directory") from None
