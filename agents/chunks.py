"""Append-only files of replay rows: named by the rows they hold, verified before use, then pruned."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents import durable
from agents.durable import CorruptError

LIMIT = 256 * 2**20  # bytes of one file: bounds what saving and restoring take on top of the ring
_NAME = re.compile(r"(\d{12})-\d{12}\.safetensors")
_DISTRUST = "use an older checkpoint; if somebody gave you this one, do not trust it"


def append(folder: Path, first: int, content: dict[str, Tensor]) -> dict[str, Any]:
    """Write one chunk whose first row is the run's `first`-th; return the entry that verifies it."""
    rows = len(content["rows"])
    data = durable.dump_tensors(content)
    name = f"{first:012d}-{first + rows:012d}.safetensors"
    durable.replace_file(folder / name, data)
    return {"file": name, "size": len(data), "sha256": durable.digest(data), "rows": rows}


def read(folder: Path, entry: dict[str, Any], like: dict[str, Tensor], limit: int) -> dict[str, Tensor]:
    """Read a chunk whose tensors must look like rows of `like` and address fewer than `limit` rows."""
    if not _NAME.fullmatch(entry["file"]):
        raise CorruptError(f"{entry['file']!r} is not the name of a replay chunk", _DISTRUST)
    path = folder / entry["file"]
    content = durable.parse_tensors(path, durable.read_verified(path, entry["size"], entry["sha256"]))
    rows = content.get("rows")
    if rows is None or rows.ndim != 1 or content.keys() != like.keys():
        raise CorruptError(f"{path} does not hold the fields of this replay", _DISTRUST)
    for name, value in content.items():
        if value.dtype != like[name].dtype or value.shape != (len(rows), *like[name].shape[1:]):
            raise CorruptError(f"{path} holds {name!r} in another shape or type than this replay", _DISTRUST)
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < limit:
        raise CorruptError(f"{path} addresses rows outside this replay", _DISTRUST)
    return content


def pieces(rows: Tensor, row_bytes: int) -> list[tuple[int, Tensor]]:
    """Split row numbers M into (offset, piece) such that a piece fits one file."""
    most = max(1, LIMIT // row_bytes)
    return [(offset, rows[offset : offset + most]) for offset in range(0, len(rows), most)]


def clean(folder: Path, cursor: int) -> None:
    """Drop partial files, and chunks past the cursor: a run that went on after our checkpoint wrote them."""
    stale = [path for path in listed(folder) if int(path.name[:12]) >= cursor]
    for path in (*stale, *folder.glob(".tmp-*")):
        durable.step("prune")
        path.unlink()


def prune(folder: Path, records: list[dict[str, Any]]) -> None:
    """Delete the chunks that no record of a retained checkpoint needs; without records, nothing."""
    needed = {entry["file"] for record in records for entry in record["chunks"]}
    for path in listed(folder) if records else ():
        if path.name not in needed:
            durable.step("prune")
            path.unlink()


def listed(folder: Path) -> list[Path]:
    """Every chunk in the folder, oldest first."""
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name)) if folder.is_dir() else []


def ends(rows: Tensor, written: Tensor, column_rows: int) -> list[int]:
    """For each column the ordinal past the last row a piece may hold, 0 where it holds none."""
    touched = torch.bincount(rows // column_rows, minlength=len(written)) > 0
    # A piece that stops before its column's newest row merely lives a little longer than needed.
    return torch.where(touched, written, 0).tolist()
