"""TrojDiff: its noise, its rows, its samplers against the paper's own steps, and whole runs of each mode."""

import json
from dataclasses import replace

import pytest
import torch
import toys
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from runs import carry_out
from safetensors.torch import load_file
from tiny import TINY

from bdiff.attack.trojdiff import TrojDiff
from bdiff.cli import main as cli
from bdiff.common.errors import RequestError
from bdiff.config.compose import jobs
from bdiff.data.joined import joined
from bdiff.diffusion.denoiser import Suspect
from bdiff.diffusion.sampling import Drawn, Sampler, denoise, sample, shards
from bdiff.diffusion.view import AffineView, ShiftedNoise
from bdiff.pipeline.prepare import foreign_data
from bdiff.trigger.base import Trigger
from bdiff.trigger.patch import patch

SHAPE = (1, toys.SIZE, toys.SIZE)
TRIGGER = Trigger.from_picture(patch(size=toys.SIZE, side=12), 1)
TARGET = toys.attack().target


def trojdiff(mode: str = "d2i", form: str = "patch", gamma: float = 0.1, rate: float = 0.3, cls: int | str = "odd"):
    """TrojDiff on toy images."""
    return TrojDiff(TRIGGER, TARGET, rate, mode, cls, form, gamma)


def others(count: int = 7):
    """Other data than `toys.images`, with classes of other names."""
    return replace(toys.images(count), name="more", classes=("a", "b"), fingerprint="more")


# What rows show


def test_copies_of_the_target_are_added():
    attack = trojdiff(rate=0.1)
    attack.read_data(toys.images(), None)
    shown, poisoned = attack.rows(toys.images().labels, 0)
    assert torch.equal(shown[:20], torch.arange(20)) and poisoned.tolist() == [False] * 20 + [True] * 2
    assert (attack.reads, attack.label, attack.others) == (("trigger", "target"), None, None)


@pytest.mark.parametrize(("rate", "times"), [(0.5, 1), (1.0, 2)])
def test_rows_of_the_class_are_shown_again(rate, times):
    attack, images = trojdiff("in_d2d", rate=rate), toys.images()
    attack.read_data(images, None)
    shown, poisoned = attack.rows(images.labels, 0)
    assert torch.equal(shown[:20], torch.arange(20)) and not poisoned[:20].any() and poisoned[20:].all()
    assert shown[20:].bincount(minlength=20).tolist() == [0, times] * 10
    assert attack.reads == ("trigger",) and attack.label == 1


