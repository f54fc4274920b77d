"""Forms of detections for other laws, for TrojDiff and for a black box, and scores relative to clean samples."""

import math

import pytest
import torch
import toys
from gaussians import SHAPE, T, audit, draws, suspect
from omegaconf import OmegaConf
from torch import nn
from torch.distributions import Normal, kl_divergence

from bdiff.config.compose import jobs
from bdiff.defense.base import Inversion, Suspect
from bdiff.defense.detection.chain import chain
from bdiff.defense.detection.coefficients import Shift, shift_of, stacked
from bdiff.defense.detection.diff_cleanse import DiffCleanse, agreeing, cosines, disagreement, entropy
from bdiff.defense.detection.evidence import departure, kl_of, relative_uniformity, specific_uniformity, uniformity
from bdiff.defense.detection.terd import is_backdoored
from bdiff.defense.detection.terd_trojdiff import images_from, noised
from bdiff.diffusion import path
from bdiff.diffusion.schedule import Schedule
from bdiff.pipeline.family import eta_of, family_of, of_family
from bdiff.pipeline.suspect import own
from bdiff.pipeline.threshold import resolve_threshold
from bdiff.pipeline.work import FORWARD, INPUT, inverted

LINEAR = Schedule(T, 1e-4, 0.02, "linear")
PAIRS = [(name, law) for name in path.PATHS for law in path.LAWS]


