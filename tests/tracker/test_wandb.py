"""The wandb tracker, with the real wandb offline: what it wrote is read back from its folder."""

import json
import struct
import time

import pytest
from PIL import Image

from bdiff.tracker.none import NoTracker
from bdiff.tracker.wandb import WandbTracker


@pytest.fixture
def tracker(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return WandbTracker(project="bdiff", entity=None, group="a-group", mode="auto", tags=["t"])


def read_back(folder):
    """Every record of the one offline run under `folder`, the last of which wandb's process may yet have to write."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 30
    while True:
        records = [Record.FromString(data) for data in leveldb_records(path.read_bytes())]
        if any(record.HasField("exit") for record in records):
            return records
        assert time.monotonic() < deadline, "the run was never closed"
        time.sleep(0.1)


def leveldb_records(log: bytes):
    """Yield the records of a LevelDB log, wandb's file format: 32 KiB blocks of (crc, length, type) and data."""
    at, parts = 7, []  # after wandb's own header
    while at + 7 <= len(log):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", log[at : at + 7])
        if at + 7 + length > len(log):  # half written
            return
        parts.append(log[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of several
            yield b"".join(parts)
            parts = []


def test_an_offline_run_can_be_read_back(tracker, tmp_path):
    picture = tmp_path / "grid.png"
    Image.new("RGB", (4, 4)).save(picture)
    tracker.start("a-name", {"seed": 0, "train": {"lr": 0.1}}, tmp_path)
    tracker.log({"train/loss": 0.5}, step=10)
    tracker.picture("overview", picture)
    tracker.log({"suspect/asr": 0.75})
    tracker.finish(failed=False)
    assert not tracker.broken
    records = read_back(tmp_path)
    run = next(record.run for record in records if record.HasField("run"))
    assert (run.display_name, run.run_group, run.job_type, run.project) == ("a-name", "a-group", "run", "bdiff")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["train"] == {"lr": 0.1}
    logged: dict = {}
    for record in records:
        if record.HasField("history"):
            for item in record.history.item:
                logged[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    assert logged["train/loss"] == 0.5
    assert logged["train/step"] == 10
    assert logged["suspect/asr"] == 0.75
    assert logged["overview/_type"] == "image-file"
    assert next(record.exit.exit_code for record in records if record.HasField("exit")) == 0


def test_a_failed_run_is_closed_as_one(tracker, tmp_path):
    tracker.start("a-name", {}, tmp_path)
    tracker.finish(failed=True)
    assert next(record.exit.exit_code for record in read_back(tmp_path) if record.HasField("exit")) == 1


def test_a_failure_of_wandb_warns_once_and_nothing_more(tracker, tmp_path, monkeypatch, caplog):
    import wandb

    def refuse(*args, **options):
        raise RuntimeError("the server is on fire")

    monkeypatch.setattr(wandb, "init", refuse)
    tracker.start("a-name", {}, tmp_path)
    tracker.log({"a": 1})
    tracker.picture("b", tmp_path / "missing.png")
    tracker.finish(failed=False)
    assert [record.levelname for record in caplog.records if "wandb" in record.message] == ["WARNING"]
    assert "the server is on fire" in caplog.text


def test_no_tracker_does_nothing(tmp_path):
    tracker = NoTracker()
    tracker.start("a-name", {}, tmp_path)
    tracker.log({"a": 1}, 3)
    tracker.picture("b", tmp_path / "missing.png")
    tracker.finish(failed=True)
    assert list(tmp_path.iterdir()) == []
