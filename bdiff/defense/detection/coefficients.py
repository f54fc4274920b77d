"""Correction coefficients c_t: a backdoor shifts the noise predicted at t by c_t times its trigger.

An inversion assumes one of them; it does not know the attack (docs/purediffusion.md derives them).
"""

from torch import Tensor, full_like

from bdiff.defense.check import LAWS
from bdiff.diffusion.schedule import Schedule, ancestral_coefficient


def correction_coefficient(schedule: Schedule, law: str | float) -> Tensor:
    """Return c_t at every timestep, (T,).

    `ancestral` is c_t = sqrt(1 - abar_t) / (1 + sqrt(alpha_t)), for backdoors that ancestral sampling activates; `ode`
    is twice that, for those that are consistent with the probability flow; a number is used at every t, and 0.5 is
    Elijah's. ValueError for anything else.
    """
    if isinstance(law, int | float):
        return full_like(schedule.abar, law)
    if law not in LAWS:
        raise ValueError(f"law={law} is not known: choose from {', '.join(LAWS)}, or a number")
    return (1 + (law == "ode")) * ancestral_coefficient(schedule.abar, schedule.alphas)
