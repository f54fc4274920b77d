"""Options and parts from outside the repository: installed plugins, and folders that a request names."""

import os
import sys

import pytest
from packages import forget, install

import bdiff
from bdiff.cli import main as cli
from bdiff.cli.doctor import parts
from bdiff.common.errors import RequestError
from bdiff.config.compose import jobs
from bdiff.config.instantiate import foreign, make
from bdiff.report.runs import find

DOT = {
    "dots/__init__.py": "",
    "dots/dot.py": """
        import numpy as np

        def dot(size: int, radius: int) -> np.ndarray:
            pixels = np.zeros((size, size, 4), np.float32)
            pixels[:radius, :radius] = 1
            return pixels
        """,
    "dots/conf/trigger/dot.yaml": "_target_: dots.dot.dot\nradius: 3\n",
}
BOX = "_target_: bdiff.trigger.box.box\nside: 5\n"


TINY = [
    "data.limit=48", "train.steps=2", "train.batch_size=8", "sample.count=8", "sample.triggered=8", "sample.steps=2",
    "metric/fid=none", "model.unet.block_out_channels=[8,8,8]", "tracker=none", "runtime.device=cpu",
]  # fmt: skip


def problems(*words: str, multirun: bool = False) -> list[str]:
    """What is wrong with a request."""
    with pytest.raises(RequestError) as caught:
        jobs(list(words), multirun)
    return list(caught.value.problems)


def folder(place, **yamls: str):
    """A folder of yamls; the names have __ for /."""
    for name, text in yamls.items():
        path = place / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return place


def test_a_plugins_option_is_composed_checked_and_made(site):
    install(site, "dots", DOT)
    (config,) = jobs(["trigger=dot", "trigger.radius=2"], False)
    assert make(config.trigger, size=16)[..., 3].sum() == 4
    assert problems("trigger=dott")[0].startswith("trigger=dott is not known; did you mean dot? (choose from box, ")
    assert "did you mean trigger.radius?" in problems("trigger=dot", "trigger.radios=2")[0]
    assert problems("trigger=box", "trigger.radius=2") == [
        "trigger.radius is not known with trigger=box: it belongs to trigger=dot"
    ]
    assert [config.trigger.radius for config in jobs(["trigger=dot", "trigger.radius=2,3"], True)] == [2, 3]


def test_a_plugins_amplifier_gets_all_of_its_settings(site):
    files = {
        "loud/__init__.py": "",
        "loud/amplify.py": """
            class Amplifier:
                def __init__(self, inversion, scale, gain=1):
                    self.gain = gain
            """,
        "loud/conf/amplify/loud.yaml": "defaults: [/defense@inversion: elijah]\n_target_: loud.amplify.Amplifier\n"
        "scale: 1.5\ngain: 2\n",
    }
    install(site, "loud", files)
    (config,) = jobs(["amplify=loud"], False)
    from bdiff.pipeline.amplify import amplifier_of

    assert amplifier_of(config.amplify).gain == 2


def test_the_checks_of_a_request_import_no_attack(site):
    install(site, "dots", DOT | {"dots/conf/attack/dot.yaml": "_target_: dots.attack.Dot\npoison_rate: 0.1\n"})
    jobs(["attack=dot"], False)
    assert "dots" not in sys.modules


@pytest.mark.parametrize(
    "target",
    [
        "dots.dot.torch.save",  # in its package, but its yamls do not name it
        "dots.dot",
        "other.dot.dot",
        "os.system",
    ],
)
def test_no_other_part_of_a_plugin_can_be_named(target, site, tmp_path):
    install(site, "dots", DOT)
    mine = folder(tmp_path / "mine", trigger__mine=f"_target_: {target}\ncommand: touch {tmp_path}/ran\n")
    assert f"trigger: {target} is refused" in problems("trigger=mine", f"hydra.searchpath=[{mine}]")[0]
    assert foreign("", "dots.dot.dot") is None
    assert not (tmp_path / "ran").exists()


def test_a_plugin_names_no_part_outside_of_its_package(site):
    install(site, "dots", DOT | {"dots/conf/trigger/evil.yaml": "_target_: os.system\ncommand: touch ran\n"})
    assert "os.system is refused" in problems("trigger=evil")[0]


