"""Keys, atomic writes, locks and manifests."""

import hashlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import filelock
import numpy as np
import pytest
from safetensors.numpy import save_file

from bdiff.report.runs import find
from bdiff.store import artifacts, provenance

CONFIG = {"lr": 2e-4, "steps": 600, "sides": [4, 8], "nested": {"a": None, "b": True}, "name": "é"}


def test_digest_is_the_sha256_of_canonical_json():
    text = r'{"lr":0.0002,"name":"\u00e9","nested":{"a":null,"b":true},"sides":[4,8],"steps":600}'
    assert artifacts.digest(CONFIG) == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_digest_is_free_of_order_but_not_of_content():
    assert artifacts.digest(dict(reversed(CONFIG.items()))) == artifacts.digest(CONFIG)
    changed = [CONFIG | change for change in ({"steps": 601}, {"sides": [8, 4]}, {"lr": 2e-3}, {"new": None})]
    assert len({artifacts.digest(one) for one in [CONFIG, *changed]}) == 5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_json_cannot_hold_is_refused(value, tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        artifacts.digest({"lr": value})
    with pytest.raises(ValueError, match="JSON"):
        artifacts.write_json(tmp_path / "numbers.json", {"lr": value})
    assert not list(tmp_path.iterdir())


def test_json_comes_back(tmp_path):
    artifacts.write_json(tmp_path / "new" / "numbers.json", CONFIG)
    assert artifacts.read_json(tmp_path / "new" / "numbers.json") == CONFIG


def fill(path: Path, kind: str, text: str) -> None:
    """Make `path` a file, or a folder with a file of that name as text in it."""
    if kind == "folder":
        path.mkdir()
        path = path / text
    path.write_text(text)


def content(path: Path) -> list[str]:
    """The texts at `path`, for a folder with their names."""
    if path.is_dir():
        return sorted(f"{one.name}: {one.read_text()}" for one in path.iterdir())
    return [path.read_text()]


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("there", [False, True])
def test_atomic_writes_all_or_nothing(kind, there, tmp_path):
    path = tmp_path / "made" / "thing"
    if there:
        path.parent.mkdir()
        fill(path, kind, "old")
    before = content(path) if there else None
    with pytest.raises(KeyboardInterrupt), artifacts.atomic(path) as scratch:
        fill(scratch, kind, "half")
        raise KeyboardInterrupt
    assert (content(path) if path.exists() else None) == before
    with artifacts.atomic(path) as scratch:
        fill(scratch, kind, "new")
        assert scratch.name == path.name  # for writers that insist on a file's ending
        assert (content(path) if path.exists() else None) == before
    assert content(path) == (["new: new"] if kind == "folder" else ["new"])
    assert list(path.parent.iterdir()) == [path]


HOLDER = """
import logging, sys
from pathlib import Path
from bdiff.store import artifacts
logging.basicConfig(level=logging.INFO, format="%(message)s")
with artifacts.lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold(tmp_path) -> Iterator[Callable[[], subprocess.Popen]]:
    """Start a process that holds one lock until its stdin is closed."""
    words = [sys.executable, "-c", HOLDER, str(tmp_path / "stage" / "key.lock")]
    started = []

    def hold() -> subprocess.Popen:
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield hold
    for process in started:
        with process:
            process.kill()


@pytest.mark.parametrize("end", ["leaves", "is killed"])
def test_a_lock_keeps_another_process_out_until_its_holder(end, hold):
    first = hold()
    assert first.stdout.readline() == "held\n"
    second = hold()
    assert select.select([second.stdout, second.stderr], [], [], 30)[0] == [second.stderr]
    assert second.stderr.readline() == "waiting for another process that is building key\n"
    assert not select.select([second.stdout], [], [], 0.3)[0]
    first.kill() if end == "is killed" else first.stdin.close()
    assert second.stdout.readline() == "held\n"


def test_a_lock_is_free_again_after_an_error(tmp_path):
    path = tmp_path / "key.lock"
    with pytest.raises(KeyboardInterrupt), artifacts.lock(path):
        raise KeyboardInterrupt
    with filelock.FileLock(path, timeout=0):
        pass


def test_a_stage_is_finished_by_its_manifest(tmp_path):
    parts = {"model": {"width": 32}, "seed": 0}
    stage = artifacts.stage(tmp_path, "train", 3, **parts)
    assert stage.folder == tmp_path / "train" / stage.key
    assert stage.manifest is None and not stage.folder.exists()
    written = stage.finish(1.23456, weights=7)
    assert artifacts.stage(tmp_path, "train", 3, **parts).manifest == written
    expected = {"stage": "train", "key": stage.key, "version": 3, "parts": parts, "seconds": 1.235, "weights": 7}
    assert {name: written[name] for name in expected} == expected
    assert abs(datetime.fromisoformat(written["finished"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert json.loads((stage.folder / "manifest.json").read_text()) == written


def test_a_stages_key_is_its_name_version_and_parts(tmp_path):
    parts = {"seed": 0, "lr": 0.1}
    key = artifacts.stage(tmp_path, "train", 1, **parts).key
    assert artifacts.stage(tmp_path / "elsewhere", "train", 1, lr=0.1, seed=0).key == key
    others = [("sample", 1, parts), ("train", 2, parts), ("train", 1, parts | {"seed": 1}), ("train", 1, {"seed": 0})]
    keys = {artifacts.stage(tmp_path, name, version, **more).key for name, version, more in others}
    assert len(keys | {key}) == 5


def test_a_part_of_ours_is_reported_by_its_name_so_that_it_may_move(tmp_path):
    def key(target: str) -> str:
        return artifacts.stage(tmp_path, "audit", 1, defense={"_target_": target, "steps": [1]}).key

    assert key("bdiff.defense.elijah.Elijah") == key("bdiff.defense.detection.elijah.Elijah")
    assert key("bdiff.defense.elijah.Elijah") != key("bdiff.defense.terd.Terd")
    assert key("mine.elijah.Elijah") != key("other.elijah.Elijah") != key("bdiff.elijah.Elijah")


def test_seconds_of_a_stage_add_up_over_its_attempts_also_when_one_is_killed(tmp_path):
    code = """
import sys, time
from pathlib import Path
from bdiff.store import artifacts
artifacts.Clock.EVERY = 0.05
with artifacts.Clock(Path(sys.argv[1]), True):
    time.sleep(60)
"""
    killed = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    while not (tmp_path / "seconds.json").exists() or artifacts.read_json(tmp_path / "seconds.json") < 0.3:
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    before = artifacts.read_json(tmp_path / "seconds.json")
    with artifacts.Clock(tmp_path, True) as clock:
        time.sleep(0.1)
        assert clock.seconds >= before + 0.1
    assert before + 0.1 <= artifacts.read_json(tmp_path / "seconds.json") < before + 5
    with artifacts.Clock(tmp_path, False) as other:
        assert other.seconds > before


def finished(root: Path) -> artifacts.Stage:
    """A stage that has made a tensor, a json file and a text in a folder."""
    stage = artifacts.stage(root, "train", 1, seed=0)
    (stage.folder / "model").mkdir(parents=True)
    save_file({"x": np.zeros((3, 2), np.float32)}, stage.folder / "model" / "x.safetensors")
    artifacts.write_json(stage.folder / "facts.json", {"a": 1})
    (stage.folder / "model" / "table.tsv").write_text("1\t2\n")
    (stage.folder / "history.jsonl").write_text("{}\n")
    stage.finish(1.0)
    return stage


def test_folders_that_vanish_while_a_stage_or_runs_are_looked_through_are_left_out(tmp_path, monkeypatch):
    stage, scandir = finished(tmp_path), os.scandir
    (stage.folder / "gone").mkdir()
    (stage.folder / ".tmp-abc").mkdir()
    (stage.folder / ".tmp-abc" / "half.json").write_text("{")

    def vanished(path):
        if Path(path).name == "gone":
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanished)
    assert [*stage.files()] == ["facts.json", "model/table.tsv", "model/x.safetensors"]
    assert find([tmp_path]) == []


CUT = {
    "manifest.json": "manifest.json is damaged",
    "facts.json": "facts.json has",
    "model/x.safetensors": "model/x.safetensors has",
    "model/table.tsv": "model/table.tsv has",
}


@pytest.mark.parametrize("name", CUT)
def test_a_stage_with_a_file_that_is_cut_off_is_not_finished_and_says_so(name, tmp_path, caplog):
    stage = finished(tmp_path)
    assert stage.manifest and not caplog.text
    path = stage.folder / name
    path.write_bytes(path.read_bytes()[:-2])
    assert stage.manifest is None
    assert CUT[name] in caplog.text and str(stage.folder) in caplog.text


@pytest.mark.parametrize("name", CUT)
def test_a_stage_with_a_file_of_zeros_is_not_finished(name, tmp_path):
    stage = finished(tmp_path)
    path = stage.folder / name
    path.write_bytes(bytes(path.stat().st_size))
    assert (stage.manifest is None) == (not name.endswith(".tsv"))  # whose reader looks at its first line


@pytest.mark.parametrize("name", CUT)
def test_a_stage_that_lacks_a_file_is_not_finished(name, tmp_path):
    stage = finished(tmp_path)
    (stage.folder / name).unlink()
    assert stage.manifest is None


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"key": "another"}', "3", '"text"', "\udcff"])
def test_another_manifest_is_none(text, tmp_path):
    stage = finished(tmp_path)
    (stage.folder / "manifest.json").write_text(text, errors="surrogateescape")
    assert stage.manifest is None


def test_what_no_number_depends_on_may_be_missing(tmp_path):
    stage = finished(tmp_path)
    (stage.folder / "history.jsonl").unlink()
    artifacts.write_json(stage.folder / "seconds.json", 2.0)
    assert stage.manifest
    kept = artifacts.read_json(stage.folder / "manifest.json")
    del kept["files"]  # as manifests of before were
    artifacts.write_json(stage.folder / "manifest.json", kept)
    (stage.folder / "model" / "table.tsv").unlink()
    assert stage.manifest == kept


@pytest.mark.parametrize("text", ["", "{", "[1]", '"a"', "\0\0"])
def test_seconds_that_are_damaged_begin_again(text, tmp_path, caplog):
    (tmp_path / "seconds.json").write_text(text)
    with artifacts.Clock(tmp_path, True) as clock:
        assert clock.before == 0.0
    assert "seconds.json" in caplog.text
    assert artifacts.read_json(tmp_path / "seconds.json") >= 0


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_written_is_on_the_disk_before_it_has_its_name(kind, tmp_path, monkeypatch):
    path, done = tmp_path / "thing", []

    def fsync(handle: int) -> None:
        done.append((str(Path(f"/proc/self/fd/{handle}").readlink()), path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with artifacts.atomic(path) as scratch:
        fill(scratch, kind, "new")
    required = [str(scratch), *([str(scratch / "new")] if kind == "folder" else [])]
    assert done == [*((name, False) for name in required), (str(tmp_path), True)]


def test_the_code_s_commit_is_that_of_the_repository_it_stands_in():
    root = Path(__file__).parents[1]
    git = ["git", "-C", str(root)]
    if not (root / ".git").exists() or subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True).returncode:
        pytest.skip("these tests stand in no repository that git reads")
    commit = provenance.code()["commit"]  # of the first call: others may have been made since
    found = subprocess.run([*git, "cat-file", "-t", str(commit)], capture_output=True, text=True)
    assert found.stdout.strip() == "commit"


def test_a_tree_is_dirty_by_its_code_and_configs_alone(tmp_path, monkeypatch):
    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    for name in ("bdiff/__init__.py", "conf/a.yaml", "pyproject.toml", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    git("init")
    git("add", ".")
    git("commit", "-m", "all")
    monkeypatch.setattr(provenance.bdiff, "__file__", str(tmp_path / "bdiff" / "__init__.py"))
    found = []
    for name in ("notes.md", "results.json", "conf/new.yaml"):
        (tmp_path / name).write_text("changed")
        found.append(provenance.code.__wrapped__()["dirty"])
    assert found == [False, False, True]