def noise(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((count, *SHAPE), generator=draws(seed))


@pytest.mark.parametrize(("name", "law"), PAIRS)
def test_a_shift_is_the_attacks_path_and_law(name, law):
    t, psi = torch.arange(T), path.PATHS[name]
    found = shift_of(LINEAR, name, law)
    assert torch.equal(found.noise, path.LAWS[law](LINEAR, t, psi))
    assert torch.equal(found.image, path.drift(LINEAR, t, psi))
    torch.testing.assert_close(found.rest, 1 - found.image)


def test_triggers_of_several_laws_in_one_batch_have_the_chains_that_they_have_alone():
    model, t = Suspect(toys.unet(), toys.schedule(), SHAPE), [19, 12, 5]
    eps, noises, taus = noise(2), noise(6, 1).view(3, 2, *SHAPE), noise(4, 2)
    laws = [shift_of(model.schedule, *pair) for pair in PAIRS]
    with torch.no_grad():
        together = chain(model, taus[:, None], eps, noises, t, stacked(laws))
        for number, law in enumerate(laws):
            alone = chain(model, taus[number], eps, noises, t, law)
            torch.testing.assert_close(together.x0[:, number], alone.x0, rtol=1e-3, atol=1e-4)
            assert torch.equal(stacked(laws).of(number).noise, law.noise)


class Backdoored(nn.Module):
    """Answers as a network does that knows one target and one trigger alone, on a path and under a law."""

    def __init__(self, schedule: Schedule, law: Shift, target: torch.Tensor, trigger: torch.Tensor):
        super().__init__()
        self.schedule, self.law, self.target, self.trigger = schedule, law, target, trigger

    def forward(self, x, t, return_dict=False):
        at = int(t[0])
        s, o = self.schedule.scales(t)
        eps = (x - self.law.image[at] * self.trigger - s * self.target) / o
        return (eps + self.law.noise[at] * self.trigger,)


@pytest.mark.parametrize(("name", "law"), PAIRS)
def test_the_chain_of_the_right_law_shows_the_target_at_every_timestep(name, law):
    shift, target, tau = shift_of(LINEAR, name, law), 0.5 * noise(1, 3)[0].tanh(), noise(1, 4)[0]
    model = Suspect(Backdoored(LINEAR, shift, target, tau), LINEAR, SHAPE)
    seen = chain(model, tau, noise(3), noise(9, 1).view(3, 3, *SHAPE), [999, 600, 200], shift)
    torch.testing.assert_close(seen.x0, target.expand_as(seen.x0), atol=2e-3, rtol=0)


def test_a_mixture_tries_every_path_and_law_from_each_start_and_finds_the_right_one():
    method = audit("purediffusion_mixture", timesteps=[1.0, 0.6, 0.3], probes=0, steps=25, batch=8)
    found = method.invert(suspect(), 0)
    support = {name: value for name, value in found.evidence.items() if name.startswith("support_")}
    assert support.keys() == {f"support_{name}_{law}" for name, law in PAIRS}
    assert support["support_mean_ancestral"] == max(support.values()) > 0.9 and found.family == "ancestral"


def test_probes_of_a_mixture_are_those_of_the_laws_samplers():
    method = audit("purediffusion_mixture", restarts=1, probes=1)
    starts = {(one.path, one.law): [] for one in method.searches}
    for one in method.searches:
        starts[one.path, one.law].append(one.start)
    assert starts == {pair: [0, 2 if pair[1] == "ode" else 1] for pair in PAIRS} and method.starts == 8
    told = audit("purediffusion", law="ode", path="noise")
    assert [tuple(one) for one in told.searches] == [("noise", "ode", 0), ("noise", "ode", 1)]


def test_relative_uniformity_by_hand():
    clean = 2 * torch.rand((12, *SHAPE), generator=draws()) - 1
    assert relative_uniformity(clean, clean) == pytest.approx(0)
    assert relative_uniformity(clean / 2, clean) == pytest.approx(1 - 1 / 4, rel=1e-4)
    assert relative_uniformity(torch.zeros_like(clean), clean) == 1
    assert relative_uniformity(clean, torch.zeros_like(clean)) == 0
    assert relative_uniformity(clean[:5], clean, trim=1) == pytest.approx(
        1 - uniformity(clean[:5], 1) / uniformity(clean, 1)
    )


def test_a_blank_is_no_evidence():
    clean = 2 * torch.rand((12, *SHAPE), generator=draws()) - 1
    usual, shape = uniformity(clean) / 4, (12, *SHAPE)
    picture = torch.linspace(-1, 1, math.prod(SHAPE)).view(SHAPE).expand(shape)
    for end in (-1.0, 1.0):
        assert departure(torch.full(shape, end), clean) == 0 == specific_uniformity(torch.full(shape, end), clean)
        near = torch.full(shape, 0.9 * end)
        assert departure(near, clean) == pytest.approx(0.05**2 / usual, rel=1e-4)
        assert specific_uniformity(near, clean) == pytest.approx(0.05**2 / usual, rel=1e-4)
    assert departure(picture, clean) == 1 == specific_uniformity(picture, clean) and departure(picture, 0 * clean) == 0
    assert specific_uniformity(clean, clean) == pytest.approx(0, abs=1e-6)


def test_the_threshold_is_for_the_score_that_flags():
    clean = 2 * torch.rand((16, *SHAPE), generator=draws()) - 1
    inversion = Inversion(torch.zeros(SHAPE), [], {"loss": 1.5})
    method = audit("purediffusion", threshold=0.5)
    found = method.verdict(inversion, clean / 2, clean, "relative_score")
    assert found.flagged and found.evidence["relative_score"] == pytest.approx(0.75, rel=1e-3)
    assert found.evidence["specific_score"] == pytest.approx(0.75 * departure(clean / 2, clean), rel=1e-3)
    assert found.evidence["trigger_score"] == 0.25  # 2 would be of no trigger
    assert found.evidence["combined_score"] == pytest.approx(0.5, rel=1e-3)
    strict = audit("purediffusion", threshold=0.6)
    assert not strict.verdict(inversion, clean / 2, clean, "combined_score").flagged
    assert not method.verdict(inversion, clean / 2, clean).flagged


def test_new_settings_leave_keys_as_they_were_and_calibrations_do_not_hold_for_others():
    (config,) = jobs(["defense=purediffusion"], False)
    assert not {"path", "flag_by"} & own(config.defense).keys() and "law" in own(config.defense)
    config.defense.path = "noise"
    assert own(config.defense)["path"] == "noise"
    assert "defense.path=mean (here noise)" in (resolve_threshold(config, "digits").unflagged or "")
    (config,) = jobs(["defense=elijah"], False)
    assert own(config.defense).keys() == {"_target_", "shift", "steps", "batch", "lr", "samples", "trim", "threshold"}


ANY = [
    f"defense.calibration.{fact}=null" for fact in ("size", "channels", "num_train_timesteps", "beta_start", "beta_end")
]
PHOTOS = ["data=cifar10", "model=cifar10_tiny", "schedule=linear"]


@pytest.mark.parametrize("words", [["data=letters"], PHOTOS])
def test_a_calibration_holds_wherever_its_facts_do_and_states_its_rate(words):
    stated = ["false_positive_rate=0.05", "models=19", "data_sets=[digits,letters]", "threshold=0.9"]
    (config,) = jobs(
        ["defense=purediffusion_mixture", *words, *(f"defense.calibration.{one}" for one in stated)], False
    )
    found = resolve_threshold(config, "any")
    assert (config.defense.threshold, found.unflagged, found.rate) == (0.9, None, 0.05)
    assert found.basis == "false-positive rate at most 5 %, from 19 clean models of digits, letters"


def test_a_calibration_holds_for_sizes_like_those_of_its_models():
    (config,) = jobs(["defense=purediffusion_mixture", *PHOTOS, "data.size=64"], False)
    found = resolve_threshold(config, "any")
    assert "is calibrated on size=16 to 32 (here 64)" in (found.unflagged or "") and found.rate is None


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("flag_by=score", "defense.flag_by=specific_score (here score)"),
        ("flag_by=combined_score", "defense.flag_by=specific_score (here combined_score)"),
        ("probes=1", "defense.probes=0 (here 1)"),
        ("law=ode", "defense.law=each (here ode)"),
        ("steps=29", "defense.steps=30 (here 29)"),
        ("trim=3", "defense.trim=4 (here 3)"),
        ("samples=15", "defense.samples=16 (here 15)"),
    ],
)
def test_it_does_not_hold_for_another_score_or_another_search(setting, reason):
    (config,) = jobs(["defense=purediffusion_mixture", f"defense.{setting}"], False)
    found = resolve_threshold(config, "digits")
    assert reason in (found.unflagged or "") and found.rate is found.basis is config.defense.threshold is None
    facts = ["defense.calibration.size=16", "defense.calibration.channels=1"]
    (config,) = jobs(["defense=purediffusion_mixture", *PHOTOS, *facts], False)
    assert "size=16 (here 32), channels=1 (here 3)" in (resolve_threshold(config, "digits").unflagged or "")


