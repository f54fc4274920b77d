"""PureDiffusion (Truong & Le 2024, arXiv 2409.13945; 2025, arXiv 2502.19047): a trigger inverted along its chain.

Reconstructed from the two abstracts and the derivation in docs/purediffusion.md; the authors' code is not published.
Theirs: inverting a trigger over several timesteps, by the shift of the predicted noise (here `shift`) and by the
consistency of the model's predictions (here `spread` and `consistency`), and judging by the trigger and the targets
that it generates. Ours: the chain's change of variables, the scales of the losses, the bound of the trigger, how the
two judgements are put together, and the search where neither path nor law is known.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from bdiff.common.seeds import generator
from bdiff.config.rules import above, at_least, auto_or_number, falling, one_of, one_of_or_above
from bdiff.defense.base import Detection, Inversion, Suspect
from bdiff.defense.check import LAWS, PATHS, timesteps
from bdiff.defense.detection.chain import Losses, chain, descend
from bdiff.defense.detection.coefficients import shift_of
from bdiff.defense.detection.evidence import (
    kl_of,
    relative_uniformity,
    specific_uniformity,
    total_variation,
    uniformity,
)
from bdiff.defense.detection.kept import Kept
from bdiff.defense.detection.probe import STEPS, pass_over, probe, sampled
from bdiff.defense.settings import PureDiffusionSettings
from bdiff.diffusion.mode import Work

TOGETHER = 8  # starts that descend in one batch of the network
EACH = "each"  # path or law that the defender does not know


class Search(NamedTuple):
    """One descent: from a start, along a path and under a law."""

    path: str
    law: str | float
    start: int  # its number


Pair = tuple[str, str | float]  # a path and a law
Result = tuple[Search, Tensor, list[float]]  # of a search: the trigger, and the losses


@dataclass
class PureDiffusion(Detection):
    """Inverts a trigger over a chain of timesteps, from several starts, keeping the one with the lowest loss.

    Triggers are pictures, so tau stays within [-bound, bound]: outside, small networks saturate and explain any tau.
    The score is minus the uniformity of samples drawn from it. Where path or law is `each`, every one is tried from
    every start, and the one whose trigger makes samples agree most is kept.
    """

    checks = (
        "bdiff.defense.check.chain_problems",
        "bdiff.defense.check.distance_problems",
        "bdiff.defense.check.sample_problems",
    )
    settings = PureDiffusionSettings
    compares = True

    law: Annotated[
        str | float, one_of_or_above(0, *LAWS, "each"), "correction coefficient c_t of the noise; 0.5 is Elijah's"
    ]
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
    path: Annotated[str, one_of(*PATHS, "each"), "of the trigger: 1 - sqrt(abar) or sqrt(1 - abar) of it in x_t"] = (
        "mean"
    )

    @property
    def total(self) -> int:
        """See `Detection.total`."""
        return math.ceil(self.own / TOGETHER) * self.steps

    @property
    def pairs(self) -> list[Pair]:
        """The paths and laws that are tried."""
        return [*product(PATHS if self.path == EACH else [self.path], LAWS if self.law == EACH else [self.law])]

    @property
    def families(self) -> list[str]:
        """The families of samplers that these laws belong to; a number is taken for ancestral."""
        found = ["ode" if law == "ode" else "ancestral" for _, law in self.pairs]
        return [*dict.fromkeys(found)]

    @property
    def searches(self) -> list[Search]:
        """All descents: along every path and under every law from each random start and its family's probes."""
        found = []
        for path, law in self.pairs:
            first = self.restarts + self.families.index("ode" if law == "ode" else "ancestral") * self.probes
            found += [Search(path, law, start) for start in (*range(self.restarts), *range(first, first + self.probes))]
        return found

    @property
    def version(self) -> int:
        """See `Detection.version`.

        Until 0.2.0 law=ode was twice the ancestral c_t, and of several laws blanks won; later, the evidence lacked
        what a trigger loses that does nothing.
        """
        if self.consistency:
            return 3
        return 2 if self.law in ("ode", EACH) or self.path == EACH else 1

    @property
    def starts(self) -> int:
        """See `Detection.starts`."""
        return len(self.searches)

    @property
    def own(self) -> int:
        """The number of starts that one of the processes has at most."""
        return math.ceil(self.starts / self.peers.count)

    @property
    def work(self) -> Work:
        """See `Detection.work`."""
        images = self.starts * self.steps * len(self.timesteps) * self.batch
        return Work(images, min(self.own, TOGETHER) * self.batch, gradients=True)

    @property
    def forward_images(self) -> int:
        """See `Detection.forward_images`: of probes, of the clean chain, and of samples that choose among laws."""
        probes = len(self.families) * self.probes * self.probe_rounds * self.probe_draws
        drawn = len(self.pairs) + len({law for _, law in self.pairs}) if len(self.pairs) > 1 else 0
        return STEPS * (probes + drawn * self.samples) + len(self.timesteps) * self.batch

    @property
    def alive(self) -> int:
        """See `Detection.alive`: gradients go through the chain."""
        return len(self.timesteps)

    def losses(self, suspect: Suspect, seed: int) -> Losses:
        """Return the objective on the noise of `seed`, by the first path and law.

        ValueError if the timesteps do not decrease.
        """
        t = timesteps(self.timesteps, len(suspect.schedule))
        draws = generator(seed, "purediffusion")
        eps = suspect.noise(self.batch, draws)
        noises = torch.stack([suspect.noise(self.batch, draws) for _ in t])
        law = shift_of(suspect.schedule, *self.pairs[0])
        with torch.no_grad():  # without a trigger, every law is the same
            clean = chain(suspect, torch.zeros(suspect.shape, device=suspect.device), eps, noises, t, law)
        return Losses(suspect, law, t, eps, noises, clean, self.shift, self.spread, self.consistency)

    def invert(self, suspect: Suspect, seed: int, watch: Callable[[str], None] = lambda line: None) -> Inversion:
        """Return the trigger of the search with the lowest loss; see `Detection.invert`."""
        losses, before = self.losses(suspect, seed), suspect.evaluations
        laws = {pair: shift_of(suspect.schedule, *pair) for pair in self.pairs}
        searches = [*self.peers.mine(self.searches)]
        starts = self.begun(suspect, seed, {one.start for one in searches})
        own: list[Result] = []
        for first in range(0, len(searches), TOGETHER):
            group = searches[first : first + TOGETHER]
            objective = losses.under([laws[one.path, one.law] for one in group])
            taus = torch.stack([starts[one.start] for one in group])
            name = "_".join("-".join(map(str, one)) for one in group)  # other processes may have other groups
            kept = Kept(self.state and self.state / f"{name}.pt")
            taus, curves = descend(objective, taus, self.steps, self.lr, self.bound, watch, kept)
            own += zip(group, taus.cpu(), curves, strict=True)
        # Processes hear of each other here alone: should a compiler fail before, one of them can begin anew.
        found = self.peers.join(own)
        suspect.evaluations = before + sum(self.peers.gather(suspect.evaluations - before))
        best = self.best(found, suspect, seed)
        return replace(best, evidence=best.evidence | {"nothing": losses.nothing}) if self.consistency else best

    def best(self, found: list[Result], suspect: Suspect, seed: int) -> Inversion:
        """Return the inversion with the lowest loss at its end; of several laws, by the one with the most support."""
        ends = sorted(found, key=lambda one: math.fsum(one[2][-5:]))
        leaders = {(one[0].path, one[0].law): one for one in reversed(ends)}
        support = self.support(suspect, leaders, seed) if len(leaders) > 1 else {}
        search, tau, curve = leaders[max(support, key=lambda pair: support[pair])] if support else ends[0]
        each = {f"support_{path}_{law}": value for (path, law), value in support.items()}
        family = search.law if isinstance(search.law, str) else None
        return Inversion(tau, curve, {"loss": curve[-1], **each}, family=family)

    def support(self, suspect: Suspect, leaders: dict[Pair, Result], seed: int) -> dict[Pair, float]:
        """Return how much less samples vary from the trigger of a path and law than without, unless they are blank.

        Samples take a few steps of the law's family. Losses of different laws cannot be compared: under `ode` a
        clean model too passes a trigger that looks like noise on to its prediction.
        """
        eps = suspect.noise(self.samples, generator(seed, "purediffusion support"))

        def drawn(x: Tensor, law: str | float) -> Tensor:
            return sampled(suspect, x, None if law == "ode" else generator(seed, "purediffusion support", "sampler"))

        clean = {law: drawn(eps, law) for law in {law for _, law in leaders}}
        return {
            (path, law): specific_uniformity(drawn(eps + tau.to(eps), law), clean[law], self.trim)
            for (path, law), (_, tau, _) in leaders.items()
        }

    def begun(self, suspect: Suspect, seed: int, chosen: set[int]) -> dict[int, Tensor]:
        """Return those starts (C,H,W) whose numbers are chosen: random ones, then probes of each family.

        All come from one sequence of random numbers, which is gone through whatever is chosen.
        """
        draws = generator(seed, "purediffusion starts")
        randoms = [-torch.rand(suspect.shape, generator=draws).to(suspect.device) for _ in range(self.restarts)]
        starts = {number: tau for number, tau in enumerate(randoms) if number in chosen}
        probes = [family for family in self.families for _ in range(self.probes)]
        for number, family in enumerate(probes, self.restarts):
            made = probe if number in chosen else pass_over
            tau = made(suspect, self.probe_draws, self.probe_rounds, draws, family == "ode")
            starts |= {number: tau} if tau is not None else {}
        return starts

    def look(self, inversion: Inversion, samples: Tensor) -> dict[str, float]:
        """Return `uniformity`, `tv`, the trigger's KL and the score; see `Detection.look`."""
        few = samples[: self.samples]
        same = uniformity(few, self.trim)
        return {"score": -same, "uniformity": same, "tv": total_variation(few), **kl_of(inversion.trigger)}

    def compare(self, inversion: Inversion, samples: Tensor, clean: Tensor) -> dict[str, float]:
        """Return the target's, the trigger's and the combined score; see `Detection.compare`.

        `relative_score` is of the generated target: the samples' uniformity relative to clean ones'; `specific_score`
        is the same, less where that target is blank. `trigger_score` is 1 minus the loss in units of that of a trigger
        that does nothing. `combined_score` is the mean of the first and the last.
        """
        few, beside = samples[: self.samples], clean[: self.samples]
        target = relative_uniformity(few, beside, self.trim)
        nothing = inversion.evidence.get("nothing", self.shift + self.spread)
        trigger = 1 - inversion.evidence["loss"] / nothing if nothing else 0.0
        return {
            "relative_score": target,
            "specific_score": specific_uniformity(few, beside, self.trim),
            "trigger_score": trigger,
            "combined_score": (target + trigger) / 2,
        }
