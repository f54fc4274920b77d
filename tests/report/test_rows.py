"""The rows of conf/experiment: the settings and figures of ../shared/published.json, all of them and no others."""

import json
from pathlib import Path

import pytest

from bdiff.config.compose import jobs
from bdiff.config.options import group_options

PUBLISHED = Path(__file__).parents[3] / "shared" / "published.json"
#: methods whose rows today's code can run, and the folder their rows stand in
FOLDERS = {"baddiffusion": "baddiffusion", "clipping": "clipping"}
DATA = {"celebahq256": "celebahq"}
OURS = {"fid_clean": "clean/fid"}
TRIGGERS = {"box": "box_", "stop": "stop_sign_"}

Key = tuple[str, ...]


def trigger(name: str) -> str:
    """The option of a trigger's name in published.json: stop14 is stop_sign_14; box_14 stands in for an unknown one."""
    if name == "?":
        return "box_14"
    word = name.rstrip("0123456789")
    return TRIGGERS.get(word, word) + name.removeprefix(word)


def expected() -> dict[Key, dict]:
    """What conf/experiment has to hold, by folder and settings."""
    if not PUBLISHED.exists():
        pytest.skip(f"{PUBLISHED} is not there")
    found = {}
    for row in json.loads(PUBLISHED.read_text())["rows"]:
        if not row["source"].startswith("BadDiffusion,") or row["method"] not in FOLDERS:
            continue
        for clip in (("off", "false"), ("on", "true")) if row["method"] == "clipping" else (("", "false"),):
            end = f"_{clip[0]}" if clip[0] else ""
            values = {name.removesuffix(end): value for name, value in row["values"].items() if name.endswith(end)}
            metrics = {OURS.get(name, f"suspect/{name}"): value for name, value in values.items() if value is not None}
            names, target = row["pair"].split("->")
            key = (FOLDERS[row["method"]], DATA.get(row["data"], row["data"]), trigger(names), target,
                   str(row["poison_rate"]), row["sampler"], clip[1])  # fmt: skip
            about = {name: row[name] or None for name in ("source", "where", "provenance", "fid_samples")}
            found[key] = {**about, "pair": row["pair"], "sampler": row["sampler"], "metrics": metrics}
    return found


def held() -> dict[Key, dict]:
    """What conf/experiment holds, by folder and the settings that a request composes to."""
    found = {}
    for row in group_options()["experiment"]:
        if row.partition("/")[0] not in FOLDERS.values():
            continue
        (config,) = jobs([f"experiment={row}"], multirun=False)
        chosen = config.hydra.runtime.choices
        assert (chosen.attack, chosen.train, config.data.split) in {
            ("baddiffusion", "cifar10", "all"),
            ("baddiffusion", "ddpm256", "all"),
        }
        assert config.sample.count == (config.published.fid_samples or 10_000)
        assert config.metric.fid.protocol == ("baddiffusion" if config.sample.count == 2048 else "pytorch_fid")
        key = (row.partition("/")[0], chosen.data, chosen.trigger, chosen.target, str(config.attack.poison_rate),
               f"{chosen.sampler}-{config.sample.steps}", str(config.sample.clip).lower())  # fmt: skip
        assert key not in found
        found[key] = dict(config.published)
    return found


def test_rows_of_shields_show_a_review_s_figures_in_one_row_and_none_elsewhere():
    if not PUBLISHED.exists():
        pytest.skip(f"{PUBLISHED} is not there")
    (row,) = [row for row in json.loads(PUBLISHED.read_text())["rows"] if row["method"] == "diff2"]
    about = {name: row[name] for name in ("source", "where", "provenance")}
    names = {"clean_acc": "clean/accuracy", "robust_acc": "adversarial/accuracy"}
    who = {"before": "shield_clean_model", "after": "shield"}
    figures = {}
    for name, value in row["values"].items():
        kind, _, when = name.rpartition("_")
        figures[f"{who[when]}/{names[kind]}"] = pytest.approx(value / 100)
    names = [name for name in group_options()["experiment"] if name.startswith("diff2/")]
    for name in names:
        (config,) = jobs([f"experiment={name}"], multirun=False)
        shown = dict(config.published)
        assert shown["metrics"] == (figures if name == "diff2/purification-resnet18-ddpm" else {})
        if shown["metrics"]:
            assert about.items() <= shown.items()
        chosen = config.hydra.runtime.choices
        assert shown["pair"] == ("?" if shown["metrics"] else "universal")  # the review does not say which trigger
        assert (chosen.data, chosen.attack, chosen.trigger) == ("cifar10", "diff2_cifar10", "universal")
        assert config.attack.sampler == config.defense.get("sampler", "ancestral")
        shield, _, preset = chosen.defense.partition("_")
        assert preset == "cifar10" and name.startswith(f"diff2/{shield}-{chosen.classifier}")
        if "t" in config.defense:
            assert config.defense.t in config.attack.t
        else:
            assert config.defense.sigma == config.attack.sigma
    assert len(names) == 7


def test_every_row_is_there_with_the_published_settings_and_figures():
    assert held() == expected()
