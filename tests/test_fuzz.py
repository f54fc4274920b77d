"""300 hostile or odd files through `bdiff data prepare`, `bdiff run`, a sweep and `bdiff table`, from one seed.

Whatever a file is: no traceback, no error of a library's own words, no hang, and no number that is silently wrong.
"""

import csv
import io
import json
import logging
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import fuzz_files as files
import pytest
from PIL import Image
from tiny import TINY

from bdiff.cli import main as cli
from bdiff.data.files import SUFFIXES
from bdiff.pictures.draw import FORMATS

pytestmark = pytest.mark.slow

SEED = 20261129
SHORT = [*TINY, "train.precision=fp32", "sample.precision=fp32", "runtime.threads=1"]
STAGES = ("train", "sample", "classifier", "reference", "measure")


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    error: str

    @property
    def count(self) -> tuple[int, int]:
        """How many images `bdiff data prepare` says there are, and how many files were left out."""
        (images,) = re.findall(r"^images +(\d+) of", self.out, re.M)
        left = re.findall(r"^left out +(.*)$", self.out, re.M)
        return int(images), sum(int(number) for number in re.findall(r"(\d+) ", left[0])) if left else 0


def bdiff(place: Path, seconds: float, *words: str) -> Ended:
    """Carry out a command in a process forked off this one, which has imported all; it is killed after `seconds`."""
    out, error = place / "stdout", place / "stderr"
    child = os.fork()
    if child == 0:
        os.setsid()
        logging.getLogger().handlers.clear()  # those of pytest
        sys.stdin.close()
        for stream, path in ((1, out), (2, error)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.chdir(place)
        os.environ |= {"COLUMNS": "300", "BDIFF_CACHE": str(place / "cache")}
        sys.argv = ["bdiff", *words]
        try:
            cli.main()
        except SystemExit as left:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(left.code or 0))
        finally:
            os._exit(99)
    until = time.monotonic() + seconds
    while (found := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > until:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail(f"hangs: bdiff {' '.join(words)}\n{error.read_text()}")
        time.sleep(0.02)
    ended = Ended(os.waitstatus_to_exitcode(found[1]), out.read_text(), error.read_text())
    assert ended.code in (0, 1, 2), ended
    assert "Traceback" not in ended.error and "BDIFF_DEBUG=1 shows where" not in ended.error, ended.error
    assert not re.search(r"failed: \w+(Error|Exception)\b", ended.error), ended.error
    if ended.code:
        message = [line for line in ended.error.splitlines() if line.startswith(("bdiff: ", "  "))]
        assert 1 <= len(message) <= 5 and all(line.isprintable() for line in message), ended.error
    return ended


def readable(data: bytes) -> bool:
    """Whether Pillow can decode a picture, of those formats that bdiff reads."""
    try:
        Image.open(io.BytesIO(data), formats=FORMATS).load()
    except Exception:  # whatever a codec raises
        return False
    return True


def prepared(place: Path, data: Path, *words: str) -> Ended:
    return bdiff(place, 20, "data", "prepare", "images", f"data.path={data}", "data.size=16", *words)


def counted(ended: Ended, members: dict[str, bytes], unseen: int = 0) -> None:
    """Each picture is either an image or reported: refused by its name, or counted as skipped."""
    named = {name: data for name, data in members.items() if name.lower().endswith(SUFFIXES)}
    if ended.code == 0:
        assert all(map(readable, named.values())), "a damaged picture went through"
        assert ended.count == (len(named), len(members) - len(named) + unseen)


# Each family below takes a draw of its own and an empty folder, and does one case.


def spoilt_picture(draw: random.Random, place: Path, whole: Path) -> None:
    members = files.pictures(draw.randrange(99))
    name = draw.choice(sorted(members))
    members[name] = draw.choice(files.BYTES)(draw, members[name])
    if draw.random() < 0.5:
        counted(prepared(place, files.data_fuzz_result(place / "data", members)), members)
    else:
        (place / "data.zip").write_bytes(files.a_zip(members))
        counted(prepared(place, place / "data.zip"), members)


def odd_picture(draw: random.Random, place: Path, whole: Path) -> None:
    members = files.pictures(draw.randrange(99))
    end, data = files.odd_picture(draw)
    members[f"a/odd.{end}"] = data
    counted(prepared(place, files.data_fuzz_result(place / "data", members)), members)


def odd_entry(draw: random.Random, place: Path, whole: Path) -> None:
    members = files.pictures(draw.randrange(99))
    home = files.data_fuzz_result(place / "data", members)
    name = draw.choice(sorted(members))
    what = files.odd_entry(draw, home / name)
    left = {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}
    counted(prepared(place, home), left, unseen=what in ("a pipe", "a loop", "a dead link"))


def spoilt_zip(draw: random.Random, place: Path, whole: Path) -> None:
    members = files.pictures(draw.randrange(99))
    (place / "data.zip").write_bytes(draw.choice(files.BYTES)(draw, files.a_zip(members)))
    ended = prepared(place, place / "data.zip")
    assert ended.code or ended.count == (12, 0)


def spoilt_index(draw: random.Random, place: Path, whole: Path) -> None:
    members = files.pictures(draw.randrange(99))
    index = json.dumps({"labels": [[name, ord(name[0]) - ord("a")] for name in members]}).encode()
    spoil = draw.choice([files.spoilt_json] * 3 + list(files.BYTES))
    (place / "data.zip").write_bytes(files.a_zip(members | {"dataset.json": spoil(draw, index)}))
    ended = prepared(place, place / "data.zip")
    assert ended.code or ended.count == (12, 0)


def spoilt_lmdb(draw: random.Random, place: Path, whole: Path) -> None:
    members = files.pictures(draw.randrange(99))
    home = place / "church_train_lmdb"
    if draw.random() < 0.5:
        name = draw.choice(sorted(members))
        members[name] = draw.choice(files.BYTES)(draw, members[name])
        ended = prepared(place, files.an_lmdb(home, members))
        if ended.code == 0:
            images, left = ended.count
            assert images == sum(map(readable, members.values())) and images + left == 12
    else:
        path = files.an_lmdb(home, members) / "data.mdb"
        path.write_bytes(draw.choice(files.BYTES)(draw, path.read_bytes()))
        ended = prepared(place, home)
        assert ended.code or ended.count == (12, 0)


def ran(place: Path, *words: str) -> tuple[Ended, dict]:
    """A tiny run over a copy of the whole run's outputs, and its metrics.json."""
    words = (*SHORT, f"paths.outputs={place}/outputs", f"hydra.run.dir={place}/run", *words)
    ended = bdiff(place, 60, "run", *words)
    path = place / "run" / "metrics.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    if ended.code == 0:
        assert record["status"] == "done"
    return ended, record


def picture_of_run(draw: random.Random, place: Path, whole: Path) -> None:
    group = draw.choice(["trigger", "target"])
    if draw.random() < 0.5:
        end, data = files.odd_picture(draw)
    else:
        end, data = "png", draw.choice(files.BYTES)(draw, files.encode(files.noise(16, 16, 3)))
    (place / f"picture.{end}").write_bytes(data)
    shutil.copytree(whole / "outputs", place / "outputs")
    ended, _ = ran(place, f"{group}=image", f"{group}.path={place}/picture.{end}")
    assert ended.code or readable(data)


def checkpoint(draw: random.Random, place: Path, whole: Path) -> None:
    (model,) = (whole / "outputs" / "train").glob("*/model")
    shutil.copytree(model, place / "model")
    path = draw.choice(sorted(path for path in (place / "model").rglob("*") if path.is_file()))
    if draw.random() < 0.2:
        files.odd_entry(draw, path)
    else:
        is_json = path.suffix == ".json" and draw.random() < 0.8
        path.write_bytes((files.spoilt_json if is_json else draw.choice(files.BYTES))(draw, path.read_bytes()))
    shutil.copytree(whole / "outputs", place / "outputs")
    ran(place, f"model.pretrained={place}/model")


def weights(draw: random.Random, place: Path, whole: Path) -> None:
    (kept,) = (whole / "outputs" / "classifier").glob("*/model.safetensors")
    path = place / f"weights{draw.choice(['.safetensors', '.pt', '.bin'])}"
    path.write_bytes(draw.choice(files.BYTES)(draw, kept.read_bytes()))
    shutil.copytree(whole / "outputs", place / "outputs")
    ran(place, f"classifier.weights={path}")


def statistics(draw: random.Random, place: Path, whole: Path) -> None:
    (kept,) = (whole / "outputs" / "reference").glob("*/reference.npz")
    (place / "reference.npz").write_bytes(draw.choice(files.BYTES)(draw, kept.read_bytes()))
    shutil.copytree(whole / "outputs", place / "outputs")
    ran(place, "metric/fid=inception", f"metric.fid.reference={place}/reference.npz")


def stage(draw: random.Random, place: Path, whole: Path) -> None:
    """What an earlier run left is damaged: the same numbers come out, or the run says why not."""
    shutil.copytree(whole / "outputs", place / "outputs")
    home = place / "outputs" / draw.choice(STAGES)
    path = draw.choice(sorted(path for path in home.rglob("*") if path.is_file() and path.suffix != ".lock"))
    if path.suffix == ".json" and draw.random() < 0.6:
        path.write_bytes(files.spoilt_json(draw, path.read_bytes()))
    elif path.stat().st_size and draw.random() < 0.8:
        path.write_bytes(draw.choice(files.BYTES)(draw, path.read_bytes()))
    else:
        files.odd_entry(draw, path)
    ended, record = ran(place)
    if ended.code == 0:
        assert record["metrics"] == json.loads((whole / "run" / "metrics.json").read_text())["metrics"]


def ledger(draw: random.Random, place: Path, whole: Path) -> None:
    shutil.copytree(whole / "outputs", place / "outputs")
    path = place / "outputs" / "ledger.sqlite"
    path.write_bytes(draw.choice(files.BYTES)(draw, path.read_bytes()))
    words = (*SHORT, f"paths.outputs={place}/outputs", f"hydra.sweep.dir={place}/sweep")
    ended = bdiff(place, 60, "run", "-m", "seed=0", *words)
    if ended.code == 0:
        (folder,) = json.loads((place / "sweep" / "jobs.json").read_text())
        found = json.loads((place / "sweep" / folder / "metrics.json").read_text())
        assert found["metrics"] == json.loads((whole / "run" / "metrics.json").read_text())["metrics"]


def run_folders(draw: random.Random, place: Path, whole: Path) -> None:
    """A table of three runs: each is a row with its own number, or said to be left out."""
    for seed, name in enumerate(("one", "two", "three"), 1):
        shutil.copytree(whole / "run", place / "runs" / name)
        config = place / "runs" / name / "config.yaml"
        config.write_text(config.read_text().replace("seed: 0\n", f"seed: {seed}\n", 1))
    path = place / "runs" / "two" / draw.choice(["metrics.json", "config.yaml"])
    if path.suffix == ".json" and draw.random() < 0.7:
        path.write_bytes(files.spoilt_json(draw, path.read_bytes()))
    elif draw.random() < 0.7:
        path.write_bytes(draw.choice(files.BYTES)(draw, path.read_bytes()))
    else:
        files.odd_entry(draw, path)
    mse = json.loads((whole / "run" / "metrics.json").read_text())["metrics"]["suspect/mse"]
    ended = bdiff(place, 20, "table", "runs", "--rows", "seed", "--metrics", "mse", "--format", "csv")
    assert ended.code == 0
    rows = list(csv.reader(io.StringIO(ended.out)))
    found = {row[0]: row[1:] for row in rows[1:]}
    assert {"1", "3"} <= {*found}, ended
    assert len(found) == 3 or "two is skipped" in ended.error or not path.exists() or "-" in found, ended
    for mean in (row[1] for row in rows[1:]):  # a metrics.json whose number was changed to another cannot be detected
        assert mean in ("", "-") or abs(float(mean) / mse - 1) < 1e-6 or path.suffix == ".json", ended


FAMILIES: dict[Callable[[random.Random, Path, Path], None], int] = {
    spoilt_picture: 30, odd_picture: 15, odd_entry: 25, spoilt_zip: 20, spoilt_index: 15, spoilt_lmdb: 25,
    picture_of_run: 30, checkpoint: 35, weights: 10, statistics: 10, stage: 40, ledger: 10, run_folders: 35,
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A tiny sweep of one job and a tiny run that nobody disturbed, in one outputs folder."""
    place = tmp_path_factory.mktemp("whole")
    words = (*SHORT, f"paths.outputs={place}/outputs")
    assert bdiff(place, 120, "run", "-m", "seed=0", *words, f"hydra.sweep.dir={place}/sweep").code == 0
    assert bdiff(place, 120, "run", *words, f"hydra.run.dir={place}/run").code == 0
    return place


@pytest.mark.parametrize(
    ("family", "number"),
    [(family, number) for family, count in FAMILIES.items() for number in range(count)],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
def test_odd_files(family, number, whole, tmp_path):
    family(random.Random(f"{SEED} {family.__name__} {number}"), tmp_path, whole)
