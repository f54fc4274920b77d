"""The command line: help, versions, printed configs, shell completion, the authors' spellings."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from bdiff import __version__
from bdiff.cli import main as cli
from bdiff.config.compose import jobs
from bdiff.config.plugins import PACKAGE
from bdiff.config.sweeps import shared_alike
from bdiff.config.words import normal

SCRIPTS = Path(sys.executable).parent


def script(words: list[str], here: Path, **env: str) -> str:
    """What the installed `bdiff` prints in the folder `here`, where it leaves nothing."""
    env = {**os.environ, **env}
    answer = subprocess.run(
        [SCRIPTS / "bdiff", *words], cwd=here, env=env, capture_output=True, text=True, timeout=60, check=True
    )
    assert not answer.stderr and not list(here.iterdir())
    return answer.stdout


@pytest.fixture
def ask(capsys, monkeypatch, tmp_path):
    """Run one command line in this process and return what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bdiff"])

    def ask(*words: str) -> str:
        try:
            code = cli.command(list(words))
        except SystemExit as left:  # how Hydra ends after --help
            code = left.code
        out, err = capsys.readouterr()
        assert (code or 0, err) == (0, "") and not list(tmp_path.iterdir())
        return out

    return ask


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_what_can_be_typed(words, ask):
    text = ask(*words)
    assert "bdiff run [-m] [key=value ...]" in text and "install=bash" in text


@pytest.mark.parametrize("words", [["--help"], ["audit", "--help"]])
def test_help_fits_a_terminal(words, ask, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, ask(*words).splitlines())) <= 80


def test_version(ask):
    assert ask("--version") == ask("-V") == f"bdiff {__version__}\n"


def test_the_help_of_run_lists_every_group(ask):
    text = ask("run", "--help")
    for group in (path for path in (Path(__file__).parents[1] / "conf").iterdir() if path.is_dir()):
        if group.name not in ("__pycache__", "hydra"):  # Hydra's own groups are in its --hydra-help
            assert re.search(rf"^{group.name}(/\w+)?: \w", text, re.MULTILINE)
    assert "experiment=<folder>/<row>" in text and "stop_sign_14-corner-p90-ddim_50" in text


def test_the_help_of_run_explains_the_options_that_are_chosen(ask):
    lines = ask("run", "attack=diff2", "metric/fid=inception", "seed=3", "--help").splitlines()
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line.strip()}
    assert (
        rows["attack.eps"] == "0.3 number, above 0 L-inf distance of the adversarial image from the original, in [0,1]"
    )
    assert rows["attack.mode"].startswith("redirect redirect, preserve ")
    assert rows["metric.fid.weights"].startswith("null text, or null a file of pytorch-fid's weights")
    assert not {"metric.also", "defense.precision", "train.lr"} & rows.keys()
    assert {"attack=diff2", "metric/fid=inception", "attack:"} <= rows.keys()
    assert "attack.eps" not in ask("run", "--help")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("table", ["--rows", "--cols", "--metrics", "--format", "--out"]),
        ("zoo", ["--score", "--rate", "--figure", "--format"]),
        ("shields", ["--rows", "--format"]),
        ("attacks", ["--rows", "--figure"]),
        ("cost", ["--goal", "--base"]),
    ],
)
def test_the_help_of_a_command_names_its_options_with_examples(name, options, ask):
    text = ask(name, "--help")
    assert all(option in text for option in (*options, "examples:"))