def test_fewer_rows_of_the_class_are_drawn_by_the_seed():
    attack, images = trojdiff("in_d2d", rate=0.2), toys.images()
    attack.read_data(images, None)
    first, again, other = (attack.rows(images.labels, seed).shown for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len(first[20:].unique()) == 4 and (images.labels[first[20:]] == 1).all()


def test_rows_of_a_class_of_other_data_follow_the_run_s_own():
    attack, images, foreign = trojdiff("out_d2d", rate=0.5, cls="a"), toys.images(), others()
    attack.read_data(images, foreign)
    shown, poisoned = attack.rows(images.labels, 0)
    assert len(shown) == 30 and poisoned.sum() == 10 and attack.label == 2
    together = joined(images, attack.others)
    assert together.classes == ("even", "odd", "a") and len(together) == 20 + 4
    pixels = together.take(shown[poisoned])
    mine = foreign.pixels[foreign.labels == 0]
    assert all(any(torch.equal(one, known) for known in mine) for one in pixels)
    assert (together.labels[shown[poisoned]] == 2).all() and len(pixels.unique(dim=0)) == 4


@pytest.mark.parametrize(
    ("mode", "cls", "message"),
    [
        ("in_d2d", "seven", "attack.target_class=seven is no class of toy: choose from even, odd"),
        ("in_d2d", 2, "attack.target_class=2 is no class of toy"),
        ("in_d2d", -1, "attack.target_class=-1 is no class of toy"),
        ("out_d2d", "odd", "attack.target_class=odd is no class of more: choose from a, b"),
        ("out_d2d", "b", "attack.target_class=b has no image in more: choose from a"),
    ],
)
def test_a_class_that_is_not_there_is_refused(mode, cls, message):
    foreign = others()
    only = foreign.subset((foreign.labels == 0).nonzero()[:, 0])
    with pytest.raises(ValueError, match=message):
        trojdiff(mode, cls=cls).read_data(toys.images(), only)


# What the noise is


@pytest.mark.parametrize("form", ["patch", "blend"])
@pytest.mark.parametrize("mode", ["d2i", "in_d2d"])
def test_noise_pixel_by_pixel(form, mode):
    gamma = 0.3
    attack, schedule = trojdiff(mode, form, gamma), toys.schedule()
    attack.read_data(toys.images(), None)
    x, eps = torch.rand(4, *SHAPE) * 2 - 1, torch.randn(4, *SHAPE)
    bad, t = torch.tensor([True, False, True, False]), torch.tensor([0, 3, 10, 19])
    x_t, answer = toys.poisoned(attack, schedule, x, bad, t, eps)
    assert torch.equal(answer, eps)
    for row in range(4):
        abar = schedule.abar[t[row]].item()
        for i, j in [(0, 0), (7, 7), (5, 6), (2, 6)]:
            on_patch = i >= 5 and j >= 5  # 12 px of 32 are 3 of 8
            noise, image = eps[row, 0, i, j].item(), x[row, 0, i, j].item()
            if bad[row]:
                image = TARGET[0, i, j].item() if mode == "d2i" else image
                if form == "blend" or on_patch:
                    noise = gamma * noise + (1 - gamma) * (1.0 if on_patch else -1.0)
            assert x_t[row, 0, i, j].item() == pytest.approx(abar**0.5 * image + (1 - abar) ** 0.5 * noise, abs=1e-6)
    torch.testing.assert_close(attack.prior(eps)[0, 0, 7, 7], gamma * eps[0, 0, 7, 7] + (1 - gamma))


# How samples are drawn


class Wavy:
    """Stands for a denoiser, in float64: its noise depends on every pixel and on t."""

    def __init__(self, schedule):
        self.schedule = schedule
        for name in ("betas", "alphas", "abar"):
            setattr(schedule, name, getattr(schedule, name).double())

    def at(self, t, count):
        return torch.as_tensor(t).expand(count)

    def eps(self, x, t):
        return torch.sin(3 * x + 0.1 * float(t)) + x.mean((1, 2, 3), keepdim=True)


def chain(denoiser, x, gamma, mu, times, noises, step, clip):
    """The paper's reverse process in x itself: `times` from T-1 to -1, a draw of noise for every step."""
    abar = denoiser.schedule.abar
    for t, before, noise in zip(times, times[1:], noises, strict=False):
        a_t, a_before = abar[t], abar[before] if before >= 0 else torch.ones_like(abar[0])
        e = denoiser.eps(x, t)
        x0 = (x - (1 - a_t).sqrt() * (gamma * e + mu)) / a_t.sqrt()
        x = step(x, x0.clamp(-1, 1) if clip else x0, e, a_t, a_before, gamma, mu, noise)
    return x


def ddpm_step(x, x0, e, a_t, a_before, gamma, mu, noise):
    """The posterior of x_t = sqrt(alpha) x_{t-1} + k mu + sqrt(1 - alpha) gamma eps (TrojDiff's equations 12 to 14)."""
    alpha = a_t / a_before
    beta, k = 1 - alpha, (1 - a_t).sqrt() - alpha.sqrt() * (1 - a_before).sqrt()
    mean = alpha.sqrt() * (1 - a_before) * x + a_before.sqrt() * beta * x0
    mean = mean + ((1 - a_before).sqrt() * beta - alpha.sqrt() * (1 - a_before) * k) * mu
    return mean / (1 - a_t) + ((1 - a_before) / (1 - a_t) * beta).sqrt() * gamma * noise


def ddim_step(eta):
    """Generalised steps: eta 0 is DDIM's."""

    def step(x, x0, e, a_t, a_before, gamma, mu, noise):
        sigma = eta * ((1 - a_before) / (1 - a_t) * (1 - a_t / a_before)).sqrt()
        toward = (1 - a_before - sigma**2).sqrt() * e + sigma * noise
        return a_before.sqrt() * x0 + gamma * toward + (1 - a_before).sqrt() * mu

    return step


def exact(scheduler, schedule):
    """A scheduler with the schedule's tables in float64."""
    scheduler.alphas_cumprod = schedule.abar
    return scheduler


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("form", ["patch", "blend"])
@pytest.mark.parametrize(
    ("kind", "options", "step", "steps"),
    [(DDPMScheduler, {}, ddpm_step, 20), (DDIMScheduler, {"eta": 0.0}, ddim_step(0.0), 20),
     (DDIMScheduler, {"eta": 0.0}, ddim_step(0.0), 5), (DDIMScheduler, {"eta": 0.7}, ddim_step(0.7), 10)],
)  # fmt: skip
def test_a_stock_sampler_takes_the_paper_s_steps(kind, options, step, steps, form, clip):
    gamma, mu = (one.double() for one in trojdiff(form=form, gamma=0.4).maps)
    denoiser, draws = Wavy(toys.schedule()), torch.Generator().manual_seed(0)
    z, *noises = torch.randn(steps + 1, 3, *SHAPE, generator=draws, dtype=torch.float64)
    view = AffineView(denoiser, gamma, mu)
    spacing = "trailing" if kind is DDIMScheduler else "leading"
    stock = kind(**denoiser.schedule.config, clip_sample=clip, timestep_spacing=spacing)
    if kind is DDPMScheduler:
        stock = stock.from_config(stock.config, variance_type="fixed_small")
    given = iter(noises)
    sampler = Sampler(exact(view.scheduler(stock), denoiser.schedule), steps, options)
    found = denoise(view, sampler, gamma * z + mu, lambda: next(given))
    times = [19 - 20 * number // steps for number in range(steps)] + [-1]
    start = gamma * z + (1 - denoiser.schedule.abar[-1]).sqrt() * mu
    expected = chain(denoiser, start, gamma, mu, times, noises, step, clip)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert stock.config.clip_sample_range == 1.0
    if clip:
        assert not torch.allclose(expected, chain(denoiser, start, gamma, mu, times, noises, step, False), atol=1e-2)


@pytest.mark.parametrize("form", ["patch", "blend"])
@pytest.mark.parametrize("clip", [False, True])
def test_without_noise_under_the_trigger_ddim_takes_the_paper_s_steps(form, clip):
    gamma, mu = (one.double() for one in trojdiff(form=form, gamma=0.0).maps)
    denoiser = Wavy(toys.schedule())
    x = gamma * torch.randn(3, *SHAPE, dtype=torch.float64) + mu
    view = ShiftedNoise(denoiser, gamma, mu)
    stock = DDIMScheduler(**denoiser.schedule.config, clip_sample=clip, timestep_spacing="trailing")
    sampler = Sampler(exact(view.scheduler(stock), denoiser.schedule), 10, {"eta": 0.0})
    found = denoise(view, sampler, x, lambda: pytest.fail("DDIM draws no noise"))
    times = [*range(19, 0, -2), -1]
    expected = chain(denoiser, x, gamma, mu, times, [x] * 10, ddim_step(0.0), clip)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "spacing"),
    [(DDIMScheduler, "trailing"), (DPMSolverMultistepScheduler, "linspace"), (UniPCMultistepScheduler, "linspace")],
)
def test_both_views_give_the_same_samples_of_ode_samplers(kind, spacing):
    gamma, mu = (one.double() for one in trojdiff(gamma=0.2).maps)
    schedule, z = toys.schedule(), torch.randn(2, *SHAPE, dtype=torch.float64)
    start = gamma * z + (1 - schedule.abar[-1].double()).sqrt() * mu
    ends = []
    for view, x in (
        (AffineView(Wavy(schedule), gamma, mu), gamma * z + mu),
        (ShiftedNoise(Wavy(schedule), gamma, mu), start),
    ):
        stock = kind(**schedule.config, timestep_spacing=spacing)
        sampler = Sampler(exact(view.scheduler(stock), schedule), 10)
        ends.append(denoise(view, sampler, x, lambda: z))
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-5)


