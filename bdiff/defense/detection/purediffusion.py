"""PureDiffusion (Truong & Le 2024, arXiv 2409.13945; 2025, arXiv 2502.19047): a trigger inverted along its chain.

Reconstructed from the two abstracts and the derivation in docs/purediffusion.md; the authors' code is not published.
Theirs: inverting a trigger over several timesteps, by the shift of the predicted noise (here `shift`) and by the
consistency of the model's predictions (here `spread` and `consistency`). Ours: the chain's change of variables, the
scales of the losses, and the bound of the trigger.

If tau is the trigger, x_t = z_t + (1 - sqrt(abar_t)) tau and eps_th = e_t + c_t tau, where z is an ordinary diffusion
of the target and e its noise. So a few large ancestral steps in z show what the suspect would generate from tau.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
from torch import Tensor

from bdiff.common.seeds import generator
from bdiff.config.rules import above, at_least, auto_or_number, falling, one_of_or_above
from bdiff.defense.base import Detection, Inversion, Suspect
from bdiff.defense.check import LAWS, timesteps
from bdiff.defense.detection.coefficients import correction_coefficient
from bdiff.defense.detection.curve import Curve
from bdiff.defense.detection.evidence import kl_of, total_variation, uniformity
from bdiff.defense.detection.probe import pass_over, probe
from bdiff.diffusion.mode import Work

TOGETHER = 8  # starts that descend in one batch of the network


class Chain(NamedTuple):
    """The suspect's predictions along a chain of K timesteps: noise, and images; both (K,B,C,H,W)."""

    eps: Tensor
    x0: Tensor


def chain(suspect: Suspect, tau: Tensor, eps: Tensor, noises: Tensor, t: list[int], coefficient: Tensor) -> Chain:
    """Sample from eps + tau over the timesteps t, K of them, in the variables z without the trigger.

    tau (C,H,W), eps (B,C,H,W), noises (K,B,C,H,W) the sampler's own noise, coefficient (T,). Differentiable in tau.
    With several triggers, tau (R,1,C,H,W), what is returned is (K,R,B,C,H,W): all are one batch of the network.
    """
    schedule = suspect.schedule
    z = eps + schedule.abar[t[0]].sqrt() * tau  # x_T = eps + tau
    predicted, images = [], []
    for k, now in enumerate(t):
        abar = schedule.abar[now]
        x = z + (1 - abar.sqrt()) * tau
        predicted.append(suspect.eps(x.reshape(-1, *suspect.shape), now).view(x.shape))
        own = predicted[-1] - coefficient[now] * tau
        images.append((z - (1 - abar).sqrt() * own) / abar.sqrt())
        if k + 1 < len(t):
            z = schedule.step(z, own, now, t[k + 1], noises[k])
    return Chain(torch.stack(predicted), torch.stack(images))


def spread(images: Tensor) -> Tensor:
    """Return the standard deviation (K,) of images (K,B,C,H,W) over their batch, as root mean square over pixels."""
    return (images - images.mean(1, keepdim=True)).square().mean((1, 2, 3, 4)).sqrt()


def shift_loss(triggered: Tensor, clean: Tensor, tau: Tensor, coefficient: Tensor) -> Tensor:
    """Return the mean over timesteps of ||mean_B(triggered - clean) - c_t tau|| / ||c_t tau||.

    Noise predicted along the two chains (K,B,C,H,W), tau (C,H,W), coefficient (K,). Relative to the expected shift, so
    that it is not minimal at tau = 0, where it equals that of a model without a backdoor.
    """
    expected = coefficient.view(-1, 1, 1, 1) * tau
    gap = (triggered - clean).mean(1) - expected
    return (gap.flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)).mean()


def spread_loss(triggered: Tensor, clean: Tensor, abar: Tensor) -> Tensor:
    """Return the sum over timesteps of sqrt(abar) times the spread of predicted images, relative to the clean chain's.

    Images (K,B,C,H,W), abar (K,). Near T the error of a predicted image is divided by sqrt(abar), hence the weight.
    """
    return (abar.sqrt() * spread(triggered)).sum() / (abar.sqrt() * spread(clean)).sum()


