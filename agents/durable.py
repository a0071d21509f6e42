"""Files that survive a crash: written, fsynced, renamed, and verified before they are trusted."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agents.cli import DiskError, UserError

_ALWAYS_FITS = 32 * 2**20
DOCUMENT_LIMIT = 32 * 2**20  # bytes of one JSON file; ours are kilobytes
_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would exceed the allowed file size",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the device reported an I/O error",
    errno.ENOENT: "its folder does not exist",
    errno.ENOTDIR: "part of the path is a file",
    errno.EEXIST: "part of the path is a file",
    errno.EISDIR: "it is a folder",
    errno.ENAMETOOLONG: "the name is too long",
}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}

_FALLBACK = "use an older checkpoint of the run, or copy the file again from where it came"


class CorruptError(UserError):
    """A stored file is not what was written."""


def step(name: str) -> None:
    """Name the next point at which a crash may strike; tests replace this to strike there."""


@contextlib.contextmanager
def disk_errors(path: Path, needed: int = 0) -> Iterator[None]:
    """Turn a full or refusing disk into a DiskError that names the path, the bytes and the fix."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        why, fix = _DISK[error.errno], "choose another place with run.root=…, run.dir=… or out=…"
        if error.errno in _FULL:
            free = f"{free_bytes(path):,}"
            why += f" ({needed:,} bytes needed, {free} free)" if needed else f" ({free} bytes free)"
            fix = "free some space or choose another place with run.root=…; then run the same command again"
        elif error.errno in _REFUSED:
            fix = "make the directory writable or choose another place with run.root=…"
        raise DiskError(f"cannot write {path}: {why}", fix) from error


def free_bytes(path: Path) -> int:
    """Bytes free to this user on the file system that holds (or would hold) the path."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def canonical(document: Any) -> bytes:
    """The one JSON spelling of a document, so that equal documents have equal bytes."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.encode()


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def write_file(path: Path, data: bytes) -> None:
    """Write and fsync one new file (not atomic: the caller renames)."""
    step("write")
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        step("fsync")
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make the names inside a directory durable."""
    step("fsync")
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that a reader, even after a crash, sees the old bytes or the new ones."""
    partial = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        write_file(partial, data)
        step("rename")
        os.replace(partial, path)
        sync_directory(path.parent)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def read_regular(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes; links, devices and larger files are refused unread."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise CorruptError(f"{path} cannot be read as a plain file ({error.strerror})", _FALLBACK) from error
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise CorruptError(f"{path} is not a plain file", _FALLBACK)
        if info.st_size > limit:
            raise CorruptError(
                f"{path} has {info.st_size:,} bytes where at most {limit:,} are expected", _FALLBACK
            )
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(limit + 1)
    finally:
        os.close(descriptor)


def read_verified(path: Path, size: int, sha256: str) -> bytes:
    """Read a file whose size and SHA-256 were recorded; anything else is a CorruptError."""
    if size > _ALWAYS_FITS and size > available_memory():
        raise CorruptError(f"{path} claims {size:,} bytes, more than this machine's free memory", _FALLBACK)
    data = read_regular(path, size)
    if len(data) != size:
        raise CorruptError(
            f"{path} has {len(data):,} bytes, {size:,} were written: it is cut short", _FALLBACK
        )
    if digest(data) != sha256:
        raise CorruptError(f"{path} does not match its recorded SHA-256: its bytes were changed", _FALLBACK)
    return data


def parse_document(path: Path, data: bytes) -> Any:
    """Parse JSON that somebody else may have written: bad syntax and absurd nesting are a CorruptError."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptError(
            f"{path} is not a JSON document we can read ({type(error).__name__})", _FALLBACK
        ) from error


def parse_tensors(path: Path, data: bytes) -> dict[str, Any]:
    """Parse safetensors bytes into named CPU tensors, after bounding the header."""
    import safetensors.torch
    from safetensors import SafetensorError

    header = int.from_bytes(data[:8], "little")
    if len(data) < 8 or header > min(len(data) - 8, 100 * 2**20):
        raise CorruptError(f"{path} is not a safetensors file (header of {header:,} bytes)", _FALLBACK)
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise CorruptError(f"{path} is not a valid safetensors file ({error})", _FALLBACK) from error


def dump_tensors(tensors: dict[str, Any]) -> bytes:
    """Serialise named tensors as safetensors bytes; tensors that share memory are stored apart."""
    import safetensors.torch

    seen: set[int] = set()
    ready = {}
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu").contiguous()
        address = tensor.untyped_storage().data_ptr()
        ready[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return safetensors.torch.save(ready)


def available_memory() -> int:
    """Bytes of RAM this process may still take, the container's limit included."""
    import psutil

    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # "max" or no cgroup v2: the machine is the limit
        limit = int((group / "memory.max").read_text())
        free = min(free, limit - int((group / "memory.current").read_text()))
    return max(free, 0)
