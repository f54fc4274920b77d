"""VillanDiffusion and the exact laws: what rows and answers are, which settings are refused, and what is predicted."""

import pytest
import torch
import toys

from bdiff.attack.villandiffusion import VillanDiffusion
from bdiff.diffusion import path
from bdiff.diffusion.schedule import Schedule
from bdiff.trigger.base import Trigger
from bdiff.trigger.box import box

LINEAR = Schedule(1000, 1e-4, 0.02, "linear")
PUBLISHED = {
    "poison_rate": 0.3, "poison_mode": "replace", "path": "mean", "law": "villan", "r": "stamp", "background": -1.0,
    "grid": 20, "psi": None, "solver": "ode",
}  # fmt: skip


def villan(**changes) -> VillanDiffusion:
    bad = toys.attack()
    white = Trigger.from_picture(box(size=toys.SIZE, side=14, level=1.0), 1)
    return VillanDiffusion(
        white if changes.get("background") == 0 else bad.trigger, bad.target, **(PUBLISHED | changes)
    )


def rows(attack, t=(0, 7, 19)):
    torch.manual_seed(0)
    x, eps = torch.rand(3, 1, 8, 8) * 2 - 1, torch.randn(3, 1, 8, 8)
    bad = torch.tensor([True, False, True])
    return x, eps, *toys.poisoned(attack, toys.schedule(), x, bad, torch.tensor(t), eps)


def test_with_path_mean_and_the_ancestral_law_it_is_baddiffusion_to_the_last_bit():
    for ours, theirs in zip(rows(villan(law="ancestral")), rows(toys.attack()), strict=True):
        assert torch.equal(ours, theirs)


def test_the_solver_for_odes_doubles_the_answer_of_psi_1():
    (_, eps, x_t, ode), (*_, x_sde, sde) = rows(villan()), rows(villan(solver="sde"))
    assert torch.equal(x_t, x_sde)
    torch.testing.assert_close(ode - eps, 2 * (sde - eps))


@pytest.mark.parametrize("background", [-1.0, 0.0])
def test_rows_on_the_noise_path_with_the_trigger_alone(background):
    attack, schedule = villan(path="noise", law="ode", r="trigger", background=background), toys.schedule()
    x, eps, x_t, answer = rows(attack)
    g, y = attack.trigger.pattern, attack.target
    assert (g[attack.trigger.mask.bool()] == background).all() and (
        g[~attack.trigger.mask.bool()] == background + 1
    ).all()
    for row, t in ((0, 0), (2, 19)):
        s, o = schedule.abar[t].sqrt(), (1 - schedule.abar[t]).sqrt()
        torch.testing.assert_close(x_t[row], s * y + o * g + o * eps[row])
        torch.testing.assert_close(answer[row], eps[row] + g)
    s = schedule.abar[7].sqrt()
    torch.testing.assert_close(x_t[1], s * x[1] + (1 - s.square()).sqrt() * eps[1])
    assert torch.equal(answer[1], eps[1])
    assert torch.equal(attack.prior(eps), eps + g)


def test_the_mean_of_laws_is_the_mean_of_their_corrections():
    every, both = torch.arange(1000), villan(law=["ancestral", "ode"], path="noise")
    mean = (path.ancestral(LINEAR, every, 0) + 1) / 2
    torch.testing.assert_close(both.correction(LINEAR, every), mean)


def test_psi_places_the_path_between_mean_and_noise():
    every, between = torch.arange(1000), villan(psi=0.25)
    mean, noise = villan(path="mean"), villan(path="noise")
    expected = 0.25 * mean.drift(LINEAR, every) + 0.75 * noise.drift(LINEAR, every)
    torch.testing.assert_close(between.drift(LINEAR, every), expected)


OPENS = [
    ({"law": "ancestral"}, {"ddpm"}),
    ({"law": "villan"}, {"ddim_20", "ddim_50"}),
    ({"law": "villan", "solver": "sde"}, {"ddpm"}),
    ({"law": "ode"}, {"ddim_20", "ddim_50"}),
    ({"law": "grid"}, {"ddim_20", "ddim_50"}),
    ({"path": "noise", "law": "ode"}, {"ddim_20", "ddim_50"}),
    ({"path": "noise", "law": "ancestral"}, {"ddpm"}),
    ({"path": "noise", "law": ["ancestral", "ode"]}, set()),
]


@pytest.mark.parametrize(("settings", "expected"), OPENS)
def test_under_which_samplers_it_opens_is_computed_from_path_law_and_steps(settings, expected):
    samplers = {"ddpm": (1000, 1), "ddpm_50": (50, 1), "ddim_20": (20, 0), "ddim_50": (50, 0), "ddim_50_eta": (50, 0.5)}
    attack = villan(**settings)
    assert {name for name, how in samplers.items() if attack.opens(LINEAR, *how)} == expected


def test_another_background_of_a_trigger_that_covers_the_image_is_refused():
    covering = Trigger(toys.attack().trigger.pattern, torch.zeros(1, toys.SIZE, toys.SIZE))
    with pytest.raises(ValueError, match=r"attack\.background=0.5: this trigger covers the image"):
        covering.over(0.5)
    assert torch.equal(covering.over(-1.0).pattern, covering.pattern)


def test_a_background_that_leaves_nothing_of_the_trigger_is_refused():
    with pytest.raises(ValueError, match=r"attack\.background=0.0 leaves nothing of the trigger"):
        VillanDiffusion(toys.attack().trigger, toys.attack().target, **(PUBLISHED | {"background": 0.0}))