def consistency_loss(images: Tensor, abar: Tensor) -> Tensor:
    """Return the mean of sqrt(abar) times the change of predicted images (K,B,C,H,W) per timestep; 0 for K = 1.

    Distances are root mean squares, abar (K,) is that of the earlier timestep.
    """
    if len(images) == 1:
        return images.new_zeros(())
    moved = (images[1:] - images[:-1]).square().mean((1, 2, 3, 4)).sqrt()
    return (abar[:-1].sqrt() * moved).mean()


@dataclass(frozen=True)
class Losses:
    """The chain's objective as a function of tau: the weighted losses on a fixed batch of noise."""

    suspect: Suspect
    coefficient: Tensor  # (T,)
    t: list[int]
    eps: Tensor
    noises: Tensor
    clean: Chain
    shift: float
    spread: float
    consistency: float

    def __call__(self, taus: Tensor) -> Tensor:
        """Return the objective (R,) at each of taus (R,C,H,W)."""
        seen = chain(self.suspect, taus[:, None], self.eps, self.noises, self.t, self.coefficient)
        each = zip(seen.eps.unbind(1), seen.x0.unbind(1), taus, strict=True)
        return torch.stack([self.of(Chain(eps, x0), tau) for eps, x0, tau in each])

    def of(self, seen: Chain, tau: Tensor) -> Tensor:
        """Return the objective of the chain of tau (C,H,W), a scalar."""
        coefficient, abar = (
            torch.stack([table[t] for t in self.t]) for table in (self.coefficient, self.suspect.schedule.abar)
        )
        loss = self.shift * shift_loss(seen.eps, self.clean.eps, tau, coefficient)
        loss = loss + self.spread * spread_loss(seen.x0, self.clean.x0, abar)
        return loss + self.consistency * consistency_loss(seen.x0, abar)


def descend(
    losses: Losses, taus: Tensor, steps: int, lr: float, bound: float, watch: Callable[[str], None]
) -> tuple[Tensor, list[list[float]]]:
    """Minimize `losses` over each of taus (R,C,H,W) by Adam with a cosine, within [-bound, bound].

    Returns taus and their curves.
    """
    taus = taus.clamp(-bound, bound).requires_grad_()
    optimizer = torch.optim.Adam([taus], lr=lr)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=lr / 20)
    curve = Curve("purediffusion", lr, watch)
    for _ in range(steps):
        loss = losses(taus)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        cosine.step()
        with torch.no_grad():
            taus.clamp_(-bound, bound)
        curve.add(loss)
    return taus.detach(), curve.each()