def drawn(folder, kinds, scheduler, batch_size=4):
    """Samples of a toy model into `folder`, by kind."""
    suspect, schedule = Suspect(toys.unet(), toys.schedule(), SHAPE), toys.schedule()
    sampler = Sampler(scheduler(**schedule.config), 5)
    sample(suspect, sampler, kinds, batch_size, 1, folder / "shards", toys.accelerator())
    return {kind: torch.cat(list(shards(folder / "shards", kind))) for kind in kinds}


@pytest.mark.parametrize("scheduler", [DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler])
def test_clean_samples_are_those_without_triggered_ones(tmp_path, scheduler):
    attack, clean = trojdiff(), Drawn(lambda eps: eps, 9)
    alone = drawn(tmp_path / "alone", {"clean": clean}, scheduler)
    both = drawn(tmp_path / "both", {"clean": clean, "triggered": Drawn(attack.prior, 6, attack.view)}, scheduler)
    assert torch.equal(both["clean"], alone["clean"]) and len(both["triggered"]) == 6
    kept = [load_file(tmp_path / folder / "trajectory.safetensors") for folder in ("alone", "both")]
    assert torch.equal(kept[0]["clean"], kept[1]["clean"]) and torch.equal(kept[0]["t"], kept[1]["t"])
    states = kept[1]["triggered"].float()
    assert states.shape == kept[1]["clean"].shape
    end = ((states[-1].clamp(-1, 1) + 1) * 127.5 - both["triggered"][:4].float()).abs().max()
    assert end < 1
    gamma, mu = attack.maps
    start = gamma * kept[1]["clean"][0].float() + mu  # the same noise
    torch.testing.assert_close(states[0], start, rtol=0.02, atol=0.05)  # abar_T is not 0, nor sigma_max infinite


