"""Every classifier under conf/ takes images and gives logits; known networks have as many weights as they should."""

import sys
from pathlib import Path

import pytest
import torch
import toys
from hydra import compose, initialize_config_module
from safetensors.torch import load_model, save_file, save_model
from torch import nn

from bdiff.classifier.base import accuracy
from bdiff.classifier.resnet18 import ResNet18
from bdiff.classifier.small_cnn import SmallCNN
from bdiff.classifier.weights import load_weights
from bdiff.classifier.wrn28_10 import Block, WideResNet
from bdiff.cli import main as cli
from bdiff.common.errors import RequestError, RunError
from bdiff.config.compose import jobs
from bdiff.config.instantiate import make
from bdiff.config.options import PACKAGE
from bdiff.config.validate import value_problem
from bdiff.diffusion.classification import classification_loss
from bdiff.diffusion.training import OPTIMIZERS, TrainConfig, fit
from bdiff.pipeline.classifier import build_classifier, train_classifier
from bdiff.pipeline.experiment import build_experiment
from bdiff.tracker.none import NoTracker

OPTIONS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "classifier").glob("*.yaml"))


def option(name: str):
    """The config of a classifier that needs no network."""
    with initialize_config_module(PACKAGE, version_base="1.3"):
        config = compose("config", [f"classifier={name}", "name=test"]).classifier
    if name == "timm":
        pytest.importorskip("timm", reason="timm is not installed")
        config.model.pretrained = False
    return config


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_classifier_gives_logits_from_the_features_before_its_head(name, channels):
    torch.manual_seed(0)
    model = make(option(name).model, channels=channels, classes=7).eval()
    x = (torch.rand(2, channels, 16, 16) * 2 - 1).requires_grad_()
    features = model.features(x)
    logits = model(x)
    assert features.shape == (2, model.num_features)
    assert logits.shape == (2, 7)
    torch.testing.assert_close(model.head(features), logits)
    assert model.head.in_features == model.num_features
    (slope,) = torch.autograd.grad(logits[:, 0].sum(), x)
    assert slope.abs().max() > 0
    assert not torch.isclose(logits[0], logits[1]).all()


@pytest.mark.parametrize("name", OPTIONS)
def test_a_classifier_survives_its_file(tmp_path, name):
    config = option(name)
    first = make(config.model, channels=1, classes=3).eval()
    save_model(first, str(tmp_path / "model.safetensors"))
    second = make(config.model, channels=1, classes=3).eval()
    load_model(second, tmp_path / "model.safetensors")
    x = torch.rand(2, 1, 16, 16)
    torch.testing.assert_close(first(x), second(x))


@pytest.mark.parametrize("name", OPTIONS)
def test_a_train_config_is_one_that_the_loop_knows(name):
    config = option(name)
    train_config = TrainConfig(**config.train)
    assert train_config.optimizer in OPTIMIZERS
    assert train_config.steps or train_config.epochs
    for key in ("val_fraction", "train.optimizer", "train.lr"):
        assert value_problem(f"classifier.{key}", full(name), full("small_cnn")) is None


def full(name: str):
    """The whole config with a classifier."""
    with initialize_config_module(PACKAGE, version_base="1.3"):
        return compose("config", [f"classifier={name}", "name=test"])


def weights(model: nn.Module) -> int:
    """How many weights a model has."""
    return sum(weight.numel() for weight in model.parameters())


def test_the_known_networks_have_the_weights_they_are_known_for():
    with torch.device("meta"):
        assert weights(WideResNet(3, 10, depth=28, width=10)) == 36_479_194  # 36.5 M in the paper
        assert weights(WideResNet(3, 10, depth=40, width=4)) == pytest.approx(8.9e6, rel=0.01)  # likewise
        assert weights(ResNet18(3, 10)) == 11_173_962


@pytest.mark.parametrize(
    ("model", "channels", "side"), [("resnet18", 512, 4), ("wrn28_10", 640, 8), ("wrn10_2", 128, 8)]
)
def test_images_of_32_px_are_halved_as_often_as_for_cifar(model, channels, side):
    with torch.device("meta"):
        network = make(option(model).model, channels=3, classes=10)
        pooling = next(part for part in network.modules() if isinstance(part, nn.AdaptiveAvgPool2d))
        shapes = []
        pooling.register_forward_hook(lambda part, given, out: shapes.append(given[0].shape))
        network(torch.rand(2, 3, 32, 32))
    assert shapes == [(2, channels, side, side)]


