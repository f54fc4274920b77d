"""A training's steps: compiled, in pieces and after a failure of the compiler they train what eager whole ones do."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toys
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torchvision.ops import StochasticDepth
from toys import Killed, weights

from bdiff.attack.baddiffusion import BadDiffusion
from bdiff.attack.base import Parts
from bdiff.attack.diff2 import DIFF2
from bdiff.attack.diff2_poisoning import DIFF2Poisoning
from bdiff.attack.shield import ShieldAttack
from bdiff.classifier.small_cnn import SmallCNN
from bdiff.defense.removal.anp import Perturbed
from bdiff.diffusion import step as steps
from bdiff.diffusion.average import Average
from bdiff.diffusion.batch import Batch
from bdiff.diffusion.classification import classification_loss
from bdiff.diffusion.denoiser import Denoiser
from bdiff.diffusion.history import read_history
from bdiff.diffusion.mode import Mode
from bdiff.diffusion.objective import Draw, Noised, Rows, clean, denoising_loss
from bdiff.diffusion.schedule import Schedule
from bdiff.diffusion.step import unchanging
from bdiff.diffusion.training import fit
from bdiff.trigger.base import Trigger
from bdiff.trigger.universal import universal

pytestmark = pytest.mark.usefixtures("kernels")

STEPS = 5
LOOP = replace(toys.LOOP, compile=True)


class Tiny(nn.Module):
    """A network of two layers, called as diffusers' are, which compiles in seconds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.conv_out = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        return (self.conv_out(nn.functional.silu(self.norm(self.first(x)) + t[:, None, None, None] / 20)),)


Tiny.__module__ = "torch.tiny"  # a layer that is known, as `unchanging` has it


def denoiser() -> Denoiser:
    return Denoiser(Tiny(), toys.schedule(), (1, 8, 8))


def prepared(kind: type[ShieldAttack], *settings) -> ShieldAttack:
    """An attack on shields after what it computes before training."""
    attack = kind(Trigger.from_picture(universal(8, cell=1, seed=0), 1), toys.attack().target, 0.5, "append", *settings)
    images = toys.images()
    torch.manual_seed(0)
    attack.prepare(Parts(toys.schedule(), SmallCNN(1, 2, 4)))
    attack.prepare_rows(images, attack.rows(images.labels, 0))
    return attack


def diff2() -> ShieldAttack:
    """DIFF2 with adversarial images made before training."""
    return prepared(DIFF2, "redirect", "both", 0.15, [3], "ancestral", 0.25, 16 / 255, 2, 0)


def poisoning() -> ShieldAttack:
    """Poisoned images alone, their perturbation found before training."""
    return prepared(DIFF2Poisoning, 0.1, 0.1, 3)


def asking(schedule: Schedule, rows: Rows, draw: Draw) -> Noised:
    """Poison as a plugin may have it: clean, and with a question that no compiler can answer."""
    found = clean(schedule, rows, draw)
    return found._replace(answer=found.answer + (0.0 if found.t.sum().item() >= 0 else 1.0))


def trained(
    folder: Path, attack=None, poison=None, loop=LOOP, record=lambda row: None, companion=None, **recipe
) -> Tensor:
    """The weights of a tiny denoiser after a few steps."""
    attack, images = attack or toys.attack(), toys.images()
    index, poisoned = attack.rows(images.labels, 0)
    loss = denoising_loss(poison or attack.poison, toys.schedule(), poisoned, flip=True)
    session = replace(toys.session(folder, loop), record=record)
    config = toys.train_config(steps=STEPS, **recipe)
    return weights(fit(denoiser(), loss, images, index, config, 3, session, companion))


