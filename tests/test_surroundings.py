"""Where a run is started and into what: folders in use, homes, caches of others, what the environment was left with."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image
from runs import carry_out

from bdiff.cli import main as cli
from bdiff.common.errors import RequestError
from bdiff.config import environment
from bdiff.config.compose import jobs
from bdiff.config.words import normal, quoted
from bdiff.data import load
from bdiff.launch.job import MARK, REPLACED, clear, examine_folder, job, save_config
from bdiff.store import artifacts
from bdiff.store.ledger import Ledger

TINY = [
    "data.limit=64", "train.steps=2", "train.batch_size=8", "train.warmup=1", "sample.count=4", "sample.batch_size=4",
    "sample.steps=2", "classifier.train.steps=2", "train.precision=fp32", "model.unet.block_out_channels=[8,8,8]",
    "runtime.progress=1000",
]  # fmt: skip


def script(*words: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """What `bdiff` prints and how it ends, with a piece of shell behind it."""
    line = f'"{sys.executable}" -m bdiff "$@" {shell}'
    return subprocess.run(["bash", "-o", "pipefail", "-c", line, "bdiff", *words],
                          env=os.environ | environment, capture_output=True, text=True, timeout=120)  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "ours"),
    [
        ("outputs=~/x", 'outputs="/home/me/x"'),
        ('outputs="~/x"', 'outputs="/home/me/x"'),
        ("~model.unet.dropout", "~model.unet.dropout"),
        ("data.path=~/a,~/b", 'data.path="/home/me/a","/home/me/b"'),
        ("data.path='~/a,b'", 'data.path="/home/me/a,b"'),
        (r"data.path=~/a\,b", 'data.path="/home/me/a,b"'),
        ("data.path=choice(~/a,/b)", 'data.path=choice("/home/me/a",/b)'),
        ("+more=[~/a,'b~']", "+more=[\"/home/me/a\",'b~']"),
        ("data.path=/a/~/b", "data.path=/a/~/b"),
        ("data.path=~nobody-of-that-name/a", "data.path=~nobody-of-that-name/a"),
    ],
)
def test_a_home_is_expanded_wherever_a_value_begins(typed, ours, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert normal(typed) == ours == normal(ours)


@pytest.mark.parametrize("write", [lambda folder: clear(folder, "- a=1"), lambda folder: save_config(folder, {"a": 1})])
def test_on_a_full_disk_a_run_s_files_stay_whole(write, tmp_path, monkeypatch):
    """And what a killed run was writing is gone."""
    names = ("config.yaml", "overrides.yaml")
    for name in names:
        (tmp_path / name).write_text("old")
    (tmp_path / f"{artifacts.SCRATCH}left").mkdir()
    clear(tmp_path, "old")

    def full(path: Path, text: str, **how: str) -> None:
        path.write_bytes(text[:3].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(names, "old")


@pytest.mark.parametrize("name", REPLACED)
def test_a_run_leaves_a_folder_alone_that_holds_somebody_s_own(name, tmp_path):
    own = tmp_path / name if "." in name else tmp_path / name / "1.png"
    own.parent.mkdir(exist_ok=True)
    own.write_text("mine")
    before = {*tmp_path.rglob("*")}
    with pytest.raises(RequestError, match=f"holds {name}, which no run of bdiff has left .* hydra.run.dir"):
        job(OmegaConf.create({"runtime": {}}), tmp_path, [], {})
    assert {*tmp_path.rglob("*")} == before and own.read_text() == "mine"
    clear(tmp_path, "[]")  # of a run, however it ended
    own.parent.mkdir(exist_ok=True)
    own.write_text("a run's")
    examine_folder(tmp_path, REPLACED, MARK, "run", "hydra.run.dir")


def test_a_run_that_was_killed_before_it_wrote_a_line_goes_on(tmp_path):
    held = artifacts.claim(tmp_path / "run.log")
    assert held is not None
    held.close()
    (tmp_path / "output.log").write_text("a sweep's")
    examine_folder(tmp_path, REPLACED, MARK, "run", "hydra.run.dir")


@pytest.mark.parametrize("path", ["/a b", '/a"b', "/a\\", '/a\\"b', "/a,b=[c]"])
def test_a_quoted_path_is_read_as_it_is(path):
    (config,) = jobs([f"paths.outputs={quoted(path)}"], multirun=False)
    assert config.paths.outputs == path


@pytest.mark.parametrize(
    ("launcher", "package"),
    [("joblib", "hydra-joblib-launcher"), ("ray", "'bdiff[cluster]'"), ("submitit", "'bdiff[cluster]'")],
)
def test_a_launcher_that_is_missing_is_named_with_what_brings_it(launcher, package, monkeypatch):
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    chosen = {"launcher": {"_target_": f"hydra_plugins.hydra_{launcher}_launcher.Any"}}
    config = OmegaConf.create({"hydra": chosen | {"runtime": {"choices": {"hydra/launcher": "mine"}}}})
    (problem,) = environment.launcher_problems(config)
    assert problem == f"hydra/launcher=mine needs hydra-{launcher}-launcher: pip install {package}"


@pytest.mark.parametrize("key", ["trigger.path", "target.path"])
def test_pictures_below_the_home_are_found(key, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("L", (16, 16), 200).save(tmp_path / "a.png")
    (config,) = jobs([f"{key.partition('.')[0]}=image", f"{key}='~/a.png'"], multirun=False)
    assert OmegaConf.select(config, key) == f"{tmp_path}/a.png"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.path='~nobody-of-that-name/a'"], "no such home directory"),
        (["paths.outputs=${oc.env:ELSEWHERE}"], "would create a folder named ~"),
        (["hydra.mode=MULTIRUN"], "bdiff run -m"),
    ],
)
def test_what_would_go_elsewhere_is_refused(words, message, monkeypatch):
    monkeypatch.setenv("ELSEWHERE", "~/x")
    with pytest.raises(RequestError, match=message):
        jobs(words, multirun=False)


def test_a_sweep_stays_where_it_was_started():
    with pytest.raises(RequestError, match="relative paths would change their meaning in each job of a sweep"):
        jobs(["hydra.job.chdir=true"], multirun=True)


def test_without_a_home_a_cache_is_asked_for(monkeypatch):
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    monkeypatch.delenv("BDIFF_CACHE", raising=False)
    with pytest.raises(RequestError, match="set HOME or BDIFF_CACHE"):
        jobs([], multirun=False)
    monkeypatch.setenv("BDIFF_CACHE", "/scratch")
    assert jobs([], multirun=False)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_PORT": "1"}, "RANK=2 in the environment is not below WORLD_SIZE=2"),
        ({"RANK": "0", "WORLD_SIZE": "0", "MASTER_PORT": "1"}, "RANK=0 in the environment is not below WORLD_SIZE=0"),
        ({"RANK": "0", "WORLD_SIZE": "1", "MASTER_PORT": "x"}, "MASTER_PORT=x in the environment is not a number"),
    ],
)
def test_a_torchrun_that_cannot_be_is_reported(environment, message, monkeypatch):
    for name, value in ({"LOCAL_RANK": "0", "MASTER_ADDR": "localhost"} | environment).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RequestError, match=message):
        jobs([], multirun=False)


def test_processes_of_mpi_are_reported(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(RequestError, match="bdiff does not use MPI"):
        jobs([], multirun=False)


def test_a_run_folder_is_one_runs_at_a_time(home, capsys):
    held = artifacts.claim(home / "busy" / "run.log")
    code, record = carry_out(home, "busy", *TINY)
    assert (code, record) == (2, {}) and "another run is using" in capsys.readouterr().err
    assert held is not None
    held.close()
    assert carry_out(home, "busy", *TINY)[0] == 0


def test_another_request_leaves_nothing_of_the_first_in_a_folder(home):
    assert carry_out(home, "shared", *TINY)[0] == 0
    first = (home / "shared" / "run.log").read_text()
    assert carry_out(home, "shared", *TINY)[0] == 0  # the same request goes on
    assert (home / "shared" / "run.log").read_text().startswith(first)
    (home / "shared" / "figures" / "triggers.png").write_bytes(b"of a defense")
    assert carry_out(home, "shared", *TINY, "runtime.log_every=1")[0] == 0
    assert not (home / "shared" / "run.log").read_text().startswith(first)
    assert not (home / "shared" / "figures" / "triggers.png").exists()


def test_data_that_are_decoded_are_read_without_a_write(home, monkeypatch, capsys):
    assert carry_out(home, "before", *TINY)[0] == 0

    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    lock = artifacts.lock
    monkeypatch.setattr(load.artifacts, "lock", lambda path: refused(path) if "cache" in str(path) else lock(path))
    assert carry_out(home, "after", *TINY)[0] == 0
    code, _ = carry_out(home, "more", *TINY, "data.limit=65")
    assert code == 2 and "set paths.cache or BDIFF_CACHE" in capsys.readouterr().err


def test_files_have_the_permissions_of_the_umask(tmp_path):
    code = (
        "import os; os.umask(0o002)\nfrom pathlib import Path\nimport torch\n"
        "from bdiff.store import artifacts\n"
        "from safetensors.torch import save_file\n"
        "with artifacts.atomic(Path('a.safetensors')) as scratch: save_file({'a': torch.zeros(1)}, scratch)\n"
        "with artifacts.lock(Path('a.lock')): print(oct(Path('a.lock').stat().st_mode))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o664


def test_a_notebooks_backend_is_no_matter():
    backend = "module://a_package_that_is_missing.backend_inline"
    code = "import sys; sys.argv = ['bdiff', '-V']\nfrom bdiff.cli.main import main\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    code += "from matplotlib import pyplot\nprint(pyplot.get_backend())"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"MPLBACKEND": backend},
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.stdout.lower().endswith("agg\n"), done.stderr


def test_a_ledger_lost_on_the_way_is_a_failure_and_no_wrong_request(monkeypatch, tmp_path):
    monkeypatch.setattr("bdiff.launch.sweep.run_job", lambda *rest: ("done", None))

    def full(*rest: object) -> None:
        raise RequestError("the ledger cannot be used (database or disk is full)")

    monkeypatch.setattr(Ledger, "end", full)
    words = ["run", "-m", "seed=0,1", f"paths.outputs={tmp_path}", f"hydra.sweep.dir={tmp_path}/s"]
    assert cli.command(words) == 1
    monkeypatch.setattr(Ledger, "start", full)  # now nothing is started
    assert cli.command([*words, "train.steps=3"]) == 2


@pytest.mark.parametrize("words", [["--help"], ["table", "--help"], ["run", "--cfg", "job"]])
def test_a_closed_pipe_ends_quietly(words):
    done = script(*words, shell="| true; exit ${PIPESTATUS[0]}")
    assert done.returncode in (0, 141) and done.stderr == ""


def test_a_full_disk_behind_the_output_is_a_failure():
    done = script("--help", shell="> /dev/full")
    assert done.returncode == 1 and "No space left" in done.stderr and "Traceback" not in done.stderr


def test_no_output_at_all_is_fine():
    assert script("--help", shell=">&- 2>&-").returncode == 0


def test_a_name_that_the_terminal_cannot_write_is_shown_all_the_same():
    done = script("run", "--cfg", "job", 'name="é"', PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "\\xe9" in done.stdout
