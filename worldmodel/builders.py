"""Config and shapes to objects; the only file that knows configs. No name in a config is ever imported."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any, get_args, get_origin

import torch

from .aggregators import AGGREGATORS
from .blocks import ActionEmbedding
from .encoders import ENCODERS
from .errors import ModelError
from .heads import HEADS, Decoder
from .losses import NEEDS_HEAD, OF_ANSWERS, OF_ENCODERS, OF_INPUTS, OF_LATENTS, TERMS
from .model import WorldModel
from .objective import ROLLOUT, Objective
from .predictors import PREDICTORS
from .targets import TARGETS, Input
from .views import VIEWS

ACTIONS = {
    "linear": partial(ActionEmbedding, norm="none"),
    "batchnorm": partial(ActionEmbedding, norm="batch"),
}
REGISTRY: dict[str, Mapping[str, Callable[..., Any]]] = {
    "encoder": ENCODERS,
    "action": ACTIONS,
    "aggregator": AGGREGATORS,
    "predictor": PREDICTORS,
    "target": TARGETS,
    "views": {name: partial(view) for name, view in VIEWS.items()},
}
SECTIONS = (*REGISTRY, "heads", "terms", "rollout_steps", "rollout_after")
LIMITS = {"layers": 64, "context": 4096, "heads": 256, "bins": 4097}
MOST_KEYS, MOST_COLUMNS = 256, 1024  # each makes parameters of its own
RANGES = {"dropout": (0.0, 1.0), "temperature": (1e-6, math.inf)}  # other numbers: from 0
LARGEST = 65536  # no width, channel count or other size of ours is larger; a file that says so is damaged


def build(config: Any, shapes: Mapping[str, Any], *, seed: int | None = None) -> Objective:
    """Build model, target and terms; the global generator is seeded inside a fork if seed is given."""
    settings = _plain(config)
    model = build_model(settings, shapes, seed=seed)
    target = _make("target", settings, {"encoder": model.encoder})
    view = VIEWS[_part("views", settings)[0]]
    rollout = {name: settings.get(name, low) for name, low in (("rollout_steps", 0), ("rollout_after", 1))}
    for name, value in rollout.items():
        _check(f"worldmodel.{name}", value, int)
    terms, weights = {}, {}
    for name, options in _section("terms", settings).items():
        terms[name], weights[name] = _term(name, options, model)
        _answered(name, target, model)
    if not terms:
        raise ModelError(
            "worldmodel.terms is empty, so nothing would be learned; choose worldmodel/terms=mse"
        )
    return Objective(model, target, terms, weights, view, **rollout)


def build_model(config: Any, shapes: Mapping[str, Any], *, seed: int | None = None) -> WorldModel:
    """Build the world model alone; the global generator is seeded inside a fork if seed is given."""
    if seed is not None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build_model(config, shapes)
    settings, facts = _plain(config), _facts(shapes)
    _known("worldmodel", settings, SECTIONS)
    observation, size = facts["observation"], facts["action"]["size"]
    encoder = _make("encoder", settings, {"observation": observation})
    action = _make("action", settings, {"action_size": size})
    sizes = {"latent_size": encoder.size, "action_size": size, "action_width": action.width}
    aggregator = _make("aggregator", settings, sizes)
    sizes |= {"belief_size": aggregator.size, "normaliser": encoder.normaliser}
    predictor = _make("predictor", settings, sizes)
    heads, sizes = (
        {},
        sizes
        | {"trunk_size": predictor.size, "input_size": getattr(getattr(encoder, "vectors", None), "size", 0)},
    )
    for name, options in _section("heads", settings).items():
        _known("worldmodel.heads", {name: None}, HEADS)
        if HEADS[name] is Decoder and not sizes["input_size"]:
            raise ModelError("worldmodel.heads.decoder needs observations that are vectors; drop it")
        options = {} if options is None else options
        heads[name] = _call(f"worldmodel.heads.{name}", HEADS[name], options, sizes)
    return WorldModel(encoder, action, aggregator, predictor, heads, settings, facts)


def _term(name: str, options: Any, model: WorldModel) -> tuple[Any, float]:
    """Make one term and its weight from {"weight": w, option: value}."""
    where, kind = f"worldmodel.terms.{name}", name.removeprefix(ROLLOUT)
    _known("worldmodel.terms", {kind: None}, TERMS)
    if name != kind and kind in OF_LATENTS | OF_ENCODERS:
        raise ModelError(
            f"{where}: {kind} is a property of what encodes or is encoded, not of a rollout; use {kind}"
        )
    if kind in OF_ENCODERS and not hasattr(model.encoder, "input_weights"):
        raise ModelError(f"{where} needs inputs that are multiplied one by one; use worldmodel/encoder=mlp")
    if not isinstance(options, Mapping) or "weight" not in options:
        raise ModelError(f"{where} needs a weight; write {name}: {{weight: 1.0}}")
    head = NEEDS_HEAD.get(kind)
    if head and getattr(model, head) is None:
        raise ModelError(f"{where} needs the {head} head; add worldmodel.heads.{head}={{}} or drop the term")
    _check(f"{where}.weight", options["weight"], float)
    rest = {key: value for key, value in options.items() if key != "weight"}
    return _call(where, TERMS[kind], rest, {"latent_size": model.latent_size}), float(options["weight"])


def _answered(name: str, target: Any, model: WorldModel) -> None:
    """Refuse a term whose answers are of another kind than what it holds against them."""
    kind = name.removeprefix(ROLLOUT)
    if kind in OF_INPUTS and not isinstance(target, Input):
        raise ModelError(f"worldmodel.terms.{name} compares with inputs; add worldmodel/target=input")
    if kind in OF_ANSWERS and isinstance(target, Input) and target.size != model.latent_size:
        raise ModelError(
            f"worldmodel.terms.{name} compares latents of {model.latent_size} entries with inputs of "
            f"{target.size}; use worldmodel/terms=reconstruction, which decodes them"
        )


def _make(part: str, settings: Mapping[str, Any], facts: Mapping[str, Any]) -> Any:
    """Make the part that the config names."""
    name, options = _part(part, settings)
    return _call(f"worldmodel.{part}", REGISTRY[part][name], options, facts)


def _part(part: str, settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Split a part's section into its registered name and its options."""
    choices = ", ".join(REGISTRY[part])
    options = dict(_section(part, settings))
    if "name" not in options:
        raise ModelError(f"worldmodel.{part} is not chosen; add {part}: {{name: ...}} with one of {choices}")
    name = options.pop("name")
    if name not in REGISTRY[part]:
        hint = _hint(str(name), REGISTRY[part])
        raise ModelError(f"worldmodel.{part}.name={name!r} is unknown{hint}; choose one of {choices}")
    return name, options