def test_a_wide_block_without_convolutions_gives_its_input_back():
    block = Block(4, 4, stride=1).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(block(x), x)
    assert Block(4, 8, stride=2)(x).shape == (2, 8, 3, 3)


def test_sgd_learns(tmp_path):
    """Two classes that differ in brightness, learned by a thin residual network in a few steps."""
    images = toys.images(40)
    images.pixels[images.labels == 1] //= 4
    torch.manual_seed(0)
    model = WideResNet(1, 2, depth=10, width=1)
    train_config = toys.train_config(
        steps=20, batch_size=20, optimizer="sgd", lr=0.05, weight_decay=5e-4, ema=None, clip_norm=None
    )
    loss = classification_loss(images.labels, label_smoothing=0.1, flip=True, padding=1)
    fit(model, loss, images, torch.arange(40), train_config, 0, toys.session(tmp_path))
    assert accuracy(model, images, torch.arange(40), torch.device("cpu")) > 0.9


def test_sgd_takes_nesterovs_step():
    """Two steps by hand under a constant gradient g: v = g, then 0.9 v + g; each step moves by g + 0.9 v."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = OPTIMIZERS["sgd"]([weight], lr=0.1, weight_decay=0.0)
    for _ in range(2):
        weight.grad = torch.ones(1)
        optimizer.step()
    assert weight.item() == pytest.approx(-0.1 * (1 + 0.9 * 1) - 0.1 * (1 + 0.9 * 1.9))


def classified(folder: Path, *overrides: str, name: str = "classifier"):
    """The classifier of a run on a few digits, and what is known of it."""
    words = [
        "data.limit=60",
        f"paths.outputs={folder}",
        "runtime.device=cpu",
        "classifier.train.batch_size=20",
        "name=test",
    ]
    (config,) = jobs([*words, *overrides], multirun=False)
    run = build_experiment(config, NoTracker())
    return train_classifier(run.stages, run.images, config.classifier, name)


def test_a_run_takes_its_classifier_from_a_file(tmp_path):
    trained, facts = classified(tmp_path / "first", "classifier.train.steps=8")
    (file,) = (tmp_path / "first").rglob("model.safetensors")
    given, known = classified(tmp_path / "second", f"classifier.weights={file}")
    assert known["accuracy"] == facts["accuracy"]
    assert known["key"] != facts["key"]
    for name, tensor in trained.state_dict().items():
        assert torch.equal(tensor, given.state_dict()[name])
    moved = file.rename(tmp_path / "elsewhere.safetensors")
    assert classified(tmp_path / "second", f"classifier.weights={moved}")[1] == known
    with pytest.raises(RequestError, match="does not hold the weights of this SmallCNN"):
        classified(tmp_path / "third", f"classifier.weights={moved}", "classifier.model.width=16")


def test_a_failed_training_names_its_settings_whatever_the_record_calls_it(tmp_path):
    with pytest.raises(RunError, match=r"^class_judge: .* Lower classifier\.train\.lr"):
        classified(tmp_path, "classifier.train.steps=8", "classifier.train.lr=1e30", name="class_judge")


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pt"])
def test_weights_come_from_a_file(tmp_path, file):
    torch.manual_seed(0)
    first, second = (WideResNet(1, 3, depth=10, width=1).eval() for _ in range(2))
    save = save_file if file.endswith("safetensors") else torch.save
    save(first.state_dict(), tmp_path / file)
    load_weights(second, str(tmp_path / file), "classifier.weights")
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(first(x), second(x))


def test_weights_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(WideResNet(1, 4, depth=10, width=1).state_dict(), path)
    model = WideResNet(1, 3, depth=10, width=1)
    with pytest.raises(
        RequestError, match=r"^classifier.weights=.* does not hold the weights of this WideResNet \("
    ) as message:
        load_weights(model, str(path), "classifier.weights")
    assert len(message.value.problems) == 1
    assert "\n" not in str(message.value)
    assert "size mismatch" in str(message.value)


class Trap:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return print, ("sprung",)


def test_missing_damaged_and_dangerous_files_are_refused(tmp_path, capsys):
    model = nn.Linear(2, 2)
    with pytest.raises(RequestError, match=r"classifier.weights=/nowhere/x.pt does not exist"):
        load_weights(model, "/nowhere/x.pt", "classifier.weights")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0")
    with pytest.raises(RequestError, match=r"cut.safetensors does not hold the weights of this Linear"):
        load_weights(model, str(tmp_path / "cut.safetensors"), "classifier.weights")
    torch.save({"weight": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(RequestError, match=r"trap.pt is not unpickled, as it does not hold only tensors"):
        load_weights(model, str(tmp_path / "trap.pt"), "classifier.weights")
    assert "sprung" not in capsys.readouterr().out


def test_without_timm_the_error_says_how_to_get_it(monkeypatch):
    from bdiff.classifier.timm import Timm

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RequestError, match=r"pip install 'bdiff\[classifiers\]'"):
        Timm(3, 10, name="resnet18", pretrained=False, path=None, size=None)
    config = full("timm").classifier
    with pytest.raises(RequestError, match=r"^surrogate\.model\.name=.* needs timm"):
        build_classifier(toys.images(), config, "surrogate")


def test_timm_gets_images_as_its_model_was_trained_with_and_weights_from_a_file(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    from bdiff.classifier.timm import Timm

    theirs = timm.create_model("resnet18", num_classes=5).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    ours = Timm(3, 5, name="resnet18", pretrained=False, path=str(tmp_path / "theirs.pt"), size=32).eval()
    x = torch.rand(2, 3, 32, 32)
    cfg = theirs.pretrained_cfg
    mean, std = (torch.tensor(cfg[part]).view(3, 1, 1) for part in ("mean", "std"))
    torch.testing.assert_close(ours(2 * x - 1), theirs((x - mean) / std))
    grey = Timm(1, 5, name="resnet18", pretrained=False, path=str(tmp_path / "theirs.pt"), size=None).eval()
    x = torch.rand(1, 1, 16, 16) * 0 + 0.3
    torch.testing.assert_close(grey(2 * x - 1), theirs((0.3 - mean) / std * torch.ones(1, 3, 224, 224)))
    with pytest.raises(RequestError, match=r"classifier.model.name=no_such cannot be loaded from timm"):
        Timm(3, 5, name="no_such", pretrained=False, path=None, size=None)


def small(*prefixes: str) -> dict[str, torch.Tensor]:
    """Return weights of the digits' SmallCNN with prefixes before their names."""
    return {"".join(prefixes) + name: weight for name, weight in SmallCNN(1, 10, 32).state_dict().items()}


