"""What runs read and may have to download: data, checkpoints, the networks of metrics; and wandb."""

import os
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from bdiff.cli.data import name_of, names, state
from bdiff.cli.doctor.finding import MISSING, OK, WARN, Finding, fetchable
from bdiff.config.compose import jobs
from bdiff.config.options import group_options
from bdiff.config.plugins import installed
from bdiff.metric.weights import file_hash


def datasets(cache: str) -> list[Finding]:
    """Return every dataset of conf/data, looked for in the cache, and how to get missing ones."""
    found = []
    for name in names():
        (config,) = jobs([f"data={name}"], False)
        config.paths.cache = cache
        found.append(dataset(name, config))
    return found


def dataset(what: str, config: DictConfig) -> Finding:
    """Return whether the data of a request are available."""
    here = state(config)
    return Finding(what, OK, here.place) if here.place else Finding(what, MISSING, "not here", here.hint)


def weights() -> list[Finding]:
    """Return the networks that metrics use, and every published checkpoint of conf/model."""
    named = [OmegaConf.select(OmegaConf.load(file), "pretrained") for file in group_options()["model"].values()]
    (config,) = jobs(["metric/fid=inception"], False)
    return [inception(config), lpips(config), *(checkpoint(one) for one in dict.fromkeys(named) if one is not None)]


def inception(config: DictConfig) -> Finding:
    """Return the network of published FIDs."""
    from pytorch_fid.inception import FID_WEIGHTS_URL

    fid = config.metric.fid
    return file("FID's Inception", fid.weights, "metric.fid.weights", FID_WEIGHTS_URL, fid.sha256)


def lpips(config: DictConfig) -> Finding:
    """Return the network of LPIPS."""
    from torchvision.models import AlexNet_Weights

    url = AlexNet_Weights.DEFAULT.url
    sha256 = Path(url).stem.rpartition("-")[2]  # torchvision names its files by their hash
    return file("LPIPS's AlexNet", config.metric.lpips_weights, "metric.lpips_weights", url, sha256)


def file(what: str, given: str | None, key: str, url: str, sha256: str) -> Finding:
    """Return whether a network's file is present, at the user's path or in torch's hub cache, with the right hash."""
    import torch

    path = Path(given).expanduser() if given else Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not path.is_file():
        return Finding(what, MISSING, f"not at {path}", f"download {url} to that path, or set {key}= to it")
    found = file_hash(path)
    if not found.startswith(sha256):
        return Finding(what, MISSING, f"{path} has sha256 {found[:8]}..., not {sha256}...", f"download {url} again")
    return Finding(what, OK, f"{path}, sha256 {found[:8]}...")


def checkpoint(pretrained: str) -> Finding:
    """Return whether a checkpoint is present: a folder, or a hub id in huggingface's cache."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if Path(pretrained).expanduser().exists():
        return Finding(pretrained, OK, "a folder")
    try:
        folder = Path(snapshot_download(pretrained, local_files_only=True))
    except LocalEntryNotFoundError:
        folder = None
    if folder and any([*folder.rglob("*.safetensors"), *folder.rglob("*.bin")]):
        return Finding(pretrained, OK, str(folder))
    return Finding(
        pretrained,
        MISSING,
        f"not in {constants.HF_HUB_CACHE}",
        f"download {constants.ENDPOINT}/{pretrained} and set model.pretrained= to its folder",
    )


def needs(config: DictConfig) -> list[Finding]:
    """Return the external files that the run of `config` reads; missing ones may still be downloaded."""
    from huggingface_hub import constants
    from pytorch_fid.inception import FID_WEIGHTS_URL
    from torchvision.models import AlexNet_Weights

    found = [dataset(f"data={name_of(config)}", config)]
    urls = [state(config).downloads]
    if config.model.pretrained is not None:
        found.append(checkpoint(config.model.pretrained))
        urls.append(None if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT}/{config.model.pretrained}")
    if "InceptionFeatures" in str(config.metric.fid._target_):
        found.append(inception(config))
        urls.append(None if config.metric.fid.weights else FID_WEIGHTS_URL)
    if "lpips" in config.metric.also:
        found.append(lpips(config))
        urls.append(None if config.metric.lpips_weights else AlexNet_Weights.DEFAULT.url)
    return [
        fetchable(one.what, url, one.found, one.hint) if one.state == MISSING and url else one
        for one, url in zip(found, urls, strict=True)
    ]


def tracker() -> list[Finding]:
    """Return whether wandb's runs would be online."""
    import wandb

    mode = os.environ.get("WANDB_MODE")
    if mode:
        return [Finding("wandb", OK, f"mode {mode}, by WANDB_MODE")]
    if wandb.login(prompt=False, verify=False):
        return [Finding("wandb", OK, "logged in: runs with tracker=wandb go online")]
    offline = "not logged in: runs with tracker=wandb are kept in their own folders"
    return [Finding("wandb", WARN, offline, "wandb login, if they should go online")]


def plugins() -> list[Finding]:
    """Return the plugins of this environment with the options that they add, and those that cannot be used."""
    options = {one.owner.removeprefix("plugin "): [*one.files()] for one in installed().folders}
    found = [Finding(name, OK, ", ".join(names)) for name, names in options.items()]
    left_out = [Finding(name, WARN, f"left out: {line}") for name, line in installed().broken.items()]
    return [*found, *left_out] or [Finding("none", OK, "no package here has an entry point of bdiff.parts")]