def _section(name: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a section, empty when absent."""
    section = settings.get(name) or {}
    if not isinstance(section, Mapping):
        raise ModelError(f"worldmodel.{name} must be a mapping such as {{name: ...}}, not {section!r}")
    return section


def _call(where: str, make: Callable[..., Any], options: Mapping[str, Any], facts: Mapping[str, Any]) -> Any:
    """Call a maker: its positional parameters are facts, its keyword-only ones choices."""
    if not isinstance(options, Mapping):
        raise ModelError(f"{where} must be a mapping of options, not {options!r}")
    parameters = inspect.signature(make).parameters
    fixed = make.keywords if isinstance(make, partial) else {}
    choices = {n: p for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY and n not in fixed}
    needed = [n for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    _known(where, options, choices)
    for name, value in options.items():
        _check(f"{where}.{name}", value, choices[name].annotation)
    return make(*(facts[name] for name in needed), **options)


def _known(where: str, given: Mapping[str, Any], allowed: Sequence[str] | Mapping[str, Any]) -> None:
    """Refuse keys that nothing reads."""
    for key in given:
        if key not in allowed:
            listing = ", ".join(allowed) or "none"
            raise ModelError(
                f"{where} has no option {key!r}{_hint(str(key), allowed)}; its options are: {listing}"
            )


def _hint(word: str, allowed: Sequence[str] | Mapping[str, Any]) -> str:
    """Guess what a misspelt word was to be."""
    close = get_close_matches(word, list(allowed), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _check(where: str, value: Any, kind: Any) -> None:
    """Refuse a value of another type than the parameter's annotation, and sizes that cannot be meant."""
    if get_origin(kind) is Sequence:
        if isinstance(value, str) or not isinstance(value, Sequence) or len(value) > 64:
            raise ModelError(f"{where} must be a list such as [256,256], not {value!r}")
        for entry in value:
            _check(where, entry, get_args(kind)[0])
        return
    wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}[kind]
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise ModelError(f"{where} must be {wanted}, not {value!r}")
    leaf = where.rsplit(".", 1)[-1]
    if kind is float:
        low, high = RANGES.get(leaf, (0.0, math.inf))
        if not low <= value <= high or math.isinf(value):
            reach = "" if math.isinf(high) else f" to {high:g}"
            raise ModelError(f"{where}={value} must be a number from {low:g}{reach}")
    if kind is int and leaf not in ("steps", "seed"):
        low, high = (0 if leaf in ("rollout_steps", "registers") else 1), LIMITS.get(leaf, LARGEST)
        if not low <= value <= high:
            raise ModelError(f"{where}={value} must lie between {low} and {high}")


