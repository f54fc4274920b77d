"""What runs on a card: everything once, and what the CPU computes too within stated tolerances.

BDIFF_TEST_DEVICE=cpu tries the tests themselves where there is no card.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toys
from omegaconf import OmegaConf
from tiny import ATTACKS, DEFENSES, OTHERS, TINY

from bdiff.adversary.pgd import mean_gradient
from bdiff.classifier.small_cnn import SmallCNN
from bdiff.common.device import open_device
from bdiff.config.compose import jobs
from bdiff.config.instantiate import make
from bdiff.config.keys import resolved
from bdiff.config.options import group_options
from bdiff.data.base import StreamedImages, batches
from bdiff.defense.shields.certification import Certification
from bdiff.defense.shields.purification import Purification, Shielded
from bdiff.diffusion.denoiser import Denoiser, Suspect
from bdiff.diffusion.history import read_history
from bdiff.diffusion.objective import denoising_loss
from bdiff.diffusion.sampling import Drawn, Sampler, sample, shards
from bdiff.diffusion.training import fit
from bdiff.metric.fid.base import Frechet
from bdiff.metric.fid.classifier import ClassifierFeatures
from bdiff.pipeline.main import resolve, run_experiment
from bdiff.pipeline.suspect import method
from bdiff.tracker.none import NoTracker

DEVICE = os.environ.get("BDIFF_TEST_DEVICE", "cuda")
SHAPE = (1, toys.SIZE, toys.SIZE)
CPU = torch.device("cpu")

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def card() -> torch.device:
    """The device, which Accelerate really gives."""
    found = open_device(DEVICE).device
    assert found.type == DEVICE
    return found


RUNS = {
    **{f"attack={name}": [f"attack={name}", *words] for name, words in ATTACKS.items()},
    **{f"defense={name}": [f"defense={name}", *words] for name, words in DEFENSES.items()},
    **OTHERS,
    "streamed by workers": ["runtime.memory=0", "runtime.workers=2", "attack.poison_rate=0.5"],
    **{f"sampler={name}": [f"sampler={name}", "sample.steps=5"] for name in group_options()["sampler"]},
}


@pytest.mark.parametrize("words", RUNS.values(), ids=RUNS)
def test_everything_runs_there(home, card, words):
    places = [f"paths.outputs={home}/outputs", f"paths.cache={home}/cache", f"runtime.device={DEVICE}"]
    (config,) = jobs([*TINY, *places, *words], False)
    own = resolved(config)
    resolve(own)
    found = run_experiment(own, NoTracker(), lambda figures: None)
    assert found["metrics"] and {made["device"] for made in found["provenance"].values()} == {found["device"]}
    assert DEVICE == "cpu" or "CPU" not in found["device"]


@pytest.mark.parametrize("sampler", group_options()["sampler"])
def test_samples_are_those_of_the_cpu(tmp_path, card, sampler):
    """In fp32, uint8: by 2 at most, a tenth on average."""
    (config,) = jobs(["schedule=digits", f"sampler={sampler}"], False)
    images = []
    for device in ("cpu", DEVICE):
        scheduler = make(config.sampler.scheduler, **toys.schedule(100).config)
        accelerator, options = open_device(device), OmegaConf.to_container(config.sampler.step)
        suspect = Suspect(toys.unet(), toys.schedule(100), SHAPE, accelerator.device)
        kinds = {"clean": Drawn(lambda eps: eps, 9)}
        sample(suspect, Sampler(scheduler, 10, options), kinds, 4, 0, tmp_path / device / "shards", accelerator)
        images.append(torch.cat([*shards(tmp_path / device / "shards", "clean")]).int())
    apart = (images[0] - images[1]).abs()
    assert apart.max() <= 2 and apart.float().mean() < 0.1


AUDITS = {
    "elijah": ["defense.steps=5"],
    "terd": ["defense.steps=5", "defense.refine_steps=2", "defense.window=10", "defense.batch=2",
             "defense.ddim_steps=2"],
    "purediffusion": ["defense.steps=5", "defense.probes=1", "defense.probe_draws=8", "defense.probe_rounds=1",
                      "defense.restarts=1", "defense.batch=2"],
}  # fmt: skip


@pytest.mark.parametrize("audit", AUDITS)
def test_inverted_triggers_are_those_of_the_cpu(card, audit):
    """In fp32, after a few steps: by 0.02 on average of a range of 2."""
    (config,) = jobs([f"defense={audit}", *AUDITS[audit]], False)
    found = [
        method(config.defense).invert(Suspect(toys.unet(), toys.schedule().to(device), SHAPE, device), seed=0).trigger
        for device in (CPU, card)
    ]
    assert (found[0] - found[1]).abs().mean() < 0.02


def shield(device: torch.device, bpda: bool = False) -> Shielded:
    torch.manual_seed(0)
    schedule, classifier = toys.schedule().to(device), SmallCNN(1, 3, 8).to(device)
    suspect = Suspect(toys.unet(), schedule, SHAPE, device, recompute=True)
    return Shielded(Purification(5, "ancestral", None, 2), suspect.eps, schedule, classifier, seed=0, bpda=bpda)


@pytest.mark.parametrize("bpda", [False, True], ids=["full gradient", "bpda"])
def test_gradients_through_purification_are_those_of_the_cpu(card, bpda):
    """Relative to their norm, by a thousandth."""
    x = torch.rand((3, *SHAPE), generator=torch.Generator().manual_seed(1)) * 2 - 1
    y, found = torch.tensor([0, 1, 2]), []
    for device in (CPU, card):
        logits = shield(device, bpda).attacked([4, 5, 6])
        found.append(mean_gradient(logits, x.to(device), y.to(device), eot=2).cpu())
    assert (found[0] - found[1]).norm() < 1e-3 * found[0].norm()


def test_purified_labels_are_those_of_the_cpu(card):
    """All but one of twelve, whose rounding may fall otherwise."""
    x = torch.rand((12, *SHAPE), generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = [shield(device).labels(x.to(device), range(12)).cpu() for device in (CPU, card)]
    assert (found[0] != found[1]).sum() <= 1


@pytest.mark.parametrize("stop", ["never", "radii"])
def test_certificates_are_those_of_the_cpu(tmp_path, card, stop):
    """Radii by 0.05: a vote in a few hundred falls otherwise."""
    x = torch.rand((4, *SHAPE), generator=torch.Generator().manual_seed(1)) * 2 - 1
    rows = []
    for device in (CPU, card):
        method = Certification(sigma=0.25, n0=50, n=400, alpha=0.01, batch_size=100, stop=stop, radii=[0.0, 0.1])
        behind = shield(device)
        logits = method.behind(behind.eps, behind.schedule, behind.classifier)
        y = logits(x.to(device)).argmax(1).cpu()
        path = tmp_path / f"{device.type}{len(rows)}.tsv"
        rows.append(method.run(logits, x.to(device), y, torch.arange(4), path, seed=0))
    for one, other in zip(*rows, strict=True):
        assert one.predict == other.predict or min(one.radius, other.radius) == 0
        assert one.radius == pytest.approx(other.radius, abs=0.05)


def test_the_frechet_distance_is_that_of_the_cpu(card):
    """Relative, by a ten-thousandth."""
    real, fake = (torch.randint(256, (80, *SHAPE), generator=torch.Generator().manual_seed(k)).byte() for k in (0, 1))
    values = []
    for device in (CPU, card):
        torch.manual_seed(0)
        frechet = Frechet(ClassifierFeatures(SmallCNN(1, 3, 8), {}).to(device), device)
        frechet.feed([real], real=True)
        frechet.feed([fake[:30], fake[30:] // 2], real=False)
        values.append(frechet.value())
    assert values[1] == pytest.approx(values[0], rel=1e-4)


def trained(folder: Path, device: str, **options):
    """A toy model trained on `device`, and its losses."""
    accelerator, images, attack = open_device(device), toys.images(), toys.attack()
    index, poisoned = attack.rows(images.labels, 0)
    attack.to(accelerator.device)
    schedule = toys.schedule().to(accelerator.device)
    loss = denoising_loss(attack.poison, schedule, poisoned.to(accelerator.device), flip=True)
    session = toys.session(folder, options.pop("loop", toys.LOOP), accelerator)
    denoiser = Denoiser(toys.unet(), schedule, SHAPE, accelerator.device)
    train_config = options.pop("train_config", toys.train_config(steps=200))
    model = fit(denoiser, loss, images.to(accelerator.device), index, train_config, 3, session, **options)
    assert next(model.parameters()).device.type == device
    return [row["loss"] for row in read_history(folder / "history.jsonl")]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_lowers_the_loss(tmp_path, card, precision, compiled):
    if compiled and DEVICE == "cpu":
        pytest.skip("on a CPU the compiler takes minutes")
    loop = toys.LOOP.__class__(**vars(toys.LOOP) | {"compile": compiled, "checkpoint_seconds": 1e9})
    losses = trained(tmp_path, DEVICE, train_config=toys.train_config(steps=200, precision=precision), loop=loop)
    assert len(losses) == 200 and sum(losses[-20:]) < 0.8 * sum(losses[:20])


def test_by_cuda_graphs_an_output_outlives_the_calls_that_follow(card):
    """Their memory is one for all calls, so what a caller has kept must be a copy."""
    if DEVICE == "cpu":
        pytest.skip("there are no CUDA graphs on a CPU")
    suspect = Suspect(toys.unet(), toys.schedule(), SHAPE, card)
    suspect.engine.compile(4)
    x = [torch.randn((4, *SHAPE), generator=torch.Generator().manual_seed(k)).to(card) for k in range(4)]
    with torch.inference_mode():
        for one in x:  # a graph is recorded at one of the first calls
            suspect.eps(one, 5)
        outputs = [suspect.eps(one, 5) for one in x]
        expected = [Suspect(toys.unet(), toys.schedule(), SHAPE, card).eps(one, 5) for one in x]
    assert suspect.engine.batch == 4 and suspect.engine.failure is None
    for found, eager in zip(outputs, expected, strict=True):
        torch.testing.assert_close(found, eager, rtol=1e-3, atol=1e-3)


KILLED = """
import os, signal, sys
sys.path[:0] = [sys.argv[2], sys.argv[3]]
from pathlib import Path
import torch
from test_card import trained, toys
save = torch.save
def dying(parts, path):
    save(parts, path)
    if parts["step"] == 8:
        os.kill(os.getpid(), signal.SIGKILL)