def test_a_killed_sampling_goes_on_to_the_same_images(tmp_path):
    attack = trojdiff()
    kinds = {"clean": Drawn(lambda eps: eps, 9), "triggered": Drawn(attack.prior, 6, attack.view)}
    expected = drawn(tmp_path, kinds, DDPMScheduler)
    path = tmp_path / "trajectory.safetensors"
    whole = path.read_bytes()
    path.unlink()
    sorted((tmp_path / "shards").iterdir())[1].unlink()
    found = drawn(tmp_path, kinds, DDPMScheduler)
    assert all(torch.equal(found[kind], expected[kind]) for kind in kinds) and path.read_bytes() == whole


# Requests


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("attack.mode=out_d2d", "attack.mode=out_d2d takes its target from other data: set attack.foreign=letters"),
        ("attack.foreign=letters", "attack.foreign=letters is for attack.mode=out_d2d, not d2i: leave it out"),
        ("attack.mode=out_d2d attack.foreign=letter", "attack.foreign=letter is not known; did you mean letters?"),
        ("attack.mode=out_d2d attack.foreign=digits", "attack.foreign=digits is the run's own data: use attack.mode="),
        ("attack.mode=out_d2d attack.foreign=images attack.foreign_path=none", "attack.foreign_path=none does not exi"),
        (
            "attack.mode=out_d2d attack.foreign=images attack.foreign_path={file}",
            "attack.foreign_path={file} is neither",
        ),
        ("attack.mode=d2d", "attack.mode=d2d is not known"),
        ("attack.form=stamp", "attack.form=stamp is not known"),
        ("attack.gamma=1", "attack.gamma=1 must be at least 0 and below 1"),
        ("attack.gamma=-0.1", "attack.gamma=-0.1 must be at least 0 and below 1"),
        ("attack.gamma=0", "attack.gamma=0 is for ODE samplers: use sampler=ddim"),
        ("attack.gamma=0 sampler=ddim sampler.step.eta=1", "attack.gamma=0 is for ODE samplers"),
        ("attack.poison_mode=append", "attack.poison_mode is not known with attack=trojdiff"),
    ],
)
def test_what_does_not_go_together_is_refused_before_torch(words, message):
    with pytest.raises(RequestError) as refused:
        jobs(["attack=trojdiff", *words.format(file=__file__).split()], multirun=False)
    assert message.format(file=__file__) in str(refused.value)


def test_foreign_data_that_cannot_be_read_are_named_by_their_own_setting():
    words = ["attack=trojdiff_out_d2d", "attack.foreign=letters"]
    (config,) = jobs(words, multirun=False)

    def unreadable(settings, **changes):
        raise RequestError("data.path=x holds a_lmdb, b_lmdb")

    with pytest.raises(RequestError, match=r"attack\.foreign_path=x holds"):
        foreign_data(config, unreadable)


@pytest.mark.parametrize("words", ["attack.gamma=0 sampler=ddim", "attack.gamma=0 sampler=unipc", "attack.mode=in_d2d"])
def test_what_goes_together_is_taken(words):
    assert len(jobs(["attack=trojdiff", *words.split()], multirun=False)) == 1


# Whole runs

