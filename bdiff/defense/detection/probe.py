"""Finding a trigger without gradients: noise of high variance sometimes activates a backdoor, with identical samples.

Ours, developed on triggers that look like noise. A model's prediction at a tau far from its trigger says nothing about
the trigger, so descent from a random start fails. But noise of 1.75 times the standard deviation has, in a few of a
hundred draws, a component along the trigger that suffices; and all samples of an active backdoor are the same picture.
So the draws whose samples have near duplicates point towards the trigger on average, and a few rounds of selecting
them, as in the cross-entropy method (Rubinstein 1999), move that average towards it.
"""

from functools import partial

import torch
from torch import Tensor

from bdiff.defense.base import Suspect

STEPS = 20  # ancestral steps of a sample: enough to compare samples
NEIGHBOURS = 3  # nearest samples that the distance is averaged over
HEAT = (1.75, 1.25, 1.0)  # standard deviation of the noise in each round; 1 in later ones
FRACTION = 0.06  # of the draws selected in the first round, twice as many in the second and so on


@torch.no_grad()
def probe(suspect: Suspect, draws: int, rounds: int, generator: torch.Generator, ode: bool = False) -> Tensor:
    """Return a start (C,H,W) for an inversion: the mean of the noise with the most similar samples, after `rounds`.

    Samples are ancestral, or by DDIM for backdoors that only ODE samplers open.
    """
    tau = torch.zeros(suspect.shape, device=suspect.device)
    for turn in range(rounds):
        heat = HEAT[min(turn, len(HEAT) - 1)]
        start = tau + heat * suspect.noise(draws, generator)
        chosen = doubles(sampled(suspect, start, None if ode else generator)).argsort()
        tau = start[chosen[: max(NEIGHBOURS + 1, round(FRACTION * (turn + 1) * draws))]].mean(0)
    return tau


def pass_over(suspect: Suspect, draws: int, rounds: int, generator: torch.Generator, ode: bool = False) -> None:
    """Draw from the generator what a probe would draw, which another process makes."""
    each = 1 if ode else min(STEPS, len(suspect.schedule))  # a round's starts, and the noise of all steps but one
    for _ in range(rounds * each):
        suspect.noise(draws, generator)


@torch.no_grad()
def sampled(suspect: Suspect, x: Tensor, generator: torch.Generator | None, steps: int = STEPS) -> Tensor:
    """Return images (B,C,H,W) in [-1,1] from x_T after a few ancestral steps, or DDIM's without a generator."""
    last = len(suspect.schedule) - 1
    path = [*torch.linspace(last, 0, min(steps, last + 1)).round().int().tolist(), -1]
    draw = partial(suspect.noise, len(x), generator) if generator else None
    return suspect.schedule.walk(x, suspect.eps, path, draw).clamp(-1, 1)


def doubles(images: Tensor) -> Tensor:
    """Return the mean squared distance (B,) of each image (B,C,H,W) to its nearest neighbours."""
    flat = images.flatten(1)
    distances = torch.cdist(flat, flat).square() / flat.shape[1]
    return distances.fill_diagonal_(float("inf")).sort(1).values[:, :NEIGHBOURS].mean(1)
