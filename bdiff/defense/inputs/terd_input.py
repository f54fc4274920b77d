"""TERD's input check (Mo et al. 2024, arXiv 2409.05294): the likelihood of a starting noise with an inverted trigger.

By the paper, noise with the trigger is N(mu, gamma^2) per pixel. The authors' code takes gamma itself as the
covariance, and flags what is likelier so than under N(0,1), a score above 0; here the threshold is from clean noise.
"""

import torch
from torch import Tensor

from bdiff.defense.base import Facts, InputCheck, Inversion, Suspect
from bdiff.defense.detection.evidence import LEAST, log_likelihood_ratio
from bdiff.defense.settings import TriggerCheckSettings
from bdiff.diffusion.noise import Noise


class TerdInput(InputCheck):
    """Scores a noise by its log-likelihood ratio, with the trigger that TERD inverts from the model."""

    settings = TriggerCheckSettings
    needs_trigger = True

    def prepare(self, suspect: Suspect, inversion: Inversion | None, seed: int, batch_size: int) -> Facts:
        """Return the inverted mu and gamma, 1 of an additive trigger, (C,H,W) each; see `InputCheck.prepare`."""
        assert inversion is not None
        mu, gamma = inversion.trigger.to(suspect.device), inversion.gamma
        return {"mu": mu, "gamma": torch.ones_like(mu) if gamma is None else gamma.to(mu).clamp(min=LEAST)}

    def score(self, x: Tensor, suspect: Suspect, noise: Noise, facts: Facts) -> Tensor:
        """Return the log-likelihood ratio (B,); see `InputCheck.score`."""
        return log_likelihood_ratio(x, facts["mu"], facts["gamma"])
