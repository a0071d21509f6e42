"""Logging: equal runs give equal bytes, a resumed file continues exactly, nobody is prompted."""

import io
import json
import math
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from agents import durable
from agents.cli import DiskError, UserError
from agents.logging import Logger, truncate_to
from agents.loop import Counters, Episodes
from agents.loop import Progress as Turns
from agents.progress import Progress
from agents.session import Session
from worldmodel.heads import Bins


def at(frames: int) -> dict[str, int]:
    """Counters at a frame count."""
    return {"frames": frames, "decisions": frames // 2, "updates": frames // 4}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_hold_the_counters_first_and_the_metrics_in_order(tmp_path):
    logger = Logger(tmp_path, sinks=())
    logger.log(at(8), {"train/return": 1, "eval/return": 0.1 + 0.2, "loss/a": math.nan, "loss/b": math.inf})
    logger.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == (
        '{"frames": 8, "decisions": 4, "updates": 2, "eval/return": 0.30000000000000004, '
        '"loss/a": null, "loss/b": null, "train/return": 1.0}\n'
    )


def test_a_list_is_written_whole_and_kept_from_tensorboard(tmp_path):
    logger = Logger(tmp_path, sinks=("tensorboard",))
    logger.log(at(8), {"eval/returns": [1, math.inf], "eval/return": 1.0})
    logger.close()
    assert lines(tmp_path / "metrics.jsonl")[0]["eval/returns"] == [1.0, None]


def test_tensors_and_numpy_scalars_are_numbers(tmp_path):
    np, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")
    logger = Logger(tmp_path, sinks=())
    logger.log(at(1), {"a/b": torch.tensor(0.5), "a/c": np.float32(0.1)})
    logger.close()
    assert lines(tmp_path / "metrics.jsonl")[0]["a/c"] == float(np.float32(0.1))


def test_wall_time_stays_out_of_the_metrics(tmp_path):
    for name in ("one", "two"):
        logger = Logger(tmp_path / name, sinks=())
        logger.log(at(4), {"train/return": 2.0})
        logger.time(at(4), {"speed/frames": 100.0})
        logger.close()
    assert (tmp_path / "one/metrics.jsonl").read_bytes() == (tmp_path / "two/metrics.jsonl").read_bytes()
    row = lines(tmp_path / "one/timing.jsonl")[0]
    assert row["speed/frames"] == 100
    assert row["wall"] > 1e9


def test_a_resumed_file_continues_bytewise(tmp_path):
    whole = Logger(tmp_path / "whole", sinks=())
    for frames in range(0, 100, 10):
        whole.log(at(frames), {"train/return": frames / 3})
    whole.close()
    cut = Logger(tmp_path / "cut", sinks=())
    for frames in range(0, 50, 10):
        cut.log(at(frames), {"train/return": frames / 3})
        cut.time(at(frames), {"speed/frames": 1})
    state = json.loads(json.dumps(cut.state()))
    for frames in (50, 60):  # lost with the process
        cut.log(at(frames), {"train/return": -1})
        cut.time(at(frames), {"speed/frames": 1})
    cut.close()
    for name in ("metrics", "timing"):
        with open(tmp_path / f"cut/{name}.jsonl", "ab") as file:
            file.write(b'{"frames": 1')  # torn by the kill
    resumed = Logger(tmp_path / "cut", sinks=(), resume=state)
    assert [row["frames"] for row in lines(tmp_path / "cut/timing.jsonl")] == [0, 10, 20, 30, 40]
    for frames in range(50, 100, 10):
        resumed.log(at(frames), {"train/return": frames / 3})
    resumed.close()
    assert (tmp_path / "cut/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()


def test_a_run_that_died_before_its_first_checkpoint_starts_its_files_anew(tmp_path):
    for _ in range(2):
        logger = Logger(tmp_path, sinks=())
        logger.log(at(4), {"train/return": 2.0})
        logger.time(at(4), {})
        logger.close()
    assert len(lines(tmp_path / "metrics.jsonl")) == len(lines(tmp_path / "timing.jsonl")) == 1


def test_metrics_shorter_than_their_checkpoint_are_an_error(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b"{}\n")
    with pytest.raises(durable.CorruptError, match=r"metrics\.jsonl has 3 bytes, 10"):
        truncate_to(tmp_path, {"bytes": 10, "frames": 1})


def test_a_full_disk_is_a_disk_error(tmp_path):
    logger = Logger(tmp_path, sinks=())

    class Full(io.BytesIO):
        name = "metrics.jsonl"

        def write(self, data):
            raise OSError(28, "No space left on device")

    logger._metrics.close()
    logger._metrics = Full()
    with pytest.raises(DiskError, match=r"metrics\.jsonl.*disk is full"):
        logger.log(at(1), {"a/b": 1})


def test_tensorboard_gets_every_metric(tmp_path):
    logger = Logger(tmp_path, sinks=("tensorboard",))
    logger.log(at(10), {"eval/return": 5.0})
    state = logger.state()
    logger.log(at(20), {"eval/return": 99.0})
    logger.close()
    again = Logger(tmp_path, sinks=("tensorboard",), resume=state)
    again.log(at(20), {"eval/return": 6.0})
    again.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("eval/return")] == [(10, 5.0), (20, 6.0)]


class FakeWandb:
    """What we use of wandb, recorded."""

    def __init__(self):
        self.started, self.rows, self.finished = [], [], 0

    def Settings(self, **options):
        return options

    def init(self, **options):
        self.started.append(options)
        return self

    def log(self, row, step):
        self.rows.append((step, row))

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    return fake


def test_wandb_without_a_key_goes_offline_with_one_notice_and_keeps_its_id(tmp_path, wandb, capsys):
    logger = Logger(tmp_path, sinks=(), wandb={"project": "p"})
    logger.log(at(4), {"train/return": 2.0})
    state = logger.state()
    logger.close()
    assert capsys.readouterr().out.count("\n") == 1
    assert wandb.started[0]["mode"] == "offline"
    assert wandb.started[0]["project"] == "p"
    assert wandb.rows == [(4, {"frames": 4, "train/return": 2.0})]
    assert wandb.finished == 1
    Logger(tmp_path, sinks=(), wandb={"project": "p"}, resume=state).close()
    Logger(tmp_path, sinks=(), wandb={"project": "p"}).close()  # died before its first checkpoint
    assert {start["id"] for start in wandb.started} == {state["wandb_id"]}


def test_wandb_with_a_key_but_no_network_goes_offline(tmp_path, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    Logger(tmp_path, sinks=(), wandb={}).close()
    assert wandb.started[0]["mode"] == "offline"


def test_a_missing_wandb_names_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install jepa-agents\[wandb\]"):
        Logger(tmp_path, sinks=(), wandb={})


class Clock:
    """A clock the test moves."""

    now = 0.0

    def __call__(self):
        return self.now


def test_progress_prints_a_plain_line_every_few_seconds_and_a_sane_time_left():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(1000, every_s=10, stream=stream, clock=clock)
    for second in range(31):
        clock.now = second
        progress.update(500 + 10 * second, second)  # resumed at 500
        if second == 5:
            progress.show({"train/return": 123.4})
    progress.close()
    printed = stream.getvalue().splitlines()
    assert len(printed) == 3
    assert printed[0].startswith(
        "600/1,000 frames (60 %) · 10 frames/s · 1.0 updates/s · 0:00:40 left · return 123.4"
    )


def test_progress_shows_the_newest_episode_beside_the_newest_evaluation():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(1000, every_s=10, stream=stream, clock=clock)
    progress.update(0, 0)
    for value in (0.0, 700.0):
        progress.show({"train/return": value})
    progress.show({"eval/return": 812.25, "eval/return_std": 3.0})
    progress.show({"train/return": 745.5})
    clock.now = 10
    progress.update(100, 0)
    told, line = stream.getvalue().splitlines()
    assert told == "evaluation: return 812.2 ± 3.0"
    assert " · return 745.5 · evaluated 812.2 · " in line


def test_progress_off_is_silent_and_rich_draws_one_line():
    clock, stream = Clock(), io.StringIO()
    for mode in ("off", "rich"):
        progress = Progress(100, mode=mode, stream=stream, clock=clock)
        for frames in (0, 10):
            clock.now += 5
            progress.update(frames, 0)
        progress.close()
        assert ("10/100 frames" in stream.getvalue()) == (mode == "rich")


def test_values_that_critics_cannot_tell_are_said_once():
    said, quiet = [], SimpleNamespace(log=lambda *_: None, time=lambda *_: None)
    session: Any = SimpleNamespace(
        logger=quiet,
        speeds=lambda _: {},
        agent=SimpleNamespace(bins=Bins(51, limit=8.5)),
        console=SimpleNamespace(say=said.append),
        overflowing=False,
    )
    for value in (2_000.0, -3_000.0, 4_000.0):
        Session.log(session, Turns(Counters(), Episodes.start(1)), {"value/mean": value})
    assert len(said) == 1
    assert "4,914" in said[0]
