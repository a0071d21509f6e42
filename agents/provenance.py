"""Where a result came from: the commit and diff of our code, and a configuration rid of its secrets."""

import re
import subprocess
from pathlib import Path
from typing import Any

DIFF_LIMIT = 100_000  # characters
_SECRET = re.compile(
    r"token|password|passwd|secret|credential|api_?key|(^|[_.\-])keys?($|[_.\-])", re.IGNORECASE
)
REMOVED = "<removed>"


def without_secrets(value: Any) -> Any:
    """Copy a configuration or command line without texts whose key looks like a key, token or password."""
    if isinstance(value, dict):
        return {key: without_secrets(item) for key, item in value.items() if not _is_secret(str(key), item)}
    if isinstance(value, (list, tuple)):
        return [_word(item) if isinstance(item, str) else without_secrets(item) for item in value]
    return value


def describe_code() -> dict[str, Any] | None:
    """Commit, dirtiness and diff of the repository that tracks this file, or None; never fails."""
    here = Path(__file__).resolve()
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None  # installed, or inside a repository that is not ours
    commit = _git(here.parent, "rev-parse", "HEAD")
    if commit is None:
        return None
    diff = (
        _git(
            here.parent, "diff", "--no-ext-diff", "--no-textconv", "HEAD", "--", here.parent.parent.as_posix()
        )
        or ""
    )
    status = _git(here.parent, "status", "--porcelain") or ""
    return {"commit": commit.strip(), "dirty": bool(status.strip()), "diff": diff[:DIFF_LIMIT]}


def spell_commit(code: dict[str, Any] | None) -> str:
    """What describe_code found, as evidence names it: the commit, marked where files differed from it."""
    code = code or {}
    return f"{code.get('commit') or 'unknown'}{'+dirty' if code.get('dirty') else ''}"


def _is_secret(key: str, value: Any) -> bool:
    # A number is a setting (`tokens: 4`), never a secret.
    return bool(_SECRET.search(key)) and value is not None and not isinstance(value, (bool, int, float))


def _word(word: str) -> str:
    key, equals, _ = word.partition("=")
    return f"{key}={REMOVED}" if equals and _SECRET.search(key) else word


def _git(folder: Path, *words: str) -> str | None:
    # No lock on the index, no file-system monitor: looking must not run or change anything.
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None
