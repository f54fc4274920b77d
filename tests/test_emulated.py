"""Whole tiny runs on an emulated card: nothing that CUDA refuses, and nothing that the host waits for in a loop."""

from dataclasses import replace

import pytest
import torch
import toys
from diffusers import DDPMScheduler
from emulated import CARD, Card, Refused, accelerator, on_card, tag
from omegaconf import OmegaConf
from tiny import ATTACKS, DEFENSES, OTHERS, PRESETS, TINY

from bdiff.adversary.pgd import mean_gradient
from bdiff.attack.base import Parts
from bdiff.attack.diff2 import DIFF2
from bdiff.classifier.small_cnn import SmallCNN
from bdiff.common.device import Late, to_device
from bdiff.common.seeds import generator
from bdiff.config.compose import jobs
from bdiff.config.instantiate import make
from bdiff.config.keys import resolved
from bdiff.config.options import group_options
from bdiff.data.base import to_float
from bdiff.defense.detection.curve import STEPS
from bdiff.defense.detection.probe import probe
from bdiff.defense.shields.certification import Certification
from bdiff.defense.shields.purification import Purification, Shielded
from bdiff.diffusion.denoiser import Denoiser, Suspect
from bdiff.diffusion.objective import denoising_loss
from bdiff.diffusion.sampling import Drawn, Sampler, denoise, noise_of, sample, shards
from bdiff.diffusion.training import fit
from bdiff.diffusion.view import AffineView, View
from bdiff.pipeline import stages
from bdiff.pipeline.main import run_experiment
from bdiff.pipeline.suspect import method
from bdiff.tracker.none import NoTracker
from bdiff.trigger.base import Trigger
from bdiff.trigger.universal import universal


def carried_out(monkeypatch, folder, *words: str, card: Card) -> dict:
    """The record of one tiny run on `card`."""
    (config,) = jobs([*TINY, f"paths.outputs={folder}/outputs", f"paths.cache={folder}/cache", *words], False)
    monkeypatch.setattr(stages, "open_device", lambda name: accelerator())
    with card:
        return run_experiment(resolved(config), NoTracker(), lambda figures: None)


def test_every_attack_defense_and_sampler_is_tried():
    options = group_options()
    assert {*options["attack"]} - PRESETS == {*ATTACKS}
    assert {*options["defense"]} - PRESETS == {*DEFENSES}
    assert {*options["sampler"]} == {*WAITS}


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_runs_on_the_card(monkeypatch, home, attack):
    found = carried_out(monkeypatch, home, f"attack={attack}", *ATTACKS[attack], card=Card())
    assert found["device"] == "emulated card" and found["metrics"]


@pytest.mark.parametrize(
    "defense",
    [pytest.param(one, marks=pytest.mark.slow if one == "purification" else ()) for one in DEFENSES if one != "none"],
)
def test_every_defense_runs_on_the_card(monkeypatch, home, defense):
    found = carried_out(monkeypatch, home, f"defense={defense}", *DEFENSES[defense], card=Card())
    assert any(not name.startswith("suspect/") for name in found["metrics"])


@pytest.mark.parametrize("what", OTHERS)
def test_other_runs_on_the_card(monkeypatch, home, what):
    assert carried_out(monkeypatch, home, *OTHERS[what], card=Card())["metrics"]


def marginal(few: int, many: int, work) -> tuple[float, float]:
    """Host waits, and those of a solver's own algebra, for each of the units by which `work(many)` does more.

    `work(card, units)` is carried out on a card, and returns what it counted before it began.
    """
    counts = {}
    for units in (few, many):
        with Card() as card:
            before = work(card, units)
            counts[units] = card.total - before[0], card.algebra.total() - before[1]
        print(units, dict(card.waits), dict(card.algebra))  # shown where a number is not as pinned
    return tuple((counts[many][k] - counts[few][k]) / (many - few) for k in (0, 1))


def counted(card: Card) -> tuple[int, int]:
    return card.total, card.algebra.total()


#: of each sampler the host waits of a step, and those of the solver's own linear algebra
WAITS = {
    "ddpm": (0, 0), "ddim": (0, 0), "pndm": (0, 0), "euler_ancestral": (0, 0), "heun": (0, 0),
    "dpm_solver": (0, 0), "deis": (0, 0), "unipc": (0, 7),
}  # fmt: skip


@pytest.mark.parametrize("sampler", WAITS)
def test_host_waits_of_a_sampler_step(sampler):
    (config,) = jobs(["schedule=digits", f"sampler={sampler}"], False)
    options = OmegaConf.to_container(config.sampler.step)

    def work(card, steps):
        scheduler = make(config.sampler.scheduler, **toys.schedule(100).config)
        net, noise = Suspect(toys.unet(), toys.schedule(100), (1, 8, 8), CARD), noise_of((1, 8, 8), 0, range(3), CARD)
        x, before = next(noise), counted(card)
        denoise(View(net), Sampler(scheduler, steps, options), x, noise.__next__)
        return before

    assert marginal(8, 24, work) == WAITS[sampler]