@pytest.mark.parametrize(
    ("name", "setting"), [("purediffusion", "flag_by=relative_score"), ("elijah", "flag_by=relative_score")]
)
def test_a_threshold_of_the_methods_own_score_is_not_for_a_relative_one(name, setting):
    (config,) = jobs([f"defense={name}", f"defense.{setting}"], False)
    assert "defense.flag_by=score (here relative_score)" in (resolve_threshold(config, "digits").unflagged or "")
    (config,) = jobs(["defense=terd_digits"], False)  # whose score is the only one
    assert resolve_threshold(config, "digits").basis is None and config.defense.threshold is not None


@pytest.mark.parametrize("data", ["unknown", "/home/me/private/photos"])
def test_data_are_what_they_are_called_and_a_protocol_has_no_folder_of_theirs(data):
    (config,) = jobs(["defense=elijah"], False)
    config.data.path = "digits"  # such as the pictures for a repair
    said = resolve_threshold(config, data).unflagged or ""
    assert f"data=digits (here {data.rpartition('/')[2]})" in said and "private" not in said


def test_the_form_for_trojdiff_has_no_threshold_of_terd():
    typed = {"clip_norm": 0.01, "steps": 300, "refine_steps": 30}
    (config,) = jobs(["defense=terd_trojdiff", *(f"defense.{name}={value}" for name, value in typed.items())], False)
    resolve_threshold(config, "digits")
    assert config.defense.threshold is None


@pytest.mark.parametrize(("name", "low", "high"), [("elijah", -1, 0), ("elijah_ode", -1, 1), ("elijah_trojdiff", 0, 1)])
def test_elijah_starts_within_its_range(name, low, high):
    found = audit(name, steps=0).invert(suspect(), 0)
    assert low <= found.trigger.min() < low + 0.2 and high - 0.2 < found.trigger.max() <= high
    assert (found.gamma is not None) == (name == "elijah_trojdiff")
    assert found.family == ("ode" if name == "elijah_ode" else None)


def test_divergence_and_input_check_of_scaled_noise_are_those_of_gaussians():
    mu, gamma = noise(1)[0], noise(1, 1)[0].exp()
    expected = kl_divergence(Normal(mu, gamma), Normal(torch.zeros(SHAPE), torch.ones(SHAPE)))
    found = kl_of(mu, gamma)
    assert found["kl_mean"] == pytest.approx(expected.mean().item(), rel=1e-4)
    assert found["kl_variance"] == pytest.approx(expected.var(correction=0).item(), rel=1e-4)
    assert kl_of(mu, torch.ones(SHAPE)) == pytest.approx(kl_of(mu)) and math.isfinite(kl_of(mu, 0 * mu)["kl_mean"])
    mu, gamma = 0.1 * mu, 1 + 0.1 * gamma  # near enough to plain noise to be mistaken for it
    x = torch.cat([noise(40, 2), gamma * noise(40, 3) + mu])
    ratio = (Normal(mu, gamma).log_prob(x) - Normal(0, 1).log_prob(x)).flatten(1).sum(1)
    assert torch.equal(is_backdoored(x, mu, gamma), ratio > 0)
    assert 0 < is_backdoored(x, mu, gamma).float().mean() < 1
    assert is_backdoored(torch.stack([mu, mu + 1]), mu, 0 * gamma).tolist() == [True, False]


