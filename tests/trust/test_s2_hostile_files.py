"""S2: files from a stranger run nothing, write nothing and are refused in under 2 s and 256 MB."""

import json
import os
import resource
import time
import zipfile
from pathlib import Path

import pytest

from agents import checkpoint, durable
from agents.cli import UserError
from agents.config import read_config
from agents.durable import CorruptError
from agents.evidence import read_run
from agents.loading import load_run
from agents.rundir import read_record
from tests.unit.agents.test_checkpoint import put
from tests.unit.agents.test_replay import Counter, build
from worldmodel import ModelError, load


@pytest.fixture(autouse=True)
def cheap_and_contained(tmp_path_factory, monkeypatch):
    """Whatever a test reads is refused quickly, with little memory, and nothing appears beside it."""
    inside = tmp_path_factory.mktemp("inside")
    monkeypatch.chdir(inside)
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - began < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 2**10
    assert not list(inside.iterdir())
    assert not Path("/tmp/owned").exists()


def seal(path: Path, files: dict) -> None:
    """Give a directory the manifest an attacker would: consistent with itself."""
    document = {"schema": 1, "frames": 1, "files": files}
    document["sha256"] = durable.digest(durable.canonical(document))
    (path / "manifest.json").write_bytes(durable.canonical(document))


def entry(data: bytes) -> dict:
    """A manifest entry."""
    return {"size": len(data), "sha256": durable.digest(data)}


def header(content: dict) -> bytes:
    """A safetensors file with this header and 8 bytes of data."""
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text + bytes(8)