def test_parts_of_a_package_that_is_no_plugin_are_refused(site):
    install(site, "dots", DOT)
    (site / "dots-1.0.dist-info" / "entry_points.txt").unlink()
    assert "dots.dot.dot is refused" in problems("trigger=dot", f"hydra.searchpath=[{site}/dots/conf]")[0]


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"dots/__init__.py": ""}, "dots/conf has no yaml files"),
        (DOT | {"dots/conf/data/bad.yaml": "a: [1"}, "dots/conf/data/bad.yaml cannot be read"),
        (DOT | {"dots/conf/data/bad.yaml": "- a"}, "dots/conf/data/bad.yaml has no settings"),
        ({}, "its package dots was not found"),
    ],
)
def test_a_broken_plugin_is_reported_and_left_out(files, why, site, caplog):
    install(site, "dots", files)
    jobs([], False)
    jobs([], False)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("bdiff: plugin dots is skipped: ") and why in line and "\n" not in line
    assert "trigger=dot is not known" in problems("trigger=dot")[0]
    (found,) = parts.plugins()
    assert (found.what, found.state) == ("dots", "warn") and why in found.found


def test_plugins_do_not_take_each_others_names(site):
    install(site, "dots", DOT)
    install(site, "specks", {"specks/conf/trigger/dot.yaml": BOX})
    message = "plugin specks has trigger/dot.yaml, as plugin dots has: rename it, or leave plugin specks out"
    assert problems() == [message]


@pytest.mark.parametrize("name", ["trigger/box", "config", "metric/fid/none"])
def test_a_plugin_does_not_take_bdiffs_names(name, site):
    install(site, "dots", DOT | {f"dots/conf/{name}.yaml": BOX})
    assert problems() == [f"plugin dots has {name}.yaml, as bdiff has: rename it, or leave plugin dots out"]


def test_the_doctor_lists_plugins(site):
    assert [one.what for one in parts.plugins()] == ["none"]
    install(site, "dots", DOT)
    forget()
    (found,) = parts.plugins()
    assert (found.what, found.state, found.found) == ("dots", "ok", "trigger/dot")


@pytest.mark.parametrize("way", ["--config-dir {}", "--config-dir={}", "-cd {}", "hydra.searchpath=[{}]",
                                 "hydra.searchpath=[file://{}]"])  # fmt: skip
def test_a_folder_of_yamls_is_named(way, tmp_path, monkeypatch, capsys):
    folder(tmp_path / "mine", trigger__tiny=BOX)
    monkeypatch.chdir(tmp_path)
    words = way.format("mine").split()
    assert cli.command(["run", *words, "trigger=tinny", "--cfg", "job"]) == 2
    assert "did you mean tiny?" in capsys.readouterr().err
    assert cli.command(["run", *words, "trigger=tiny", "--cfg", "job"]) == 0
    assert "side: 5" in capsys.readouterr().out


def test_a_run_from_python_records_the_folder_of_yamls(tmp_path, monkeypatch):
    words = [f'hydra.searchpath=["{folder(tmp_path, trigger__tiny=BOX)}"]', "trigger=tiny"]
    monkeypatch.setattr("bdiff.library.request.record_in", lambda place: None)
    recorded = []
    monkeypatch.setattr("bdiff.launch.job.job", lambda config, place, overrides, choices: recorded.extend(overrides))
    bdiff.run(words)
    assert recorded == words


def test_a_package_s_folder_of_yamls_is_named_and_not_imported(site):
    install(site, "dots", DOT)
    folder(site / "lab" / "conf", trigger__tiny=BOX)
    (site / "lab" / "__init__.py").write_text("1 / 0")
    assert jobs(["hydra.searchpath=[pkg://lab.conf]", "trigger=tiny"], False)[0].trigger.side == 5


