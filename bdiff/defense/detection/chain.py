"""PureDiffusion's chain of predictions along a few timesteps, and its losses as functions of the trigger.

Reconstructed: see `bdiff.defense.detection.purediffusion`. With x_t = z_t + h_t tau and eps_th = e_t + c_t tau, z is an
ordinary diffusion of the target and e its noise. So a few large ancestral steps in z show what the suspect would
generate from tau, on any path and under any law.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from bdiff.defense.base import Suspect
from bdiff.defense.detection.coefficients import Shift, stacked
from bdiff.defense.detection.curve import Curve
from bdiff.defense.detection.kept import Kept


class Chain(NamedTuple):
    """The suspect's predictions along a chain of K timesteps: noise, and images; both (K,B,C,H,W)."""

    eps: Tensor
    x0: Tensor


def chain(suspect: Suspect, tau: Tensor, eps: Tensor, noises: Tensor, t: list[int], law: Shift) -> Chain:
    """Sample from eps + tau over the timesteps t, K of them, in the variables z without the trigger.

    tau (C,H,W), eps (B,C,H,W), noises (K,B,C,H,W) the sampler's own noise. Differentiable in tau. With several
    triggers, tau (R,1,C,H,W), what is returned is (K,R,B,C,H,W): all are one batch of the network, each by its own law.
    """
    schedule = suspect.schedule
    z = eps + law.rest[t[0]] * tau  # x_T = eps + tau
    predicted, images = [], []
    for k, now in enumerate(t):
        abar = schedule.abar[now]
        x = z + law.image[now] * tau
        predicted.append(suspect.eps(x.reshape(-1, *suspect.shape), now).view(x.shape))
        own = predicted[-1] - law.noise[now] * tau
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
    law: Shift  # of all taus, or of each
    t: list[int]
    eps: Tensor
    noises: Tensor
    clean: Chain
    shift: float
    spread: float
    consistency: float

    def __call__(self, taus: Tensor) -> Tensor:
        """Return the objective (R,) at each of taus (R,C,H,W)."""
        seen = chain(self.suspect, taus[:, None], self.eps, self.noises, self.t, self.law)
        each = zip(seen.eps.unbind(1), seen.x0.unbind(1), taus, strict=True)
        return torch.stack([self.of(Chain(eps, x0), tau, self.law.of(r)) for r, (eps, x0, tau) in enumerate(each)])

    @property
    def nothing(self) -> float:
        """The objective of a trigger that does nothing: both ratios are 1, and predictions change as the clean ones."""
        changed = consistency_loss(self.clean.x0, self.suspect.schedule.abar[self.t]).item()
        return self.shift + self.spread + self.consistency * changed

    def under(self, laws: Sequence[Shift]) -> "Losses":
        """Return the objective for as many triggers, each by its own law."""
        same = all(one is laws[0] for one in laws)
        return replace(self, law=laws[0] if same else stacked(laws))

    def of(self, seen: Chain, tau: Tensor, law: Shift) -> Tensor:
        """Return the objective of the chain of tau (C,H,W), a scalar."""
        coefficient, abar = (
            torch.stack([table[t] for t in self.t]) for table in (law.noise, self.suspect.schedule.abar)
        )
        loss = self.shift * shift_loss(seen.eps, self.clean.eps, tau, coefficient)
        loss = loss + self.spread * spread_loss(seen.x0, self.clean.x0, abar)
        return loss + self.consistency * consistency_loss(seen.x0, abar)


def descend(
    losses: Losses,
    taus: Tensor,
    steps: int,
    lr: float,
    bound: float,
    watch: Callable[[str], None],
    kept: Kept = Kept(),  # noqa: B008 (it has no path)
) -> tuple[Tensor, list[list[float]]]:
    """Minimize `losses` over each of taus (R,C,H,W) by Adam with a cosine, within [-bound, bound].

    Goes on from what is `kept`, bit for bit. Returns taus and their curves.
    """
    taus = taus.clamp(-bound, bound).requires_grad_()
    optimizer = torch.optim.Adam([taus], lr=lr)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=lr / 20)
    curve = Curve("purediffusion", lr, watch)
    if before := kept.load():
        with torch.no_grad():
            taus.copy_(before["taus"])
        optimizer.load_state_dict(before["optimizer"])
        cosine.load_state_dict(before["cosine"])
        curve.go_on(before["losses"])
        losses.suspect.evaluations = before["evaluations"]
    for _ in range(len(curve.known), steps):
        loss = losses(taus)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        cosine.step()
        with torch.no_grad():
            taus.clamp_(-bound, bound)
        curve.add(loss)
        kept.save(
            lambda: {
                "taus": taus.detach(),
                "optimizer": optimizer.state_dict(),
                "cosine": cosine.state_dict(),
                "losses": curve.all(),
                "evaluations": losses.suspect.evaluations,
            }
        )
    return taus.detach(), curve.each()