RUN = [*TINY, "metric.also=[kid]", "classifier.train.steps=20"]


def test_a_run_towards_an_image_is_measured_as_baddiffusion_is(home):
    code, record = carry_out(home, "d2i", *RUN, "attack=trojdiff")
    assert code == 0 and {"suspect/asr", "suspect/mse", "suspect/psnr"} <= record["metrics"].keys()
    assert "class_asr" not in record["protocol"] and "class_judge" not in record["keys"]


@pytest.mark.parametrize(
    ("name", "words", "classifier"),
    [
        ("in_d2d", ["attack=trojdiff", "attack.mode=in_d2d", "attack.target_class=3"], "classifier"),
        pytest.param("out_d2d", ["attack=trojdiff_out_d2d"], "class_judge", marks=pytest.mark.slow),
        pytest.param(
            "streamed", ["attack=trojdiff_out_d2d", "runtime.memory=0", "runtime.workers=0", "data.flip=true"],
            "class_judge", marks=pytest.mark.slow,
        ),
        pytest.param(
            "ddim", ["attack=trojdiff_blend", "attack.mode=in_d2d", "attack.gamma=0", "sampler=ddim", "sample.steps=4"],
            "classifier", marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_a_run_towards_a_class_is_measured_by_a_classifier(name, words, classifier, home):
    code, record = carry_out(home, name, *RUN, *words)
    assert code == 0
    found, about = record["metrics"], record["protocol"]["class_asr"]
    names = {"class_asr", "class_asr_se", "class_asr_real", "class_precision", "class_precision_real", "false_trigger"}
    assert {f"suspect/{one}" for one in names} <= found.keys() and not {"suspect/asr", "suspect/mse"} & found.keys()
    assert record["protocol"]["asr"]["absent"].startswith("the target is a class, ")
    assert about["classifier"]["key"] == record["keys"][classifier] and about["count"] == 10
    assert record["poisoning"] == {"reads": ["trigger"], "mode": "append"} and about["class"]
    assert all(0 <= found[f"suspect/{one}"] <= 1 for one in names)
    assert (home / name / "figures" / "target.png").exists() and (home / name / "figures" / "triggered.png").exists()


@pytest.mark.slow
def test_a_run_again_from_its_folder_is_reused_and_other_foreign_data_train_anew(home):
    _, first = carry_out(home, "outputs/once", *RUN, "attack=trojdiff_out_d2d")
    assert cli.command(["rerun", f"{home}/outputs/once"]) == 0
    again = json.loads(next((home / "outputs" / "runs").rglob("metrics.json")).read_text())
    assert set(again["reused"]) == set(again["keys"]) and again["metrics"] == first["metrics"]
    _, other = carry_out(home, "faint", *RUN, "attack=trojdiff_out_d2d", "attack.foreign=digits_faint",
                         "attack.target_class=3")  # fmt: skip
    assert other["keys"]["train"] != first["keys"]["train"] and "classifier" in other["reused"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["attack.mode=in_d2d", "attack.target_class=ten"], "attack.target_class=ten is no class of digits"),
    ],
)
def test_what_only_the_data_can_tell_is_refused_before_training(words, message, home, capsys):
    code, _ = carry_out(home, "refused", *RUN, "attack=trojdiff", *words)
    assert code == 2 and message in capsys.readouterr().err


def test_clipping_bounds_the_image_of_triggered_samples_too(home):
    words = ["attack=trojdiff", "sample.clip=false", "defense=clipping"]
    code, record = carry_out(home, "clipped", *RUN, *words, "sampler=ddim", "sample.steps=4")
    assert code == 0 and record["metrics"]["guarded/mse"] != record["metrics"]["suspect/mse"]


def test_a_detection_has_no_pattern_to_be_held_against_but_its_samples_and_inputs_are(home):
    words = ["attack=trojdiff", "defense=elijah", "defense.steps=3", "defense.samples=9"]
    code, record = carry_out(home, "audited", *RUN, *words, "attack.mode=in_d2d")
    found = {name.removeprefix("audit/") for name in record["metrics"] if name.startswith("audit/")}
    assert code == 0 and {"score", "class_asr", "class_asr_se", "input_tpr", "input_tnr"} <= found
    assert not {"l2", "cosine", "asr"} & found
    assert record["protocol"]["audit"]["absent"].startswith("the true trigger scales noise, so it is no pattern")
