"""Write and read world models: weights as safetensors, the rest as JSON. Nothing in a file can run code."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .builders import build_model
from .errors import ModelError
from .model import WorldModel

SCHEMA = 1
DOCUMENT, WEIGHTS, MANIFEST = "worldmodel.json", "weights.safetensors", "manifest.json"
PREFIX = "model."  # how a training checkpoint names the world model among an agent's other weights
LARGEST_DOCUMENT = 4 << 20
LARGEST_SHARE, SMALLEST_LIMIT = 256, 64 << 20  # of weights around a model (critics, a policy), and in bytes


def describe(model: WorldModel) -> dict[str, Any]:
    """Return what worldmodel.json holds: schema version, config and shapes."""
    return {"schema": SCHEMA, "config": model.config, "shapes": model.shapes}


def save(model: WorldModel, path: str | Path) -> Path:
    """Write a world model into the new directory `path`, all of it or nothing."""
    path = Path(path)
    if path.exists():
        raise ModelError(f"{path} exists already; save to a new directory or remove that one first")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        tensors = {
            PREFIX + key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()
        }
        # Tensors that share memory may not be written twice; a clone of every tensor keeps this simple.
        save_file({key: value.clone() for key, value in tensors.items()}, draft / WEIGHTS)
        (draft / DOCUMENT).write_text(json.dumps(describe(model), indent=1, sort_keys=True))
        files = {
            name: {"sha256": _sha256(draft / name), "size": (draft / name).stat().st_size}
            for name in (DOCUMENT, WEIGHTS)
        }
        (draft / MANIFEST).write_text(
            json.dumps({"schema": SCHEMA, "files": files}, indent=1, sort_keys=True)
        )
        for name in (DOCUMENT, WEIGHTS, MANIFEST):
            with (draft / name).open("rb") as file:
                os.fsync(file.fileno())
        draft.chmod(0o755)
        draft.rename(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return path


def load(path: str | Path, device: str | torch.device = "cpu") -> WorldModel:
    """Read a world model, in evaluation mode, from a saved directory, a checkpoint or a run directory."""
    device = _device(device)
    folder = _locate(Path(path))
    files = _listed(folder)
    _verify(folder, DOCUMENT, files)
    document = _read_json(folder / DOCUMENT)
    if document.get("schema") != SCHEMA:
        raise ModelError(
            f"{folder / DOCUMENT} has schema {document.get('schema')!r} and this version reads {SCHEMA}; "
            "install the version that wrote it"
        )
    for key in ("config", "shapes"):
        if not isinstance(document.get(key), dict):
            raise ModelError(f"{folder / DOCUMENT} has no {key!r}; save the model again")
    # Built without memory first: shapes are compared with the file's header before anything is allocated.
    with torch.device("meta"):
        model = build_model(document["config"], document["shapes"])
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    _check_size(folder / WEIGHTS, max(LARGEST_SHARE * size, SMALLEST_LIMIT))
    _verify(folder, WEIGHTS, files)
    model.load_state_dict(_read_weights(folder / WEIGHTS, model, device), assign=True)
    return model.to(device).eval()


def _device(device: str | torch.device) -> torch.device:
    """Refuse a device that is not here."""
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"device={device!r} is no device; use cpu or cuda") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"device={device} is not here: torch sees {torch.cuda.device_count()} GPUs; use cpu")
    return found


def _locate(path: Path) -> Path:
    """Find the directory that holds worldmodel.json."""
    tried = [path, path / "last", path / "checkpoints" / "last"]
    for folder in tried:
        if (folder / DOCUMENT).is_file():
            return folder
    if not path.exists():
        raise ModelError(f"{path} does not exist; give a run directory, a checkpoint or a saved world model")
    raise ModelError(f"no {DOCUMENT} in {', '.join(map(str, tried))}; give a run directory with a checkpoint")


def _listed(folder: Path) -> Mapping[str, Any] | None:
    """What the manifest says of each file, if there is one."""
    if not (folder / MANIFEST).is_file():
        return None
    files = _read_json(folder / MANIFEST).get("files")
    if not isinstance(files, Mapping):
        raise ModelError(f"{folder / MANIFEST} lists no files; restore the checkpoint from a copy")
    return files


def _verify(folder: Path, name: str, files: Mapping[str, Any] | None) -> None:
    """Compare a file we read with what the manifest says of it."""
    if files is None:
        return
    entry, file = files.get(name), folder / name
    if not isinstance(entry, Mapping) or not file.is_file():
        raise ModelError(f"{file} is missing or not in {MANIFEST}; restore the checkpoint from a copy")
    if file.stat().st_size != entry.get("size") or _sha256(file) != entry.get("sha256"):
        raise ModelError(
            f"{file} is damaged: it differs from {MANIFEST}; use an older checkpoint or restore it"
        )


def _check_size(file: Path, limit: int) -> None:
    """Refuse what is no file, or far larger than the model it is said to hold, before reading any of it."""
    if not file.is_file():
        raise ModelError(f"{file} is missing; restore the checkpoint from a copy")
    if file.stat().st_size > limit:
        raise ModelError(f"{file} is much larger than its {DOCUMENT} says; it is damaged or not ours")


def _sha256(file: Path) -> str:
    """Hash a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object of bounded size."""
    if file.stat().st_size > LARGEST_DOCUMENT:
        raise ModelError(f"{file} is larger than any we write; it is damaged or not ours")
    try:
        document = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not readable JSON ({error}); restore it from a copy") from error
    if not isinstance(document, dict):
        raise ModelError(f"{file} must hold a JSON object; restore it from a copy")
    return document


def _read_weights(file: Path, model: WorldModel, device: str | torch.device) -> dict[str, torch.Tensor]:
    """Read the model's tensors, and no others, after comparing names and shapes."""
    wanted = model.state_dict()
    try:
        with safe_open(file, framework="pt", device=str(device)) as stored:
            names = set(stored.keys())
            prefix = PREFIX if any(name.startswith(PREFIX) for name in names) else ""
            mine = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
            odd = sorted(wanted.keys() - mine) + sorted(mine - wanted.keys())
            if odd:
                raise ModelError(
                    f"{file} and {DOCUMENT} name different tensors, such as {odd[0]}; save the model again"
                )
            for name, tensor in wanted.items():
                shape = stored.get_slice(prefix + name).get_shape()
                if list(tensor.shape) != shape:
                    raise ModelError(
                        f"{file}: {name} has shape {shape}, and {DOCUMENT} asks for {list(tensor.shape)}"
                    )
            tensors = {name: stored.get_tensor(prefix + name) for name in wanted}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file} cannot be read ({error}); use an older checkpoint or restore it") from error
    for name, tensor in wanted.items():
        if tensors[name].dtype != tensor.dtype:
            raise ModelError(f"{file}: {name} is {tensors[name].dtype}, and {tensor.dtype} is expected")
    return tensors
