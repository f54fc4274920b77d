"""`bdiff doctor`: what it finds, what it says of what it does not find, and which exit code follows."""

import hashlib
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from packaging.requirements import Requirement

from bdiff.cli import main as cli
from bdiff.cli.doctor import command, finding, machine, parts, selftest
from bdiff.cli.doctor.finding import MISSING, OK, WARN, Finding, reachable
from bdiff.config.compose import jobs

REPO = "google/ddpm-cifar10-32"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """An empty home, with no network and caches of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(finding, "reachable", lambda url: False)
    return tmp_path


@pytest.fixture
def healthy(monkeypatch) -> None:
    """A self-test that takes no time."""
    monkeypatch.setattr(command, "selftest", lambda device: Finding(f"a run on {device}", OK, "in no time"))


def composed(*overrides: str):
    (config,) = jobs(list(overrides), False)
    return config


def state_of(findings: list[Finding], what: str) -> str:
    (one,) = (one for one in findings if one.what == what)
    assert one.state == OK or one.found
    return one.state


def snapshot(home: Path, weights: str | None = "diffusion_pytorch_model.safetensors") -> Path:
    """Lay out a repository in huggingface's cache as its hub does."""
    folder = home / "hf" / f"models--{REPO.replace('/', '--')}"
    commit = folder / "snapshots" / "0123"
    commit.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123")
    (commit / "config.json").write_text("{}")
    if weights:
        (commit / weights).write_bytes(b"0")
    return commit