def test_completion_offers_what_is_outside(site, tmp_path, monkeypatch, capsys):
    install(site, "dots", DOT)
    folder(tmp_path / "mine", trigger__dotted=BOX)
    monkeypatch.chdir(tmp_path)
    for line in ("bdiff run --config-dir mine trigger=do", "bdiff run hydra.searchpath=[mine] trigger=do"):
        monkeypatch.setenv("COMP_LINE", line)
        assert cli.command(["-sc", "query=bash"]) == 0
        assert capsys.readouterr().out.split() == ["trigger=dot", "trigger=dotted"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra.searchpath=[nowhere]"], "nowhere is not a folder of yamls: see hydra.searchpath and --config-dir"),
        (["hydra.searchpath=[pkg://no.such]"], "pkg://no.such is not a folder of yamls: see hydra.searchpath"),
        (["hydra.searchpath=[https://x/y]"], "https://x/y is not a folder of yamls"),
        (["hydra.searchpath=mine"], "hydra.searchpath=mine must be a list of folders"),
        (["hydra.searchpath=[mine]", "hydra.searchpath=[mine]"], "hydra.searchpath is given 2 times"),
        (["hydra.searchpath=[over]"], "over has data/digits.yaml, as bdiff has"),
    ],
)
def test_folders_that_cannot_be_named(words, message, tmp_path, monkeypatch):
    folder(tmp_path / "mine", trigger__tiny=BOX)
    folder(tmp_path / "over", data__digits="size: 4\n")
    monkeypatch.chdir(tmp_path)
    assert problems(*words)[0].startswith(message)


@pytest.mark.parametrize("flag", ["--config-name", "--config-path"])
def test_there_is_one_primary_config(flag, capsys):
    assert cli.command(["run", flag, "mine"]) == 2
    assert "one primary config" in capsys.readouterr().err


HYDRAS = {
    "callbacks": "hydra: {callbacks: {x: {_target_: os.system, command: touch ran}}}",
    "job": "hydra: {job: {env_set: {PYTHONPATH: /evil}}}",
    "logging": "hydra: {job_logging: {handlers: {x: {(): os.system}}}}",
    "params": "hydra: {sweeper: {params: {+hydra.callbacks.x._target_: os.system}}}",
    "launcher": "hydra: {launcher: {_target_: os.system}}",
}


@pytest.mark.parametrize("name", HYDRAS)
def test_a_yaml_of_a_folder_sets_nothing_of_hydras(name, tmp_path):
    mine = folder(tmp_path / "mine", experiment__evil=f"# @package _global_\n{HYDRAS[name]}\n")
    message = problems("experiment=evil", f"hydra.searchpath=[{mine}]")
    assert message[0].startswith("hydra.")
    (tmp_path / "mine/experiment/evil.yaml").write_text("# @package _global_\ntrain: {steps: 3}\n")
    assert jobs(["experiment=evil", f"hydra.searchpath=[{mine}]"], False)[0].train.steps == 3


def test_a_sweep_of_a_folder_sets_nothing_of_hydras(tmp_path):
    params = "{trigger: 'box,noise', +hydra.job.env_set.PYTHONPATH: /evil}"
    sweep = f"# @package _global_\nhydra: {{sweeper: {{params: {params}}}}}\n"
    mine = folder(tmp_path / "mine", experiment__sweep=sweep)
    words = ["experiment=sweep", f"hydra.searchpath=[{mine}]"]
    message = "hydra.sweeper.params.+hydra.job.env_set.PYTHONPATH is set by a yaml"
    assert problems(*words, multirun=True)[0].startswith(message) and problems(*words)[0].startswith(message)
    folder(tmp_path / "mine", experiment__sweep=sweep.replace(", +hydra.job.env_set.PYTHONPATH: /evil", ""))
    assert len(jobs(words, True)) == 2


def test_a_launcher_of_a_folder_is_one_of_hydras(tmp_path):
    mine = folder(tmp_path / "mine", hydra__launcher__mine="_target_: os.system\ncommand: touch ran\n")
    (message,) = problems("hydra/launcher=mine", f"hydra.searchpath=[{mine}]")
    assert message.startswith("hydra.launcher._target_=os.system is refused")


@pytest.mark.slow
def test_a_sweeps_jobs_and_a_rerun_find_what_is_outside(site, tmp_path, monkeypatch):
    install(site, "dots", DOT)
    mine = folder(tmp_path / "mine", target__mine="_target_: bdiff.target.corner.corner\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(sys, "argv", ["bdiff"])
    places = [f"paths.outputs={tmp_path}/outputs", f"paths.cache={tmp_path}/cache"]
    words = ["-m", "--config-dir", str(mine), "hydra/launcher=joblib", "trigger=dot", "target=mine", *TINY, *places]
    assert cli.command(["run", *words]) == 0
    (run,) = find([tmp_path / "outputs"])
    assert (run.value("trigger"), run.value("target")) == ("dot", "mine")
    assert cli.command(["rerun", str(run.folder)]) == 0
    (again,) = find([tmp_path / "outputs/runs"])
    assert again.record["reused"] == ["train", "sample", "measure"]