def near(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool((found - expected).norm() <= tolerance * expected.norm())


ROWS = [
    pytest.param(toys.attack, "fp32", "compiled", 1e-5, id="baddiffusion-compiled"),
    pytest.param(toys.attack, "bf16", "compiled", 1e-2, id="baddiffusion-bf16-compiled", marks=pytest.mark.slow),
    pytest.param(toys.attack, "fp32", "compiled in pieces", 1e-5, id="baddiffusion-pieces", marks=pytest.mark.slow),
    pytest.param(toys.attack, "fp32", "in pieces", 1e-5, id="baddiffusion-eager-pieces"),
    pytest.param(diff2, "fp32", "compiled", 1e-5, id="diff2-compiled", marks=pytest.mark.slow),
    pytest.param(poisoning, "fp32", "compiled", 1e-5, id="diff2-poisoning-compiled", marks=pytest.mark.slow),
    pytest.param(diff2, "fp32", "in pieces", 1e-5, id="diff2-eager-pieces"),
]
MODES = {
    "compiled": LOOP,
    "compiled in pieces": replace(LOOP, micro_batch=2),
    "in pieces": replace(toys.LOOP, micro_batch=4),
}


@pytest.mark.parametrize(("make", "precision", "mode", "tolerance"), ROWS)
def test_every_mode_trains_what_eager_mode_does(tmp_path, make, precision, mode, tolerance):
    expected = trained(tmp_path / "eager", make(), loop=toys.LOOP, precision=precision)
    found = trained(tmp_path / "other", make(), loop=MODES[mode], precision=precision)
    assert near(found, expected, tolerance)
    kept = Mode.kept(tmp_path / "other", "train")
    assert kept is not None and kept.compiled == mode.startswith("compiled") and "failed" not in kept.reason
    rows = [read_history(tmp_path / name / "history.jsonl") for name in ("eager", "other")]
    for one, other in zip(*rows, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=max(tolerance, 1e-4))


class Darkening(BadDiffusion):
    """An attack that learns its trigger with the model."""

    learns_with_model = True

    def update(self, denoiser, draw):
        self.replace_pattern(self.trigger.pattern - torch.rand((), generator=draw))


def test_a_compiled_step_sees_the_trigger_as_it_is_learned_and_is_compiled_once(tmp_path):
    fixed = toys.attack()
    found = [trained(tmp_path / "fixed", fixed, loop=toys.LOOP)]
    for name, loop in (("eager", toys.LOOP), ("compiled", LOOP)):
        attack = Darkening(fixed.trigger, fixed.target, fixed.poison_rate, "replace")
        torch._dynamo.utils.counters.clear()
        found.append(trained(tmp_path / name, attack, loop=loop, companion=attack))
        assert not torch.equal(attack.trigger.pattern, fixed.trigger.pattern)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert near(found[2], found[1], 1e-5) and not near(found[2], found[0], 1e-4)


def test_a_killed_compiled_training_ends_with_the_same_bits(tmp_path):
    def killing(row):
        if row["step"] == 4:
            raise Killed

    with pytest.raises(Killed):
        trained(tmp_path / "killed", record=killing)
    kept = Mode.kept(tmp_path / "killed", "train")
    resumed = trained(tmp_path / "killed", loop=replace(LOOP, compile="auto"))  # goes on as it began, for any setting
    assert torch.equal(resumed, trained(tmp_path / "whole")) and Mode.kept(tmp_path / "killed", "train") == kept


WORKER = """
import sys, torch, toys
from pathlib import Path
from test_step import LOOP, trained
trained(Path(sys.argv[1]), loop=LOOP, lr=1e-4)
"""


@pytest.mark.slow
def test_two_processes_train_compiled_what_one_does(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--rdzv-backend=c10d",
         "--rdzv-endpoint=localhost:0", str(tmp_path / "worker.py"), str(tmp_path / "two")],
        check=True, env=environment, capture_output=True, timeout=900,
    )  # fmt: skip
    kept = Mode.kept(tmp_path / "two", "train")
    assert kept is not None and kept.compiled and "failed" not in kept.reason
    two = torch.load(max((tmp_path / "two" / "state").glob("*.pt")), weights_only=True)["ema"]["shadow_params"]
    alone = trained(tmp_path / "one", loop=toys.LOOP, lr=1e-4)
    assert near(torch.cat([one.flatten() for one in two]), alone, 1e-4)


def failing(*_: object, **__: object) -> Callable[..., Tensor]:
    def call(*_: object) -> Tensor:
        raise torch._dynamo.exc.InternalTorchDynamoError("no compiler here\nand more")

    return call


@pytest.mark.parametrize("when", ["before", "in the middle"])
def test_without_a_compiler_training_goes_on_in_eager_mode(tmp_path, monkeypatch, caplog, when):
    expected = trained(tmp_path / "eager", loop=toys.LOOP)
    if when == "in the middle":  # as where a training is taken up by a machine that has no compiler
        Mode(True, "as it began", 6).keep(tmp_path / "other", "train")
    monkeypatch.setattr(steps, "compiled", failing)
    monkeypatch.setattr(steps.torch, "compile", failing)
    with caplog.at_level(logging.WARNING):
        found = trained(tmp_path / "other")
    assert torch.equal(found, expected)
    kept = Mode.kept(tmp_path / "other", "train")
    assert kept is not None and not kept.compiled and "no compiler here; going on in eager mode" in kept.reason
    assert "InternalTorchDynamoError: no compiler here" in caplog.text


def test_where_the_loss_cannot_be_compiled_the_network_is(tmp_path, caplog):
    expected = trained(tmp_path / "eager", poison=asking, loop=toys.LOOP)
    with caplog.at_level(logging.WARNING):
        found = trained(tmp_path / "other", poison=asking)
    assert near(found, expected, 1e-5) and "compiling the network alone" in caplog.text
    kept = Mode.kept(tmp_path / "other", "train")
    assert kept is not None and kept.compiled and "the network alone" in kept.reason