def test_samples_in_noise_that_an_inverted_scale_changes_are_clipped_on_the_card():
    """An inverted trigger and its scale are kept on the CPU."""
    with Card():
        net, noise = Suspect(toys.unet(), toys.schedule(), (1, 8, 8), CARD), noise_of((1, 8, 8), 0, range(3), CARD)
        view = AffineView(net, torch.full((1, 8, 8), 0.5), torch.zeros(1, 8, 8))
        scheduler = view.scheduler(DDPMScheduler(**toys.schedule().config, clip_sample=True))
        assert denoise(view, Sampler(scheduler, 4), next(noise), noise.__next__).abs().max().item() <= 1 + 1e-6


@pytest.mark.parametrize("resident", [True, False], ids=["on the card", "in memory"])
def test_training_waits_once_for_its_logged_losses(tmp_path, resident):
    def work(card, steps):
        attack, images = toys.attack(), toys.images()
        index, poisoned = attack.rows(images.labels, 0)
        attack.to(CARD)
        loss = denoising_loss(attack.poison, toys.schedule().to(CARD), poisoned.to(CARD), flip=True)
        train_config, loop = toys.train_config(steps=steps), replace(toys.LOOP, log_every=10, checkpoint_seconds=1e9)
        images = images.to(CARD) if resident else images
        net, before = Denoiser(toys.unet(), toys.schedule(), (1, 8, 8), CARD), counted(card)
        fit(net, loss, images, index, train_config, 0, toys.session(tmp_path / f"{steps}", loop, accelerator()))
        return before

    assert marginal(20, 60, work) == (1 / 10, 0)


def test_a_step_of_diff2_waits_for_nothing(tmp_path):
    def work(card, steps):
        picture, images = universal(8, cell=1, seed=0), replace(toys.images(), flip=True).to(CARD)
        settings = (0.5, "append", "redirect", "both", 0.15, [3], "ancestral", 0.25, 16 / 255, 2, 0)
        attack = DIFF2(Trigger.from_picture(picture, 1), toys.attack().target, *settings)
        attack.to(CARD)
        index, poisoned = plan = attack.rows(images.labels, 0)
        schedule = toys.schedule(20).to(CARD)
        attack.prepare(Parts(schedule, SmallCNN(1, 2, 4).to(CARD)))
        attack.prepare_rows(images, plan)
        loss = denoising_loss(attack.poison, schedule, poisoned.to(CARD), True)
        loop = replace(toys.LOOP, log_every=10, checkpoint_seconds=1e9)
        net, before = Denoiser(toys.unet(), schedule, (1, 8, 8), CARD), counted(card)
        session = toys.session(tmp_path / f"{steps}", loop, accelerator())
        fit(net, loss, images, index, toys.train_config(steps=steps), 0, session)
        return before

    assert marginal(20, 60, work) == (1 / 10, 0)


AUDITS = {
    "elijah": ["defense.steps={}"],
    "terd": ["defense.steps={}", "defense.refine_steps=0", "defense.window=10", "defense.batch=2"],
    "terd refined": ["defense.steps=1", "defense.refine_steps={}", "defense.ddim_steps=3", "defense.window=10",
                     "defense.batch=2"],
    "purediffusion": ["defense.steps={}", "defense.probes=0", "defense.restarts=1", "defense.batch=2",
                      "defense.timesteps=[1.0,0.8]"],
}  # fmt: skip


def suspect(checkpoint: bool = False) -> Suspect:
    """A toy model on the card."""
    return Suspect(toys.unet(), toys.schedule(20).to(CARD), (1, 8, 8), CARD, precision="bf16", recompute=checkpoint)


@pytest.mark.parametrize("audit", AUDITS)
def test_an_inversion_waits_for_nothing_but_its_losses_many_steps_late(audit):
    def work(card, steps):
        words = [word.format(steps) for word in AUDITS[audit]]
        (config,) = jobs([f"defense={audit.split()[0]}", *words], False)
        model, before = suspect(), counted(card)
        method(config.defense).invert(model, 0)
        return before

    assert marginal(STEPS, 3 * STEPS, work) == (1 / STEPS, 0)


def test_a_probe_waits_for_nothing():
    def work(card, rounds):
        model, draws, before = suspect(), generator(0), counted(card)
        probe(model, 8, rounds, draws)
        return before

    assert marginal(1, 3, work) == (0, 0)


@pytest.mark.parametrize("how", ["labels", "full gradient", "bpda"])
def test_purification_waits_for_nothing(how):
    def work(card, t):
        schedule, model = toys.schedule(20).to(CARD), suspect(checkpoint=how == "full gradient")
        classifier = SmallCNN(1, 2, 4).to(CARD)
        shield = Shielded(
            Purification(t, "ancestral", None, 2), model.eps, schedule, classifier, seed=0, bpda=how == "bpda"
        )
        x, y = tag(torch.zeros(2, 1, 8, 8), True), tag(torch.tensor([0, 1]), True)
        before = counted(card)
        if how == "labels":
            shield.labels(x, [0, 1])
        else:
            mean_gradient(shield.attacked([0, 1]), x, y, eot=2)
        return before

    assert marginal(3, 9, work) == (0, 0)


