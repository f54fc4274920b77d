"""Configs are data: what they may name."""

import pytest
from omegaconf import OmegaConf

from bdiff.common.errors import RequestError
from bdiff.config.instantiate import foreign, make
from bdiff.config.keys import targets


def test_parts_are_made_with_their_arguments():
    assert make(OmegaConf.create({"_target_": "bdiff.trigger.box.box", "side": 14}), size=32).shape == (32, 32, 4)
    scheduler = make(OmegaConf.create({"_target_": "diffusers.DDPMScheduler"}), num_train_timesteps=7)
    assert scheduler.config.num_train_timesteps == 7


@pytest.mark.parametrize(
    "target",
    [
        "os.system", "builtins.eval", "subprocess.run", "bdiff.launch.job.subprocess.run", "bdiff.data.files.os.system",
        "bdiff.data.files.zipfile.ZipFile", "bdiff.store.artifacts.write_json", "bdiff.cli.main.main",
        "diffusers.utils.os.system",
               "bdiff.metric.fid.moments.write", "bdiff.metric.weights.find", "bdiff.data.cifar.read", "torch.load",
        "torch.optim.lr_scheduler", "torch.hub.load", "bdiff.data", "x", 7,
    ],
)  # fmt: skip
def test_nothing_else_is_made(target, tmp_path):
    config = OmegaConf.create({"_target_": target, "command": f"touch {tmp_path}/ran"})
    with pytest.raises(RequestError, match="is refused"):
        make(config)
    with pytest.raises(RequestError, match="is refused"):
        make(OmegaConf.create({"_target_": "bdiff.trigger.box.box", "side": {"deep": [config]}}), size=32)
    assert not list(tmp_path.iterdir())


def test_every_target_is_found_wherever_it_stands():
    config = OmegaConf.create({"a": {"_target_": "x", "b": [{"_target_": "y"}, {"c": {"_target_": "z"}}]}})
    assert list(targets(config)) == [("a._target_", "x"), ("a.b.0._target_", "y"), ("a.b.1.c._target_", "z")]
    assert foreign("a", None) is None