@pytest.mark.parametrize(
    "held",
    [
        small("module."),
        small("_orig_mod.", "module."),
        {"state_dict": small(), "epoch": 3},
        {"model": small("module."), "optimizer": {"lr": 0.1}},
    ],
    ids=["a prefix", "two prefixes", "an outer key", "a prefix in an outer key"],
)
def test_what_is_around_the_weights_is_taken_off_and_reported(held, tmp_path, caplog):
    caplog.set_level("INFO")
    torch.save(held, tmp_path / "weights.pt")
    model = SmallCNN(1, 10, 32)
    load_weights(model, str(tmp_path / "weights.pt"), "classifier.weights")
    inner = held.get("state_dict") or held.get("model") or held
    assert torch.equal(model.head.bias, next(weight for name, weight in inner.items() if name.endswith("head.bias")))
    assert "names read without" in caplog.text


def test_names_that_only_look_wrapped_stay(tmp_path):
    model = nn.Sequential()
    model.add_module("model", nn.Linear(2, 2))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    load_weights(model, str(tmp_path / "weights.pt"), "classifier.weights")


@pytest.mark.parametrize("name", ["classifier", "surrogate"])
@pytest.mark.parametrize("content", [[1, 2], {"head.bias": torch.zeros(3)}, torch.zeros(2)])
def test_weights_that_do_not_fit_are_reported_before_anything_is_trained(name, content, tmp_path, capsys):
    torch.save(content, tmp_path / "weights.pt")
    words = [f"{name}.weights={tmp_path}/weights.pt", *(["classifier@surrogate=small_cnn"] * (name == "surrogate"))]
    places = [f"paths.outputs={tmp_path}/out", f"paths.cache={tmp_path}/cache", f"hydra.run.dir={tmp_path}/run"]
    assert cli.command(["run", *words, *places, "runtime.device=cpu"]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("bdiff: "))
    assert f"{name}.weights={tmp_path}/weights.pt does not hold the weights of this SmallCNN" in line
    assert not (tmp_path / "out" / "train").exists()