@pytest.mark.slow
def test_the_default_run_works_on_this_machine(home):
    """The one test of the whole, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "WANDB", "TORCH_"))}
    done = subprocess.run([sys.executable, "-m", "bdiff", "doctor"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    sections = ["this machine", "versions", "disk", "caches", "datasets", "weights", "tracker", "what bdiff run reads"]
    lines = done.stdout.splitlines()
    assert [lines.count(title) for title in [*sections, "self-test"]] == [1] * 9
    assert lines[1] == sections[0] and lines[-1] == "bdiff run would work here"
    assert any(line.startswith("missing  cifar10 ") for line in lines)
    assert any(line.startswith("ok       a run on cpu") and "measured in" in line for line in lines)
    assert not (home / "outputs").exists()


def test_cuda_without_a_device_fails_and_says_all_that_is_missing(healthy, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.command(["doctor", "--cuda"]) == 1
    out = capsys.readouterr().out
    assert "no CUDA device here: use runtime.device=cpu or auto" in out
    verdict = out.splitlines()[-1]
    assert verdict.startswith("bdiff run data=cifar10 runtime.device=cuda would not work here")
    assert verdict.endswith(f"data=cifar10, {REPO}, FID's Inception, device")


def test_cuda_with_all_that_it_needs(healthy, home, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (70 * 10**9, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name="NVIDIA X", major=9))
    snapshot(home)
    (home / "weights.pth").write_bytes(b"weights")
    (home / "cache" / "cifar10" / "cifar-10-batches-py").mkdir(parents=True)
    digits = hashlib.sha256(b"weights").hexdigest()[:8]
    words = [f"metric.fid.weights={home}/weights.pth", f"metric.fid.sha256={digits}"]
    assert cli.command(["doctor", "--cuda", *words]) == 0
    out = capsys.readouterr().out
    assert "NVIDIA X, 70.0 GB of 80.0 GB free; fast in fp32, bf16, tf32 (left off: fp32 means fp32)" in out
    assert "a run on cuda  in no time" in out
    (home / "weights.pth").write_bytes(b"other weights")
    assert cli.command(["doctor", "--cuda", *words]) == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith("see FID's Inception")


def test_what_is_not_here_but_can_be_fetched_is_no_obstacle(monkeypatch):
    config = composed("data=cifar10", "metric.also=[lpips]")
    whats = ["data=cifar10", REPO, "FID's Inception", "LPIPS's AlexNet"]
    assert [(one.what, one.state) for one in parts.needs(config)] == [(what, MISSING) for what in whats]
    asked = []
    monkeypatch.setattr(finding, "reachable", lambda url: asked.append(url) or True)
    found = parts.needs(config)
    assert [(one.what, one.state) for one in found] == [(what, WARN) for what in whats]
    hosts = ["www.cs.toronto.edu", "huggingface.co", "github.com", "download.pytorch.org"]
    assert [url.split("/")[2] for url in asked] == hosts
    assert all(url in one.found for url, one in zip(asked, found, strict=True))


def test_nothing_is_asked_of_the_network_that_the_run_would_not(monkeypatch):
    monkeypatch.setattr(finding, "reachable", lambda url: pytest.fail(url))
    assert [one.state for one in parts.needs(composed())] == [OK]
    config = composed("data=celebahq", "model.pretrained=null", "metric/fid=none")
    assert [one.state for one in parts.needs(config)] == [MISSING]  # it cannot be downloaded
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = composed("data=celebahq", "metric/fid=none")
    assert [one.state for one in parts.needs(config)] == [MISSING, MISSING]


def test_a_checkpoint_is_here_when_its_weights_are(home):
    assert parts.checkpoint(REPO).state == MISSING
    commit = snapshot(home, weights=None)
    assert parts.checkpoint(REPO).state == MISSING
    (commit / "diffusion_pytorch_model.bin").write_bytes(b"0")
    assert parts.checkpoint(REPO) == Finding(REPO, OK, str(commit))


def test_every_checkpoint_and_network_is_listed(home):
    whats = [one.what for one in parts.weights()]
    assert whats[:2] == ["FID's Inception", "LPIPS's AlexNet"]
    assert set(whats[2:]) == {REPO, *(f"google/ddpm-ema-{name}-256" for name in ("celebahq", "bedroom", "church"))}
    assert all(one.state == MISSING and one.hint for one in parts.weights())
    path = home / "hub" / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"other")
    (first, *_) = parts.weights()
    assert first.state == MISSING and f"{path} has sha256 " in first.found


def test_datasets_are_looked_for_in_the_cache_asked_for(home, tmp_path):
    (tmp_path / "other" / "celebahq").mkdir(parents=True)
    nowhere, elsewhere = parts.datasets(str(tmp_path / "cache")), parts.datasets(str(tmp_path / "other"))
    assert (state_of(nowhere, "celebahq"), state_of(elsewhere, "celebahq")) == (MISSING, OK)
    assert state_of(nowhere, "digits") == OK
    assert all(str(tmp_path / "cache") in one.hint for one in nowhere if one.state == MISSING)


def test_every_requirement_is_listed_and_fits():
    found = {one.what: one.state for one in machine.versions()}
    expected = [Requirement(line) for line in metadata.requires("bdiff") if "extra" not in line]
    assert {one.name: OK for one in expected}.items() <= found.items()
    extras = {"pyautoattack", "timm", "hydra-submitit-launcher", "hydra-ray-launcher"}
    assert set(found) == {"python", "bdiff", *(one.name for one in expected), *extras}


@pytest.mark.parametrize(
    ("expected", "said"), [("torch>=99", "does not fit >=99"), ("no-such-package>=1", "not installed")]
)
def test_a_package_that_is_missing_or_old(expected, said):
    one = machine.package(Requirement(expected))
    assert one.state == MISSING and said in one.found and one.hint == f"pip install '{expected}'"


def test_a_missing_package_ends_it_and_a_missing_extra_does_not(healthy, monkeypatch, capsys):
    monkeypatch.setattr(metadata, "requires", lambda name: ["no-such-package>=1", 'nor-this; extra == "dev"'])
    assert cli.command(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "bdiff run would not work here: see no-such-package"
    monkeypatch.setattr(metadata, "requires", lambda name: ["torch", 'no-such-launcher; extra == "cluster"'])
    assert cli.command(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1] == "this machine"
    assert "warn     no-such-launcher" in out and "pip install 'bdiff[cluster]'" in out


def test_disk_that_cannot_be_written_or_is_nearly_full(home, monkeypatch):
    (home / "file").write_text("")
    assert machine.room("paths.outputs", home / "not" / "yet").state == OK
    blocked = machine.room("paths.outputs", home / "file" / "below")
    assert blocked.state == MISSING and blocked.hint.startswith("set paths.outputs=")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    scarce = machine.room("paths.cache", home)
    assert scarce.state == WARN and scarce.found.startswith("1.0 GB free at ")
    assert sorted(path.name for path in home.iterdir()) == ["file"]


def test_an_outputs_folder_that_cannot_be_written_blocks_the_run(healthy, home, capsys):
    assert cli.command(["doctor", "paths.outputs=/proc/outputs"]) == 1  # even root makes no folder there
    assert capsys.readouterr().out.splitlines()[-1].endswith("see paths.outputs")


def test_caches_say_their_sizes(home):
    (home / "cache" / "data").mkdir(parents=True)
    (home / "cache" / "data" / "pixels.npy").write_bytes(b"0" * 3000)
    (home / "cache" / "link").symlink_to(home / "cache" / "data" / "pixels.npy")
    bdiff, hub, huggingface = machine.caches(composed())
    assert bdiff.found.startswith("3.1 kB at ") and str(home / "cache") in bdiff.found  # the link counts as a link
    assert hub.found.startswith("0 bytes at") and huggingface.found.startswith("0 bytes at")


@pytest.mark.parametrize(("logged_in", "state"), [(True, OK), (False, WARN)])
def test_wandb(logged_in, state, monkeypatch):
    import wandb

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", lambda **options: logged_in)
    (one,) = parts.tracker()
    assert one.state == state
    monkeypatch.setenv("WANDB_MODE", "offline")
    (one,) = parts.tracker()
    assert one.state == OK and "offline" in one.found


def test_a_self_test_that_fails_names_the_reason_and_the_command(monkeypatch):
    monkeypatch.setattr(selftest, "TINY", ("train.steps=-1",))
    one = selftest.selftest("cpu")
    assert one == Finding(
        "a run on cpu", MISSING, "train.steps=-1 must be at least 0", "bdiff run train.steps=-1 runtime.device=cpu"
    )
    monkeypatch.setattr(selftest, "PATIENCE", 0.01)
    assert "not finished after" in selftest.selftest("cpu").found


def test_a_failed_self_test_fails_the_doctor(monkeypatch, capsys):
    monkeypatch.setattr(command, "selftest", lambda device: Finding("a run on cpu", MISSING, "it broke"))
    assert cli.command(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "bdiff run would not work here: see a run on cpu"


def test_reachable_reports_what_is_served_from_what_is_not(home):
    """The function itself, on addresses of files, for which no network is needed."""
    (home / "here").write_text("")
    assert reachable((home / "here").as_uri())
    assert not reachable((home / "nowhere").as_uri())
    assert not reachable("nonsense")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--frob"], "--frob is not an option of bdiff doctor"),
        (["nonsense"], "'nonsense' cannot be read: write key=value"),
        (["data=cifra10"], "did you mean cifar10?"),
        (["--cuda", "train.lr=-1"], "train.lr=-1 must be above 0"),
        (["trigger=box,hat"], "has several values"),
    ],
)
def test_wrong_words_are_reported_in_one_line(words, said, capsys):
    code = cli.command(["doctor", *words])
    out, err = capsys.readouterr()
    (line,) = (line for line in err.splitlines() if said in line)
    assert code == 2 and line.startswith("bdiff: ") and out == ""


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--cuda", "--help"]])
def test_help(words, capsys):
    assert cli.command(["doctor", *words]) == 0
    assert capsys.readouterr().out.startswith("usage: bdiff doctor")