@dataclass
class PureDiffusion(Detection):
    """Inverts a trigger over a chain of timesteps, from several starts, keeping the one with the lowest loss.

    Triggers are pictures, so tau stays within [-bound, bound]: outside, small networks saturate and explain any tau.
    The score is minus the uniformity of samples drawn from it.
    """

    checks = (
        "bdiff.defense.check.chain_problems",
        "bdiff.defense.check.distance_problems",
        "bdiff.defense.check.sample_problems",
    )

    law: Annotated[str | float, one_of_or_above(0, *LAWS), "correction coefficient c_t of the noise; 0.5 is Elijah's"]
    timesteps: Annotated[list[float], falling, "of the chain, as fractions of the schedule"]
    shift: Annotated[float, at_least(0), "weight of the loss on the shift of the noise; 0: off"]
    spread: Annotated[float, at_least(0), "weight of the loss on the spread of predicted images; 0: off"]
    consistency: Annotated[float, at_least(0), "weight of the loss on their change along the chain; 0: off"]
    restarts: Annotated[int, at_least(1), "random starts; the start with the lowest loss is kept"]
    probes: Annotated[int, at_least(0), "additional starts from probes; 0: none"]
    probe_draws: Annotated[int, at_least(8), "samples of each round of a probe"]
    probe_rounds: Annotated[int, at_least(1), "rounds of a probe"]
    steps: Annotated[int, at_least(1), "gradient steps from each start"]
    batch: Annotated[int, at_least(1), "images of noise"]
    lr: Annotated[float, above(0), "of Adam, at the start of its cosine"]
    bound: Annotated[float, above(0), "largest value of the trigger; images are in [-1,1]"]
    samples: Annotated[int, at_least(1), "images drawn from the trigger that are scored"]
    trim: Annotated[int, at_least(0), "distances and images trimmed at both ends of the uniformity"]
    threshold: Annotated[float | None, auto_or_number, "minimum score of a flagged model; null: none is flagged"]

    scores: ClassVar = (-1.0, 0.0)  # minus a mean squared distance on [0,1]

    @property
    def total(self) -> int:
        """See `Detection.total`."""
        return math.ceil(self.own / TOGETHER) * self.steps

    @property
    def starts(self) -> int:
        """See `Detection.starts`."""
        return self.restarts + self.probes

    @property
    def own(self) -> int:
        """The number of starts that one of the processes has at most."""
        return math.ceil(self.starts / self.peers.count)

    @property
    def work(self) -> Work:
        """See `Detection.work`."""
        images = self.starts * self.steps * len(self.timesteps) * self.batch
        return Work(images, min(self.own, TOGETHER) * self.batch, gradients=True)

    def losses(self, suspect: Suspect, seed: int) -> Losses:
        """Return the objective on the noise of `seed`. ValueError if the timesteps do not decrease."""
        t = timesteps(self.timesteps, len(suspect.schedule))
        draws = generator(seed, "purediffusion")
        eps = suspect.noise(self.batch, draws)
        noises = torch.stack([suspect.noise(self.batch, draws) for _ in t])
        coefficient = correction_coefficient(suspect.schedule, self.law)
        with torch.no_grad():
            clean = chain(suspect, torch.zeros(suspect.shape, device=suspect.device), eps, noises, t, coefficient)
        return Losses(suspect, coefficient, t, eps, noises, clean, self.shift, self.spread, self.consistency)

    def invert(self, suspect: Suspect, seed: int, watch: Callable[[str], None] = lambda line: None) -> Inversion:
        """Return the trigger of the start with the lowest loss; see `Detection.invert`."""
        losses, before = self.losses(suspect, seed), suspect.evaluations
        starts = self.begun(suspect, seed, {*self.peers.mine(range(self.starts))})
        own: list[tuple[Tensor, list[float]]] = []
        for first in range(0, len(starts), TOGETHER):
            taus = torch.stack(starts[first : first + TOGETHER])
            taus, curves = descend(losses, taus, self.steps, self.lr, self.bound, watch)
            own += zip(taus.cpu(), curves, strict=True)
        # Processes hear of each other here alone: should a compiler fail before, one of them can begin anew.
        found = self.peers.join(own)
        suspect.evaluations = before + sum(self.peers.gather(suspect.evaluations - before))
        tau, curve = min(found, key=lambda one: math.fsum(one[1][-5:]))
        return Inversion(tau, curve, {"loss": curve[-1]})

    def begun(self, suspect: Suspect, seed: int, chosen: set[int]) -> list[Tensor]:
        """Return those starts (C,H,W) whose numbers are chosen: random ones, then probes.

        All come from one sequence of random numbers, which is gone through whatever is chosen.
        """
        draws = generator(seed, "purediffusion starts")
        randoms = [-torch.rand(suspect.shape, generator=draws).to(suspect.device) for _ in range(self.restarts)]
        starts = [tau for number, tau in enumerate(randoms) if number in chosen]
        for number in range(self.restarts, self.starts):
            if number in chosen:
                starts.append(probe(suspect, self.probe_draws, self.probe_rounds, draws))
            else:
                pass_over(suspect, self.probe_draws, self.probe_rounds, draws)
        return starts

    def look(self, inversion: Inversion, samples: Tensor) -> dict[str, float]:
        """Return `uniformity`, `tv`, the trigger's KL and the score; see `Detection.look`."""
        few = samples[: self.samples]
        same = uniformity(few, self.trim)
        return {"score": -same, "uniformity": same, "tv": total_variation(few), **kl_of(inversion.trigger)}