@pytest.mark.parametrize("name", ["zoo", "shields", "attacks", "cost"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "the following arguments are required: folder: see bdiff {name} --help"),
        (". nowhere", "nowhere is not a folder"),
        (". --format xml", "invalid choice: 'xml'"),
        (". --row trigger", "--row"),
    ],
)
def test_wrong_words_to_a_command_over_runs_are_reported_in_a_line(name, line, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.command([name, *line.split()]) == 2
    out, err = capsys.readouterr()
    assert message.format(name=name) in err and len(err.splitlines()) == 1 and not out


def test_the_installed_script_prints_the_config_from_any_folder(tmp_path):
    config = OmegaConf.create(script(["run", "--cfg", "job", "train.steps=7"], tmp_path))
    assert config.train.steps == 7 and config.data._target_ == "bdiff.data.digits.digits"
    assert script(["--version"], tmp_path) == f"bdiff {__version__}\n"


@pytest.mark.parametrize(
    ("words", "shared"),
    [
        (["attack=learned_trigger,uibdiffusion", "attack.law=ode", "pretrain=digits"], "attack.law=choice(ode)"),
        (["defense=elijah,terd", "defense.repair=true"], "defense.repair=choice(true)"),
        (["attack=diff2,diff2_joint", "attack.t=[4,6]"], "attack.t=choice([4,6])"),
        (["attack=diff2", "attack.eta=0.1", "seed=0,1"], "attack.eta=0.1"),
        (["defense=elijah,terd", "train.steps=3"], "train.steps=3"),
    ],
)
def test_a_sweep_takes_a_value_for_a_setting_that_only_swept_options_have(words, shared):
    assert shared in shared_alike(words)
    composed, plain = (
        [one.hydra.overrides.task for one in jobs(given, True)] for given in (shared_alike(words), words)
    )
    assert composed == plain
    given = shared_alike(words)
    with initialize_config_module(PACKAGE, version_base="1.3"):  # what Hydra composes before a sweep
        assert GlobalHydra.instance().config_loader().load_configuration("config", given, RunMode.MULTIRUN)


@pytest.mark.parametrize(
    ("typed", "ours"),
    [
        ("trigger=BOX_14", "trigger=box_14"),
        ("trigger=STOP_SIGN_14", "trigger=stop_sign_14"),
        ("trigger=GLASSES", "trigger=glasses"),
        ("target=CORNER", "target=corner"),
        ("target=HAT", "target=hat"),
        ("data=CIFAR10", "data=cifar10"),
    ],
)
def test_the_authors_spellings(typed, ours, ask):
    assert ask("run", "--cfg", "job", typed) == ask("run", "--cfg", "job", ours)


@pytest.mark.parametrize("shape", ["BOX", "STOP_SIGN"])
def test_the_authors_sizes_are_sides(shape):
    sides = [4, 8, 11, 14, 18]
    configs = jobs([normal(f"trigger={','.join(f'{shape}_{side}' for side in sides)}")], multirun=True)
    assert [config.trigger.side for config in configs] == sides
    assert {config.trigger._target_.rpartition(".")[2] for config in configs} == {shape.lower()}


def test_a_sweep_in_the_authors_spellings_starts_a_job_for_each(monkeypatch, tmp_path):
    started = []

    def run_job(overrides, folder, environment, gone, output):
        started.append([word for word in overrides if word.startswith(("trigger", "target"))])
        return "failed", "only played"

    monkeypatch.setattr("bdiff.launch.sweep.run_job", run_job)
    monkeypatch.setattr(sys, "argv", ["bdiff"])
    assert cli.command(["run", "-m", "trigger=BOX_14,GLASSES", "target=CORNER", f"paths.outputs={tmp_path}"]) == 1
    assert started == [["trigger=box_14", "target=corner"], ["trigger=glasses", "target=corner"]]


COMPLETIONS = [
    ("bdiff ru", {"run"}),
    ("bdiff run attack=b", {"attack=baddiffusion"}),
    ("bdiff run attack.poi", {"attack.poison_mode=", "attack.poison_rate="}),
    ("bdiff run target=corner metric/fid=in", {"metric/fid=inception"}),
]


@pytest.mark.parametrize(("line", "offered"), COMPLETIONS)
def test_completion_offers(line, offered, ask, monkeypatch):
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert set(ask("-sc", "query=bash").split()) == offered


def test_completion_in_a_real_bash(tmp_path):
    install = script(["run", "-sc", "install=bash"], tmp_path)
    assert "complete" in install and install == script(["-sc", "install=bash"], tmp_path)
    bash = shutil.which("bash")
    if not bash:
        pytest.skip("there is no bash here")
    lines = [install]
    for line, _ in COMPLETIONS:
        words = f"COMP_LINE={line!r}; COMP_POINT={len(line)}; COMP_CWORD={len(line.split()) - 1}"
        lines.append(f'{words}; hydra_bash_completion; echo "${{COMPREPLY[@]}}"')
    env = {**os.environ, "PATH": f"{SCRIPTS}:{os.environ['PATH']}"}
    answer = subprocess.run(
        [bash, "--norc"], input="\n".join(lines), cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert [set(line.split()) for line in answer.stdout.splitlines()] == [offered for _, offered in COMPLETIONS], answer