def _plain(config: Any) -> dict[str, Any]:
    """Copy a mapping or dataclass into plain dicts and lists that JSON can hold."""
    if is_dataclass(config) and not isinstance(config, type):
        config = asdict(config)
    if not isinstance(config, Mapping):
        raise ModelError(f"a world model's config must be a mapping, not {type(config).__name__}")

    def copy(value: Any) -> Any:
        """Copy one value."""
        if isinstance(value, Mapping):
            return {str(key): copy(entry) for key, entry in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [copy(entry) for entry in value]
        return value

    settings = copy(config)
    settings.setdefault("views", {"name": "next_step"})
    settings.setdefault("action", {"name": "linear"})
    return settings


def _facts(shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Check and copy the shapes: {"observation": {key: {"shape", "dtype"}}, "action": {"kind", "size"}}."""
    try:
        observation = {
            str(key): {"shape": [int(n) for n in fact["shape"]], "dtype": str(fact["dtype"])}
            | ({"cardinalities": [int(n) for n in fact["cardinalities"]]} if "cardinalities" in fact else {})
            for key, fact in shapes["observation"].items()
        }
        action = {"kind": str(shapes["action"]["kind"]), "size": int(shapes["action"]["size"])}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            'shapes must look like {"observation": {key: {"shape": [...], "dtype": "float32"}}, '
            f'"action": {{"kind": "continuous", "size": 6}}}}; reading them failed with {error!r}'
        ) from error
    sizes = [n for fact in observation.values() for n in fact["shape"]] + [action["size"]]
    columns = [n for fact in observation.values() for n in fact.get("cardinalities", ())]
    if len(observation) > MOST_KEYS or len(columns) > MOST_COLUMNS:
        text = (
            f"{len(observation)} observations with {len(columns)} columns of words are more than any of ours"
        )
        raise ModelError(f"{text}; they are damaged, or fewer must be told apart")
    sizes += columns
    if not observation or any(not 1 <= n <= LARGEST for n in sizes):
        raise ModelError(
            f"shapes need at least one observation and sizes from 1 to {LARGEST}, not {dict(shapes)}"
        )
    for key, fact in observation.items():
        if fact["dtype"] not in ("float32", "uint8"):
            raise ModelError(
                f"observation {key!r} has dtype {fact['dtype']}; only float32 and uint8 are understood"
            )
    return {"observation": observation, "action": action}
