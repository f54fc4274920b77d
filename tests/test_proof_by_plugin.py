"""Proof that a method is one file and one yaml: every kind of part, in packages outside the repository, in one run."""

from pathlib import Path

import pytest
from packages import forget, install, installed_as_written

import bdiff
from bdiff.cli.new.command import write
from bdiff.config.compose import jobs

#: scales and shifts the noise, as TrojDiff (Chen et al. 2023) does; its samples are drawn in variables of their own
ATTACK = '''
"""Noise that a trigger scales and shifts: x_t = sqrt(abar) y + sqrt(1 - abar) (gamma eps + mu), regressed on eps."""

from typing import Annotated, Any

import torch
from torch import Tensor

from bdiff.attack.base import Attack
from bdiff.config.rules import fraction, one_of
from bdiff.diffusion.denoiser import Denoiser
from bdiff.diffusion.objective import Draw, Noised, Rows
from bdiff.diffusion.schedule import Schedule
from bdiff.diffusion.view import View
from bdiff.trigger.base import Trigger

MODES = ("faint", "strong")
GAMMA = {"faint": 0.9, "strong": 0.4}


class Seen(View):
    """x_t = gamma z_t + sqrt(1 - abar_t) mu: z is an ordinary diffusion with the same noise."""

    def __init__(self, denoiser: Denoiser, gamma: float, mu: Tensor):
        super().__init__(denoiser)
        self.gamma, self.mu = gamma, mu

    def enter(self, x: Tensor) -> Tensor:
        return (x - self.mu.to(x)) / self.gamma

    def show(self, z: Tensor, t: Tensor | float) -> Tensor:
        _, o = self.denoiser.schedule.scales(self.denoiser.at(t, len(z)))
        return self.gamma * z + o * self.mu.to(z)

    def leave(self, z: Tensor) -> Tensor:
        return self.gamma * z


class Surf(Attack):
    """`mode` says how much of the noise is left."""

    def __init__(
        self,
        trigger: Trigger,
        target: Tensor,
        poison_rate: Annotated[float, fraction, "of the training rows"],
        mode: Annotated[str, one_of(*MODES), "how strongly the trigger replaces the noise"],
    ):
        super().__init__(trigger, target, poison_rate)
        self.mode, self.gamma = mode, GAMMA[mode]
        self.mu = (1 - self.gamma) * trigger.pattern

    def poison(self, schedule: Schedule, rows: Rows, draw: Draw) -> Noised:
        t, eps = draw.t(), draw.eps()
        bad = rows.poisoned.view(-1, 1, 1, 1)
        x0 = torch.where(bad, self.target.to(eps), rows.x)
        return Noised(schedule.add_noise(x0, torch.where(bad, self.prior(eps), eps), t), t, eps)

    def prior(self, eps: Tensor) -> Tensor:
        return self.gamma * eps + self.mu.to(eps)

    def view(self, denoiser: Denoiser) -> View:
        return Seen(denoiser, self.gamma, self.mu)

    @property
    def start_key(self) -> Any:
        return ["Surf", self.mode]
'''

#: the other kinds, by the template that each is written from: its group, and what a run says for it
OTHERS = {
    "data": ("data", []),
    "trigger": ("trigger", []),
    "detection": ("defense", ["defense.steps=2", "defense.batch=4", "defense.samples=4"]),
    "removal": ("defense", ["defense.train.steps=2", "defense.train.batch_size=4"]),
    "inputs": ("defense", ["defense.count=128"]),
    "sampling": ("defense", []),
    "shield": ("defense", ["defense.images=8", "defense.adversary.steps=1", "classifier.train.steps=2"]),
}
#: what only a run with that defense tells
TOLD = {
    "detection": "audit/score",
    "removal": "repaired/asr",
    "inputs": "inputs/auroc",
    "sampling": "guarded/asr",
    "shield": "shield/clean/accuracy",
}
TINY = [
    "data=reef_data", "trigger=reef_trigger", "attack=surf", "data.limit=32", "model.unet.block_out_channels=[8,8,8]",
    "train.steps=4", "train.batch_size=16", "sample.count=8", "sample.batch_size=8", "sample.steps=3",
    "metric/fid=none", "runtime.device=cpu", "runtime.threads=1", "tracker=none",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def packages(tmp_path_factory):
    """A package with a part of every kind each, installed outside the repository."""
    place = tmp_path_factory.mktemp("site")
    yaml = "_target_: surf.surf.Surf\npoison_rate: 0.5\nmode: faint\n"
    install(place, "surf", {"surf/__init__.py": "", "surf/surf.py": ATTACK, "surf/conf/attack/surf.yaml": yaml})
    paths = [place]
    for kind, (group, _) in OTHERS.items():
        write(place / f"reef_{kind}", kind, group, f"reef_{kind}")
        paths.append(installed_as_written(place / f"reef_{kind}"))
    with pytest.MonkeyPatch.context() as patch:
        for path in paths:
            patch.syspath_prepend(path)
        forget()
        yield
    forget()


def run(home: Path, *words: str) -> bdiff.Record:
    """A tiny run of the plugins' parts, sharing what can be shared with the others."""
    return bdiff.run([*TINY, *words, f"paths.outputs={home}/outputs", f"paths.cache={home}/cache"])


@pytest.mark.parametrize("kind", TOLD)
def test_every_role_is_carried_out_on_the_attack_s_model(kind, home):
    record = run(home, f"defense=reef_{kind}", *OTHERS[kind][1])
    assert record.status == "done" and {"suspect/asr", "suspect/mse", TOLD[kind]} < {*record.metrics}
    chosen = {group: record.settings[group] for group in ("attack", "data", "trigger", "defense")}
    assert chosen == {"attack": "surf", "data": "reef_data", "trigger": "reef_trigger", "defense": f"reef_{kind}"}


def test_the_attack_s_own_mode_changes_its_model_and_its_samples(home):
    faint, strong = run(home), run(home, "attack.mode=strong")
    assert faint.keys["train"] != strong.keys["train"]
    assert faint.metrics["suspect/mse"] != strong.metrics["suspect/mse"]


def test_the_attack_s_own_mode_is_judged_by_its_own_rule():
    with pytest.raises(bdiff.RequestError) as caught:
        jobs(["attack=surf", "attack.mode=redirect", "attack.poison_rate=2"], False)
    assert sorted(caught.value.problems) == [
        "attack.mode=redirect is not known (choose from faint, strong)",
        "attack.poison_rate=2 is not a fraction: choose a value from 0 to 1",
    ]


def test_samples_are_drawn_through_the_attack_s_own_view(home, monkeypatch):
    plain = run(home, "attack.mode=strong")
    from surf.surf import Surf

    from bdiff.diffusion.view import View

    monkeypatch.setattr(Surf, "view", lambda self, denoiser: View(denoiser))
    monkeypatch.setattr(Surf, "start_key", "without a view")
    assert run(home, "attack.mode=strong").metrics["suspect/mse"] != plain.metrics["suspect/mse"]
