"""`bdiff rerun`: a run again from its saved config, which is data."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from runs import carry_out

from bdiff.cli import main as cli

TINY = [
    "data.limit=64", "train.steps=4", "train.batch_size=8", "sample.count=8", "sample.batch_size=8", "sample.steps=3",
    "model.unet.block_out_channels=[8,8,8]", "metric/fid=none", "train.precision=fp32",
]  # fmt: skip


@pytest.fixture(scope="module")
def home(home) -> Path:
    """A folder with one finished run, `outputs/run`."""
    assert carry_out(home, "outputs/run", *TINY, "trigger=stop_sign")[0] == 0
    return home


def newest(home: Path) -> dict:
    return json.loads(sorted(home.glob("outputs/runs/*/*/metrics.json"))[-1].read_text())


def test_the_same_run_again(home):
    before = json.loads((home / "outputs" / "run" / "metrics.json").read_text())
    assert cli.command(["rerun", str(home / "outputs" / "run")]) == 0
    after = newest(home)
    for part in ("metrics", "protocol", "keys", "name", "choices", "overrides"):
        assert after[part] == before[part]
    assert set(after["reused"]) == {"train", "sample", "measure"}
    assert (Path(after["folder"]) / "config.yaml").read_text() == (home / "outputs" / "run" / "config.yaml").read_text()
    assert cli.command(["rerun", after["folder"]]) == 0


def test_of_several_processes_one_has_a_run_folder_and_prints(home, monkeypatch, capsys):
    used: list[Path] = []
    monkeypatch.setattr("bdiff.launch.job.job", lambda config, folder, *about: used.append(folder) or {})
    monkeypatch.setattr("bdiff.cli.rerun.closing", lambda record: print("numbers"))
    launched = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for rank in ("0", "1"):
        for name, value in {"RANK": rank, **launched}.items():
            monkeypatch.setenv(name, value)
        assert cli.command(["rerun", str(home / "outputs" / "run")]) == 0
    first, second = used
    assert first.is_relative_to(home / "outputs" / "runs") and not second.is_relative_to(home)
    assert capsys.readouterr().out == "numbers\n"


@pytest.mark.slow
def test_a_value_can_be_changed(home):
    assert cli.command(["rerun", str(home / "outputs" / "run"), "sample.count=6"]) == 0
    assert newest(home)["protocol"]["images"] == 6
    assert newest(home)["overrides"][-1] == "sample.count=6"
    assert set(newest(home)["reused"]) == {"train"}


def changed(home: Path, tmp_path: Path, key: str, value: object) -> str:
    """A run folder from elsewhere: the same config but for one value."""
    config = OmegaConf.load(home / "outputs" / "run" / "config.yaml")
    OmegaConf.update(config, key, value, force_add=True)
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(config))
    return str(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("attack._target_", "os.system", "attack: os.system is refused"),
        ("trigger._target_", "bdiff.data.files.os.system", "is refused"),
        ("trigger.extra", {"_target_": "builtins.eval"}, "trigger.extra: builtins.eval is refused"),
        ("name", "${oc.env:HOME}", "refers to other values"),
        ("tracker", {"_target_": "bdiff.tracker.none.NoTracker", "tags": ["${oc.env:HOME}"]}, "refers to other values"),
        ("name", "../../elsewhere", "is not a file name"),
        ("train", 5, "train has another meaning in this version of bdiff"),
        ("trigger.side", {"_target_": "bdiff.metric.fid.moments.write", "path": "x"}, "trigger.side: bdiff.metric"),
        ("train.lr", -1.0, "train.lr=-1.0 must be above 0"),
        ("attack.poison_rate", 2, "attack.poison_rate=2 is not a fraction"),
    ],
)
def test_a_config_from_elsewhere_is_looked_at_first(home, tmp_path, capsys, key, value, message):
    assert cli.command(["rerun", changed(home, tmp_path, key, value)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "use bdiff rerun"),
        (["sample.count=3"], "use bdiff rerun"),
        (["nowhere"], "nowhere is not a run folder"),
        (["{run}", "sample.cuont=3"], "did you mean sample.count?"),
        (["{run}", "sample.count=three"], "sample.count=three must be a whole number"),
        (["{run}", "sample.count=1"], "sample.count=1 must be at least 2"),
        (["{run}", "sample"], "is not known"),
        (["{run}", "attack._target_=os.system"], "is refused"),
    ],
)
def test_wrong_words(home, capsys, words, message):
    assert cli.command(["rerun", *(word.format(run=home / "outputs" / "run") for word in words)]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) <= 5


def test_help(capsys):
    assert cli.command(["rerun", "run", "--help"]) == 0
    assert capsys.readouterr().out.startswith("use bdiff rerun <run folder> [key=value ...]")


def test_a_run_made_elsewhere_writes_here(home, tmp_path, monkeypatch):
    folder = Path(changed(home, tmp_path / "theirs", "paths.outputs", "/proc/theirs"))
    monkeypatch.chdir(tmp_path)
    assert cli.command(["rerun", str(folder), f"paths.cache={home}/cache"]) == 0
    assert len(list(tmp_path.glob("outputs/runs/*/*/metrics.json"))) == 1


def test_a_folder_of_another_version_is_reported(home, tmp_path, capsys):
    config = OmegaConf.load(home / "outputs" / "run" / "config.yaml")
    del config["pretrain"]
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(config))
    assert cli.command(["rerun", str(tmp_path)]) == 2
    assert "lacks pretrain" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("a: [")
    assert cli.command(["rerun", str(tmp_path)]) == 2
    (tmp_path / "config.yaml").write_text("- 1")
    assert cli.command(["rerun", str(tmp_path)]) == 2


def test_a_config_of_before_parts_moved_runs_again(home):
    """Its parts stand under their old paths, and it has no key that came later."""
    words = ["run", *TINY, "trigger=stop_sign", f"paths.outputs={home}/outputs", f"paths.cache={home}/cache"]
    asked = ["defense=elijah", "defense.steps=2", "defense.batch=4", "defense.samples=8", "defense.trim=1"]
    assert cli.command([*words, *asked, f"hydra.run.dir={home}/outputs/old"]) == 0
    path = home / "outputs" / "old" / "config.yaml"
    text = path.read_text().replace("bdiff.defense.detection.", "bdiff.defense.")
    text = text.replace("bdiff.defense.removal.elijah.ElijahRemoval", "bdiff.defense.removal.Removal")
    text = text.replace("bdiff.diffusion.schedule.", "bdiff.schedule.").replace("  prediction: auto\n", "")
    assert text.count("bdiff.defense.elijah.Elijah") == 1 and "prediction" not in text
    path.write_text(text)
    assert cli.command(["rerun", str(home / "outputs" / "old")]) == 0
    assert newest(home)["reused"] == ["train", "sample", "measure", "audit", "audit_sample"]
