"""Typed `key=value` options: one dataclass gives the parser, the checks, the hints and the `--help` text."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

TRUE = {"true", "yes", "on", "1"}
FALSE = {"false", "no", "off", "0"}
NONE = {"none", "null"}
Options = typing.TypeVar("Options")


class UserError(Exception):
    """Say what the user did and how to mend it; the command line shows it without a traceback."""

    exit_code = 2

    def __init__(self, message: str, fix: str = "") -> None:
        """Keep the message and the fix; `str()` gives both."""
        super().__init__(f"{message}\n  fix: {fix}" if fix else message)


class DiskError(UserError):
    """Report a full, read-only or forbidden disk."""

    exit_code = 74


def option(
    default: Any = dataclasses.MISSING,
    text: str = "",
    *,
    factory: Any = dataclasses.MISSING,
    choices: Sequence[str] = (),
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """Declare a dataclass field with its help text and the values it accepts (`low` and `high` included)."""
    metadata = {"help": text, "choices": tuple(choices), "low": low, "high": high}
    if factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def suggest(word: str, known: Iterable[str], limit: int = 3, cutoff: float = 0.6) -> str:
    """Return ' Did you mean a, b?' for the known words closest to `word`, or ''."""
    close = difflib.get_close_matches(word, list(known), n=limit, cutoff=cutoff)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def check_value(key: str, value: Any, metadata: typing.Mapping[str, Any]) -> None:
    """Raise UserError where a value leaves the choices or the range its field declares."""
    if value is None:
        return
    choices, low, high = (metadata.get(name) for name in ("choices", "low", "high"))
    if choices and value not in choices:
        raise UserError(
            f"{key} cannot be {value!r}{suggest(str(value), choices)}", f"choose one of {', '.join(choices)}"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{key} must be a finite number, got {value}", f"write {key}=0.5, for example")
    if low is not None and value < low:
        raise UserError(f"{key} must be at least {low}, got {value}", f"set {key}={low} or more")
    if high is not None and value > high:
        raise UserError(f"{key} must be at most {high}, got {value}", f"set {key}={high} or less")


def parse_options(argv: Sequence[str], schema: type[Options]) -> Options:
    """Fill a dataclass from `key=value` words; unknown or repeated keys and wrong values raise UserError."""
    fields = {field.name: field for field in dataclasses.fields(schema)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(schema)
    values: dict[str, Any] = {}
    for word in argv:
        key, text = split_word(word, fields)
        choices = fields[key].metadata.get("choices") or ()
        value = text if text in choices else convert(key, text, hints[key])  # "none" may be a choice
        if key in values and not isinstance(value, list):
            raise UserError(f"{key} is given twice", f"keep one {key}=…")
        values[key] = values.get(key, []) + value if isinstance(value, list) else value
        check_value(key, values[key], fields[key].metadata)
    for name, field in fields.items():
        if name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise UserError(f"{name} is missing: {field.metadata.get('help', '')}", f"add {name}=…")
    return schema(**values)


def split_word(word: str, known: Iterable[str]) -> tuple[str, str]:
    """Split one `key=value` word; a flag, a bare word or an unknown key raises UserError with a hint."""
    known = list(known)
    key, equals, text = word.partition("=")
    plain = key.lstrip("-+").replace("-", "_")
    if key != plain or not equals:
        hint = plain if plain in known else (difflib.get_close_matches(plain, known, n=1) or [known[0]])[0]
        raise UserError(
            f"{word!r} is not a setting", f"settings are written key=value, as in {hint}={text or 'VALUE'}"
        )
    if key not in known:
        raise UserError(f"unknown key {key}{suggest(key, known)}", f"use one of {', '.join(sorted(known))}")
    return key, text


def convert(key: str, text: str, hint: Any) -> Any:
    """Turn the text of one value into the type its field declares."""
    kinds = [kind for kind in _members(hint) if kind is not type(None)]
    if len(kinds) < len(_members(hint)) and text.lower() in NONE:
        return None
    kind = kinds[0]
    if typing.get_origin(kind) is list:
        (item,) = typing.get_args(kind)
        return [convert(key, part, item) for part in text.split(",") if part]
    try:
        return _READERS[kind](text)
    except (ValueError, OverflowError):
        fix = f"write {key}={_EXAMPLES[kind]}, for example"
        raise UserError(f"{key} needs {_NOUNS[kind]}, got {text!r}", fix) from None


def _members(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _boolean(text: str) -> bool:
    if text.lower() in TRUE | FALSE:
        return text.lower() in TRUE
    raise ValueError(text)


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:  # 1e6 is how people write a million frames
        number = float(text)
        if not number.is_integer():
            raise ValueError(text) from None
        return int(number)


def _words(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError(text)
    return text


_READERS: dict[Any, Callable[[str], Any]] = {
    bool: _boolean,
    int: _integer,
    float: float,
    str: _words,
    Path: lambda text: Path(_words(text)),
}
_NOUNS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}
_EXAMPLES = {bool: "true", int: "10", float: "0.5", str: "NAME", Path: "PATH"}


def describe_options(schema: type) -> list[str]:
    """Return one help line per field: name, default, help text and choices."""
    lines = []
    for field in dataclasses.fields(schema):
        default = "" if field.default is dataclasses.MISSING else f" [{_shown(field.default)}]"
        required = field.default is field.default_factory is dataclasses.MISSING
        choices = field.metadata.get("choices") or ()
        text = field.metadata.get("help", "") + (f" ({'|'.join(choices)})" if choices else "")
        lines.append(f"  {field.name + '=…':<18} {text}{' (required)' if required else default}")
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "unset" if value is None else str(value)