@pytest.mark.parametrize("stop", ["never", "radii"])
def test_certification_waits_once_for_the_votes_of_a_batch(tmp_path, stop):
    batches = []

    def work(card, images):
        schedule, model, classifier = toys.schedule(20).to(CARD), suspect(), SmallCNN(1, 2, 4).to(CARD)
        method = Certification(sigma=0.25, n0=10, n=70, alpha=0.01, batch_size=20, stop=stop, radii=[0.0, 0.1])
        logits = method.behind(model.eps, schedule, classifier)
        x, y = tag(torch.zeros(images, 1, 8, 8), True), torch.zeros(images, dtype=torch.long)
        before, shown = counted(card), model.evaluations
        method.run(logits, x, y, torch.arange(images), tmp_path / f"{images}.tsv", seed=0)
        batches.append(-(-(model.evaluations - shown) // 20))
        return before

    waits, _ = marginal(4, 12, work)
    assert waits * 8 == pytest.approx(batches[1] - batches[0], abs=2)  # the last batches may not be full


def test_samples_on_the_card_are_those_of_the_cpu(tmp_path):
    """Its noise is drawn on the CPU, and an emulated card computes as the CPU does."""

    def drawn(folder, handle):
        kinds = {"clean": Drawn(lambda eps: eps, 5), "triggered": Drawn(toys.attack().prior, 3)}
        suspect = Suspect(toys.unet(), toys.schedule(), (1, 8, 8), handle.device)
        sampler = Sampler(DDPMScheduler(**toys.schedule().config), 5)
        sample(suspect, sampler, kinds, 4, 0, folder / "shards", handle)
        return [torch.cat([*shards(folder / "shards", kind)]) for kind in kinds]

    with Card():
        found = drawn(tmp_path / "card", accelerator())
    expected = drawn(tmp_path / "cpu", toys.accelerator())
    assert [len(images) for images in expected] == [5, 3]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


MIXES = {
    "an image of the CPU": lambda net, x: net(torch.zeros(1, 1, 8, 8), 0),
    "a table of the CPU": lambda net, x: torch.linspace(0, 1, 20)[tag(torch.tensor([3]), True)] * x,
    "a sum": lambda net, x: x + torch.ones(8),
    "a generator of the CPU": lambda net, x: torch.randn(3, generator=torch.Generator(), device=CARD),
    "numpy": lambda net, x: x.numpy(),
    "a stack": lambda net, x: torch.stack([x.sum(), torch.tensor(1.0)]),
}


@pytest.mark.parametrize("mix", MIXES)
def test_a_planted_mix_of_devices_is_refused(mix):
    with Card(), pytest.raises(Refused):
        MIXES[mix](toys.unet().to(CARD), tag(torch.zeros(1, 1, 8, 8), True))


PLANTED = {
    "item": lambda x: x.sum().item(),
    "a truth": lambda x: bool((x > 0).any()),
    "a copy": lambda x: x.cpu(),
    "a pageable copy": lambda x: torch.zeros(2).to(x.device, non_blocking=True),
    "a mask": lambda x: x[x > 0],
    "a list": lambda x: x[[0, 0]],
    "an index of the CPU": lambda x: x[torch.tensor([0])],
    "a list moved": lambda x: torch.tensor([1.0], device=x.device),
    "a solve": lambda x: torch.linalg.solve(torch.eye(2, device=x.device), torch.ones(2, device=x.device)),
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_wait_is_counted(what):
    with Card() as card:
        x = tag(torch.ones(1, 1, 8, 8), True)
        PLANTED[what](x)
    assert card.total == 1


def test_what_does_not_wait_is_not_counted():
    with Card() as card:
        x = tag(torch.ones(4, 1, 8, 8), True)
        rows = to_device(torch.tensor([1, 2]), CARD)
        y = torch.where(x > 0, x * torch.tensor(2.0), x.flip(-1))[rows][1:, None]
        y = y + torch.full((8,), 0.5, device=CARD) + torch.arange(8, device=CARD)
        Late(y)
        assert on_card(y) and y.device == CARD
    assert card.total == 0


def test_a_planted_item_in_the_loss_fails_the_pinned_number(tmp_path):
    """The test of training above would see it."""

    def work(card, steps):
        net = Denoiser(toys.unet(), toys.schedule(), (1, 8, 8), CARD)
        images, before = toys.images().to(CARD), counted(card)
        session = toys.session(
            tmp_path / f"{steps}", replace(toys.LOOP, log_every=10, checkpoint_seconds=1e9), accelerator()
        )

        def loss(net, batch):
            value = net(to_float(batch.pixels), batch.rows).square().mean()
            return value * (1 if value.item() > 0 else 2)

        fit(net, loss, images, torch.arange(20), toys.train_config(steps=steps), 0, session)
        return before

    assert marginal(20, 60, work) == (1 + 1 / 10, 0)
