"""Checkpoint directories: published by one rename, verified before anything in them is parsed.

    <root>/000010000/  weights.safetensors … state.json … manifest.json (size and SHA-256 of every file)
    <root>/last        link to the newest

A crash at any point leaves the old or the new state loadable. Nothing here is pickled.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from agents import durable
from agents.durable import CorruptError
from agents.state_tree import flatten_state, unflatten_state

__all__ = [
    "Checkpoint",
    "CorruptError",
    "drop_after",
    "flatten_state",
    "latest",
    "load",
    "load_latest",
    "retained",
    "save",
    "settle",
    "unflatten_state",
]

SCHEMA = 1
MANIFEST = "manifest.json"
_STEM = re.compile(r"[A-Za-z0-9_]{1,64}")
_FILE = re.compile(r"[A-Za-z0-9_]{1,64}\.(json|safetensors)")
_PUBLISHED = re.compile(r"(\d{9,18})")
_SET_ASIDE = re.compile(r"\.old-(\d{9,18})-\d+")
_LITTER = re.compile(r"\.(tmp|last)-.*")


class Checkpoint(NamedTuple):
    """A loaded checkpoint: its directory, tensors by file stem, documents by file stem."""

    path: Path
    tensors: dict[str, dict[str, Any]]
    documents: dict[str, Any]


def save(
    root: Path, frames: int, tensors: dict[str, dict[str, Any]], documents: dict[str, Any], keep: int = 3
) -> Path:
    """Publish a checkpoint atomically, point `last` at it, prune beyond `keep`; return its directory."""
    root = Path(root)
    blobs = {f"{stem}.safetensors": durable.dump_tensors(content) for stem, content in tensors.items()}
    blobs |= {f"{stem}.json": durable.canonical(content) for stem, content in documents.items()}
    for stem in (*tensors, *documents):
        if not _STEM.fullmatch(stem) or f"{stem}.json" == MANIFEST:
            raise ValueError(f"{stem!r} cannot name a checkpoint file: use letters, digits and _")
    blobs[MANIFEST] = _manifest(frames, blobs)
    final = root / f"{frames:09d}"
    with durable.disk_errors(final, sum(map(len, blobs.values()))):
        root.mkdir(parents=True, exist_ok=True)
        _recover(root)
        staged = root / f".tmp-{frames}-{os.getpid()}"
        try:
            staged.mkdir()
            for name, data in blobs.items():
                durable.write_file(staged / name, data)
            durable.sync_directory(staged)
            _publish(root, staged, final)
        except OSError:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        _prune(root, final, keep)
    return final


def load(path: Path, only: Iterable[str] | None = None) -> Checkpoint:
    """Load a checkpoint directory after checking names, sizes and SHA-256; `only` picks file stems."""
    path = Path(path).resolve()
    blobs = _verified(path, only)
    tensors, documents = {}, {}
    for name, data in blobs.items():
        stem, _, kind = name.partition(".")
        if kind == "json":
            documents[stem] = durable.parse_document(path / name, data)
        else:
            tensors[stem] = durable.parse_tensors(path / name, data)
    return Checkpoint(path, tensors, documents)


def retained(root: Path) -> list[Path]:
    """Every checkpoint directory under the root, newest first."""
    found: dict[int, Path] = {}
    if not Path(root).is_dir():
        return []
    for entry in os.scandir(root):
        published = _PUBLISHED.fullmatch(entry.name)
        match = published or _SET_ASIDE.fullmatch(entry.name)
        if not match or not entry.is_dir(follow_symlinks=False):
            continue
        # A directory set aside counts only while its replacement has not arrived.
        if published or int(match[1]) not in found:
            found[int(match[1])] = Path(entry.path)
    return [found[frames] for frames in sorted(found, reverse=True)]


def latest(root: Path) -> Path | None:
    """The newest checkpoint that verifies, or None."""
    return next((path for path in retained(root) if is_good(path)), None)


def load_latest(
    root: Path,
    on_bad: Callable[[Path, CorruptError], None],
    use: Callable[[Checkpoint], None] | None = None,
) -> Checkpoint | None:
    """Load the newest good checkpoint, reporting bad ones; None if there is none, an error if all are bad.

    `use` may restore what the checkpoint points to (replay chunks); its CorruptError makes it a bad one.
    """
    bad: CorruptError | None = None
    for path in retained(root):
        try:
            found = load(path)
            if use is not None:
                use(found)
            return found
        except CorruptError as error:
            on_bad(path, error)
            bad = error
    if bad is not None:  # starting from nothing here would throw the run's work away in silence
        raise CorruptError(
            f"no checkpoint under {root} can be read; the oldest failed with: {bad}",
            "restore the run directory from a copy, or start anew with run.fresh=true",
        )
    return None


def drop_after(root: Path, frames: int) -> None:
    """Remove the checkpoints newer than `frames`: a run that goes on from there would contradict them."""
    for path in retained(root):
        if _frames(path) > frames:
            _remove(path)
    _point(root)


def settle(root: Path) -> None:
    """Finish what a killed save began: for the one process that may write here."""
    if Path(root).is_dir():
        _recover(root)
        _point(root)


def is_good(path: Path) -> bool:
    """Whether a checkpoint directory verifies completely."""
    try:
        _verified(Path(path).resolve(), None)
    except CorruptError:
        return False
    return True


def _verified(path: Path, only: Iterable[str] | None) -> dict[str, bytes]:
    files = _read_manifest(path)["files"]
    listed = {entry.name for entry in os.scandir(path)}
    if listed != {*files, MANIFEST}:
        odd = sorted(listed ^ {*files, MANIFEST})[:5]
        raise CorruptError(
            f"{path} and its manifest disagree about {odd}", "use an older checkpoint of the run"
        )
    wanted = None if only is None else set(only)
    return {
        name: durable.read_verified(path / name, entry["size"], entry["sha256"])
        for name, entry in files.items()
        if wanted is None or name.partition(".")[0] in wanted
    }


def _manifest(frames: int, blobs: dict[str, bytes]) -> bytes:
    files = {name: {"size": len(data), "sha256": durable.digest(data)} for name, data in blobs.items()}
    document = {"schema": SCHEMA, "frames": frames, "files": files}
    return durable.canonical({**document, "sha256": durable.digest(durable.canonical(document))})


def _read_manifest(path: Path) -> dict[str, Any]:
    where = path / MANIFEST
    data = durable.read_regular(where, 2**20)
    document = durable.parse_document(where, data)
    if not isinstance(document, dict) or not isinstance(document.get("files"), dict):
        raise CorruptError(f"{where} is not a checkpoint manifest", "use an older checkpoint of the run")
    if document.get("schema") != SCHEMA:
        raise CorruptError(
            f"{where} has schema {document.get('schema')!r}, this version reads {SCHEMA}",
            "load it with the version that wrote it (see run.json)",
        )
    for name, entry in document["files"].items():
        if not _FILE.fullmatch(name) or name == MANIFEST:
            raise CorruptError(
                f"{where} lists {name!r}, which is not a plain file name of ours; do not trust it"
            )
        if not isinstance(entry, dict) or set(entry) != {"size", "sha256"} or type(entry["size"]) is not int:
            raise CorruptError(f"{where} lists {name!r} without size and SHA-256; do not trust it")
    content = {key: value for key, value in document.items() if key != "sha256"}
    try:
        sealed = durable.canonical({**content, "sha256": durable.digest(durable.canonical(content))})
    except (ValueError, RecursionError):  # NaN or absurd nesting, which we never write
        sealed = b""
    if sealed != data:
        raise CorruptError(f"{where} does not match its own SHA-256", "use an older checkpoint of the run")
    return document


def _publish(root: Path, staged: Path, final: Path) -> None:
    aside = root / f".old-{final.name}-{os.getpid()}"
    if final.exists():
        durable.step("rename")
        os.rename(final, aside)
    durable.step("rename")
    os.rename(staged, final)
    durable.sync_directory(root)
    _point(root)
    if aside.exists():
        _remove(aside)


def _point(root: Path) -> None:
    """Let `last` name the newest checkpoint, where it does not."""
    newest, last = next((path.name for path in retained(root)), None), Path(root) / "last"
    if newest is None or (last.is_symlink() and os.readlink(last) == newest):
        return
    link = last.with_name(f".last-{os.getpid()}")
    durable.step("link")
    os.symlink(newest, link)
    durable.step("rename")
    os.replace(link, last)
    durable.sync_directory(Path(root))


def _prune(root: Path, newest: Path, keep: int) -> None:
    good = 1  # the one just written
    for rank, path in enumerate(p for p in retained(root) if p != newest):
        within = rank + 1 < keep
        if good < 2 and is_good(path):
            good += 1
        elif not within and good >= 2:
            _remove(path)


def _remove(path: Path) -> None:
    # Renamed first, so that a crash while deleting never leaves half a checkpoint under a checkpoint's name.
    doomed = path.parent / f".tmp-removed-{path.name.lstrip('.')}-{os.getpid()}"
    durable.step("prune")
    os.rename(path, doomed)
    durable.step("prune")
    shutil.rmtree(doomed)


def _recover(root: Path) -> None:
    for entry in list(os.scandir(root)):
        path = Path(entry.path)
        if _LITTER.fullmatch(entry.name):
            durable.step("prune")
            shutil.rmtree(path) if entry.is_dir(follow_symlinks=False) else path.unlink()
        elif match := _SET_ASIDE.fullmatch(entry.name):
            final = root / match[1]
            if final.exists():
                _remove(path)
            else:
                durable.step("rename")
                os.rename(path, final)


def _frames(path: Path) -> int:
    match = _PUBLISHED.fullmatch(path.name) or _SET_ASIDE.fullmatch(path.name)
    assert match is not None
    return int(match[1])