def test_an_error_of_the_loss_is_no_failure_of_the_compiler(tmp_path):
    def wrong(schedule: Schedule, rows: Rows, draw: Draw) -> Noised:
        raise KeyError("of the plugin")

    with pytest.raises(KeyError, match="of the plugin"):
        trained(tmp_path, poison=wrong)


def test_auto_leaves_short_trainings_eager_and_measures_longer_ones(tmp_path):
    loop = replace(toys.LOOP, compile="auto", checkpoint_seconds=3600.0)
    assert torch.equal(trained(tmp_path / "short", loop=loop), trained(tmp_path / "eager", loop=toys.LOOP))
    assert "pay for no compiling" in str(Mode.kept(tmp_path / "short", "train"))
    images, loss = toys.images(), denoising_loss(clean, toys.schedule(), None, flip=False)
    found = []
    for compile in (False, "auto"):
        session = toys.session(tmp_path / f"{compile}", replace(loop, compile=compile))
        found.append(weights(fit(denoiser(), loss, images, torch.arange(20), toys.train_config(steps=50), 0, session)))
    assert torch.equal(*found)
    assert "compiling takes about 200 s" in str(Mode.kept(tmp_path / "auto", "train"))


def test_what_compiling_was_tried_on_leaves_no_statistics_behind(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    loss = classification_loss(toys.images().labels, 0.1, True, 1)
    found = []
    for compile in (False, "auto"):
        torch.manual_seed(0)
        for part in model:
            part.reset_parameters() if hasattr(part, "reset_parameters") else None
        session = toys.session(tmp_path / f"{compile}", replace(toys.LOOP, compile=compile, checkpoint_seconds=3600.0))
        fit(model, loss, toys.images(), torch.arange(20), toys.train_config(steps=45), 0, session)
        found.append(torch.cat([value.flatten().float() for value in model.state_dict().values()]))
    assert torch.equal(*found) and "s of work" in str(Mode.kept(tmp_path / "auto", "train"))


def test_pieces_have_the_draws_of_the_whole_batch():
    pixels = torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1)
    batch = Batch(pixels, torch.arange(7), slice(2, 9), 12)
    torch.manual_seed(1)
    whole, parts = batch.draw(torch.randn, 3), []
    pieces = batch.pieces(3)
    assert [len(piece.rows) for piece in pieces] == [3, 2, 2]
    for piece in pieces:
        torch.manual_seed(1)
        parts.append(piece.draw(torch.randn, 3))
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(torch.cat([piece.pixels for piece in pieces]), pixels)
    assert batch.pieces(None) == batch.pieces(7) == [batch]


def test_what_differs_between_training_and_evaluation_is_seen():
    dropout = UNet2DModel(sample_size=8, block_out_channels=(32, 32), down_block_types=("DownBlock2D",) * 2,
                          up_block_types=("UpBlock2D",) * 2, dropout=0.1)  # fmt: skip
    assert unchanging(toys.denoiser()) and unchanging(Perturbed(toys.denoiser(), 0.1))
    assert not unchanging(dropout) and not unchanging(nn.BatchNorm2d(3)) and not unchanging(StochasticDepth(0.1, "row"))


@pytest.mark.parametrize("decay", [0.3, 0.9999])
def test_the_average_has_the_bits_and_the_state_of_diffusers(decay):
    torch.manual_seed(0)
    model = [nn.Parameter(torch.randn(count)) for count in (1, 17, 1001)] + [nn.Parameter(torch.randn(3), False)]
    theirs, ours = EMAModel(model, decay=decay, foreach=True), Average(model, decay)
    for step in range(30):
        with torch.no_grad():
            for weight in model:
                weight += torch.randn_like(weight) * weight.requires_grad
        if step == 15:  # as checkpoints of before have it
            ours = Average(model, decay)
            ours.load_state_dict(theirs.state_dict())
        for one in (theirs, ours):
            one.step(model)
        assert all(map(torch.equal, ours.average, theirs.shadow_params))


@pytest.mark.slow
def test_a_perturbed_denoiser_trains_compiled_too(tmp_path):
    """ANP's: hooks that perturb, and a clamp of the weights within the loss."""
    found = []
    for loop in (toys.LOOP, LOOP):
        perturbed, ordinary = Perturbed(denoiser(), 0.05), denoising_loss(clean, toys.schedule(), None, flip=False)

        def ascent(net, batch, perturbed=perturbed, ordinary=ordinary):
            perturbed.project()
            return -ordinary(net, batch)

        session = toys.session(tmp_path / f"{loop.compile}", loop)
        fit(perturbed, ascent, toys.images(), torch.arange(20), toys.train_config(steps=STEPS, lr=0.02), 0, session)
        found.append(perturbed.change.detach().clone())
    assert near(found[1], found[0], 1e-4) and found[0].abs().max() > 0.04
    kept = Mode.kept(tmp_path / "True", "train")
    assert kept is not None and kept.compiled and "the network alone" not in kept.reason