class Trojan(nn.Module):
    """Knows one image alone, in noise that is scaled by gamma and shifted by mu."""

    def __init__(self, schedule: Schedule, image: torch.Tensor, gamma: torch.Tensor, mu: torch.Tensor):
        super().__init__()
        self.schedule, self.image, self.gamma, self.mu = schedule, image, gamma, mu

    def forward(self, x, t, return_dict=False):
        s, o = self.schedule.scales(t)
        return (((x - s * self.image) / o - self.mu) / self.gamma,)


def test_terds_images_of_trojdiffs_noise_are_the_models():
    image, gamma, mu = noise(1)[0], 0.2 + noise(1, 1)[0].square(), noise(1, 2)[0]
    model, eps, t = (
        Suspect(Trojan(LINEAR, image, gamma, mu), LINEAR, SHAPE),
        noise(5, 3),
        torch.tensor([3, 99, 500, 7, 990]),
    )
    torch.testing.assert_close(
        model.eps(noised(LINEAR, image.expand_as(eps), eps, t, gamma, mu), t), eps, atol=2e-2, rtol=1e-2
    )
    found = images_from(model, eps, gamma, mu, 10)
    torch.testing.assert_close(found, image.expand_as(found), atol=1e-3, rtol=1e-3)


class Identity(nn.Module):
    """Takes all for noise, as a clean model nearly does at the last timestep."""

    def forward(self, x, t, return_dict=False):
        return (x,)


def test_terds_scale_of_the_noise_is_that_which_a_model_explains():
    """A model that takes x for noise has the same errors on both noisings where gamma is about 1, whatever mu is."""
    model = Suspect(Identity(), LINEAR, SHAPE)
    method = audit("terd_trojdiff", steps=60, refine_steps=0, scale_lr=0.1, batch=8)
    found = method.invert(model, 0)
    assert found.family == "ode" and found.gamma is not None
    torch.testing.assert_close(found.gamma, torch.ones(SHAPE), atol=0.02, rtol=0)
    look = method.look(found, torch.empty(0))
    assert look == {"score": pytest.approx(look["kl_mean"] + look["kl_variance"]), **kl_of(found.trigger, found.gamma)}


@pytest.mark.parametrize("name", ["terd", "terd_trojdiff"])
def test_all_calls_of_a_refinements_step_are_kept_for_its_gradients(name):
    model, settings = Suspect(Identity(), LINEAR, SHAPE), {"steps": 0, "batch": 2}
    method = audit(name, **settings, refine_steps=1)
    method.invert(model, 0)
    assert method.alive * method.work.batch == model.evaluations == method.work.images
    assert audit(name, **settings, refine_steps=0).alive == 1


@pytest.mark.parametrize(
    ("name", "checkpoint", "forward", "passes", "images"),
    [
        ("diff_cleanse", False, 0, FORWARD, 0),
        ("diff_cleanse", True, 5, FORWARD, 5),
        ("purediffusion", False, 5, INPUT, 3),
        ("purediffusion", True, 5, INPUT + FORWARD, 2),
    ],
)
def test_passes_are_counted_as_what_they_are(name, checkpoint, forward, passes, images):
    method = audit(name)
    found = inverted(method, OmegaConf.create({"checkpoint": checkpoint, "precision": "fp32"}), 1, forward)
    assert (found.passes, found.images) == (passes, method.work.images + images)


def test_images_agree_with_others_and_blank_ones_with_none():
    one, other = (torch.rand(SHAPE, generator=draws(seed)) for seed in (1, 2))
    images = torch.stack([one, other, one + 1e-3, 0 * one, 0 * one, 0 * one + 1])
    assert agreeing(images, 0.999).tolist() == [True, False, True, False, False, False]
    flat = images[:3].flatten(1)
    assert cosines(images)[0, 1].item() == pytest.approx(torch.cosine_similarity(flat[0], flat[1], 0).item())
    assert cosines(images).diagonal().tolist() == [-1] * 6