torch.save = dying
trained(Path(sys.argv[1]), os.environ.get("BDIFF_TEST_DEVICE", "cuda"), train_config=toys.train_config(steps=12))
"""


def test_a_killed_training_goes_on_where_its_last_checkpoint_was(tmp_path, card):
    here = Path(__file__).parent
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "killed", here, here.parent])
    assert killed.returncode == -signal.SIGKILL
    newest = max((tmp_path / "killed" / "state").glob("*.pt"))
    assert newest.stem == f"{7:08d}" and torch.load(newest, map_location=DEVICE, weights_only=True)["step"] == 7
    losses = trained(tmp_path / "killed", DEVICE, train_config=toys.train_config(steps=12))
    whole = trained(tmp_path / "whole", DEVICE, train_config=toys.train_config(steps=12))
    assert losses == pytest.approx(whole, rel=1e-4 if DEVICE == "cuda" else 0)


class Numbers:
    """A source whose picture `row` is all of the shade `row`."""

    def pixels(self, row: int, size: int, channels: int):
        return torch.full((channels, size, size), row, dtype=torch.uint8).numpy()


def test_streamed_images_come_by_pinned_memory(card):
    images = StreamedImages(
        name="n", split="train", classes=("a",), labels=torch.zeros(40, dtype=torch.long), shape=(3, 8, 8), flip=False,
        fingerprint="n", source=Numbers(), rows=torch.arange(40).numpy(),
    )  # fmt: skip
    expected = torch.randperm(40, generator=torch.Generator().manual_seed(0)).split(8)
    for rows, batch in zip(expected, batches(images, iter(expected), card, workers=2), strict=True):
        assert batch.device.type == DEVICE and torch.equal(batch[:, 0, 0, 0].cpu().long(), rows)