def tensor(first: int, last: int, shape: list[int], dtype: str = "F32") -> dict:
    """A tensor in a safetensors header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


HOSTILE = {
    "pickle": ("weights.safetensors", b"\x80\x04\x95\x1a\x00\x00\x00cos\nsystem\n(S'touch /tmp/owned'\ntR."),
    "empty": ("weights.safetensors", b""),
    "huge_header": ("weights.safetensors", (10**12).to_bytes(8, "little") + b"{}"),
    "overlap": ("weights.safetensors", header({"a": tensor(0, 8, [2]), "b": tensor(4, 8, [1])})),
    "past_the_end": ("weights.safetensors", header({"a": tensor(0, 10**12, [10**12 // 4])})),
    "wrong_shape": ("weights.safetensors", header({"a": tensor(0, 8, [3])})),
    "overflow_shape": ("weights.safetensors", header({"a": tensor(0, 8, [2**62, 2**62])})),
    "unknown_dtype": ("weights.safetensors", header({"a": tensor(0, 8, [2], "X99")})),
    "header_not_json": ("weights.safetensors", (4).to_bytes(8, "little") + b"\xff\xff\xff\xff"),
    "deep_header": ("weights.safetensors", (200_000).to_bytes(8, "little") + b"[" * 200_000),
    "zip": ("weights.safetensors", b"PK\x03\x04" + bytes(60)),
    "deep_json": ("state.json", b"[" * 200_000),
    "long_number": ("state.json", b"9" * 100_000),
    "not_json": ("state.json", b"!!python/object:os.system"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path, name):
    file, data = HOSTILE[name]
    (tmp_path / file).write_bytes(data)
    seal(tmp_path, {file: entry(data)})
    with pytest.raises(CorruptError):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    "file", ["../state.json", "/etc/state.json", "a/b.json", "state.pkl", ".json", "x\n.json"]
)
def test_file_names_that_are_not_ours_are_refused(tmp_path, file):
    seal(tmp_path, {file: entry(b"{}")})
    with pytest.raises(CorruptError):
        checkpoint.load(tmp_path)


def test_links_directories_pipes_and_extra_files_are_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"{}")
    makers = {
        "link": lambda path: path.symlink_to(secret),
        "directory": lambda path: path.mkdir(),
        "pipe": lambda path: os.mkfifo(path),
    }
    for kind, make in makers.items():
        where = tmp_path / kind
        where.mkdir()
        make(where / "state.json")
        seal(where, {"state.json": entry(b"{}")})
        with pytest.raises(CorruptError):
            checkpoint.load(where)
    extra = put(tmp_path / "root", 10)
    (extra / "more.json").write_bytes(b"{}")
    with pytest.raises(CorruptError, match=r"more\.json"):
        checkpoint.load(extra)


def test_a_sparse_terabyte_is_refused_unread(tmp_path):
    with open(tmp_path / "weights.safetensors", "wb") as file:
        file.truncate(2**40)
    seal(tmp_path, {"weights.safetensors": {"size": 2**40, "sha256": "0" * 64}})
    with pytest.raises(CorruptError, match="free memory"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    "manifest", [b"", b"[]", b"{}", b"NaN", b'{"schema":1,"files":{"a.json":NaN}}', b"[" * 10**5]
)
def test_odd_manifests_are_refused(tmp_path, manifest):
    (tmp_path / "manifest.json").write_bytes(manifest)
    with pytest.raises(CorruptError):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"chunks": [{"file": "../../etc/passwd", "size": 1, "sha256": "", "rows": 1, "ends": [1]}]},
        {"chunks": [{}]},
        {"chunks": 3},
        {"written": [1]},
        {"clock": "x"},
        {"generator": "zz"},
        {"schema": 99},
    ],
)
def test_a_hostile_record_is_refused(tmp_path, change):
    replay = build()
    replay.extend(Counter(3, [8]).collect(20))
    record = replay.flush(tmp_path)
    with pytest.raises(CorruptError):
        build().restore(tmp_path, {**record, **change})


def zip_bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("../../owned", b"0" * 10**7)


def truncated_forever(path):
    with open(path, "wb") as file:
        file.truncate(2**40)


WRITERS = {
    "a pickle": lambda path: path.write_bytes(b"\x80\x04cos\nsystem\n(S'touch /tmp/owned'\ntR."),
    "an archive that climbs": zip_bomb,
    "a sparse terabyte": truncated_forever,
    "a link": lambda path: path.symlink_to("/etc/hostname"),
    "a pipe": lambda path: os.mkfifo(path),
    "deep JSON": lambda path: path.write_bytes(b"[" * 10**6),
    "a long number": lambda path: path.write_bytes(b"9" * 10**6),
}


def weights_of_a_model(folder):
    """Load them as those of a small world model that is described well."""
    part = {"encoder": {"name": "mlp", "hidden": [8], "latent": 8}, "action": {"name": "linear", "width": 8}}
    part |= {"aggregator": {"name": "none"}, "predictor": {"name": "mlp", "hidden": [8]}, "heads": {}}
    shapes = {
        "observation": {"state": {"shape": [3], "dtype": "float32"}},
        "action": {"kind": "continuous", "size": 2},
    }
    document = json.dumps({"schema": 1, "config": part, "shapes": shapes}).encode()
    (folder / "worldmodel.json").write_bytes(document)
    size = (folder / "weights.safetensors").lstat().st_size
    files = {"worldmodel.json": entry(document), "weights.safetensors": {"size": size, "sha256": "0" * 64}}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))
    load(folder)


def metrics_of_a_run(folder):
    """Read them as those of a run that is described well; what is half a line counts as none."""
    (folder / "run.json").write_text(json.dumps({"env": "x", "seed": 0, "config_hash": "0"}))
    assert not read_run(folder).rows
    raise UserError("nothing was believed")


READERS = [
    ("manifest.json", checkpoint.load),
    ("run.json", read_record),
    ("config.yaml", lambda folder: read_config(folder / "config.yaml")),
    ("config.json", lambda folder: read_config(folder / "config.json")),
    ("worldmodel.json", load),
    ("weights.safetensors", weights_of_a_model),
    ("run.json", read_run),
    ("metrics.jsonl", metrics_of_a_run),
    ("manifest.json", lambda folder: load_run(str(folder))),
]


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(("name", "reader"), READERS)
def test_no_reader_believes_them(tmp_path, writer, name, reader):
    folder = tmp_path / "stranger"
    folder.mkdir()
    WRITERS[writer](folder / name)
    with pytest.raises((CorruptError, UserError, ModelError)):
        reader(folder)


def test_the_corpus_is_large():
    assert len(HOSTILE) + len(READERS) * len(WRITERS) >= 30