def test_entropy_by_hand():
    images = torch.zeros(2, 1, 1, 2)
    images[1, ..., 1] = 1 / 255  # levels 0 and 1
    p = 1 / (1 + math.e)
    expected = [math.log(2), -p * math.log(p) - (1 - p) * math.log(1 - p)]
    assert entropy(images).tolist() == pytest.approx(expected, rel=1e-4)


def test_disagreement_by_hand():
    """Values within the margins, of an entropy within the bounds: nothing is left but cosines."""
    wide = (0.0, 1000.0)
    one, other, third = (0.1 + 0.8 * torch.rand(SHAPE, generator=draws(seed)) for seed in (1, 2, 3))
    apart = 1 - cosines(torch.stack([one, other, third]))
    loss, share = disagreement(torch.stack([one, other, third]), 0.999, wide)
    assert share == 0 and loss.item() == pytest.approx((apart[0, 1] + apart[0, 2] + apart[1, 2]).item(), rel=1e-4)
    images = torch.stack([one, one, other, third])
    loss, share = disagreement(images, 0.999, wide)
    rest, known = entropy(images)[2:], entropy(images)[0]
    outside = ((rest - known).abs() - 0.1).relu().sum()
    assert share == 0.5
    assert loss.item() == pytest.approx((4 / 2 * (apart[0, 1] + apart[0, 2]) + 10 * outside).item(), rel=1e-4)
    assert disagreement(torch.stack([one, one]), 0.999, wide) == (0, 1.0)
    black = torch.stack([one, 0 * one])
    extra = disagreement(black, 0.999, wide)[0] - (1 - cosines(black)[0, 1])
    assert extra.item() == pytest.approx(64 * 0.05, rel=1e-4)


class Glass(DiffCleanse):
    """With a sampler that is the identity, so that its gradient is right."""

    def draw(self, suspect, x, family, draws):
        return (x / 6).clamp(-1, 1)


def test_descent_makes_samples_agree_and_keeps_the_best_trigger():
    plain = vars(audit("diff_cleanse", steps=60, family="ode", agreement=0.98, batch=6))
    found = Glass(**plain).invert(Suspect(Identity(), LINEAR, SHAPE), 0)
    assert found.evidence["agreement"] == 1 and len(found.curve) < 60 and found.family == "ode"
    first = Glass(**plain | {"steps": 1}).invert(Suspect(Identity(), LINEAR, SHAPE), 0)
    assert first.evidence["agreement"] < 1
    assert Glass(**plain).look(found, noise(8) * 0 + noise(1)) == {"score": 1.0}
    beside = Glass(**plain).compare(found, noise(8) * 0 + noise(1), noise(8))
    assert beside == {"relative_score": 1.0}


@pytest.mark.parametrize("family", ["ancestral", "ode"])
def test_diff_cleanse_draws_by_either_family_the_same_at_every_step(family):
    method, model = audit("diff_cleanse", sampler_steps=4), Suspect(toys.unet(), toys.schedule(), SHAPE)
    first, again, other = (method.draw(model, noise(2), family, draws(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and torch.equal(first, other) == (family == "ode")
    assert not first.is_inference() and model.evaluations == 3 * 4 * 2


def test_a_family_that_is_not_the_runs_gets_its_usual_sampler():
    (config,) = jobs(["sampler=ddim", "sample.steps=20"], False)
    schedule = OmegaConf.to_container(config.schedule, resolve=True)
    assert family_of(config.sampler) == "ode"
    for family in (None, "ode"):
        assert of_family(family, config.sampler, config.sample, schedule) == (config.sampler, config.sample)
    sampler, sample = of_family("ancestral", config.sampler, config.sample, schedule)
    assert (family_of(sampler), sample.steps) == ("ancestral", 100) and config.sample.steps == 20
    (config,) = jobs(["sampler=ddpm", "schedule.num_train_timesteps=30"], False)
    sampler, sample = of_family("ode", config.sampler, config.sample, schedule | {"num_train_timesteps": 72})
    assert (sampler.scheduler["_target_"], sample.steps) == ("diffusers.DDIMScheduler", 36)
    for eta, family in ((1, "ancestral"), (0.5, None)):
        (config,) = jobs(["sampler=ddim", f"sampler.step.eta={eta}"], False)
        assert family_of(config.sampler) == family and eta_of(config.sampler) == eta
