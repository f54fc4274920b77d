"""Noise-shift laws: by how many times its trigger a backdoor of some kind shifts the predicted noise at t.

They are what an inversion assumes of a backdoor, not what it knows of an attack (docs/purediffusion.md derives them).
"""

from torch import Tensor, full_like

from bdiff.defense.check import LAWS
from bdiff.diffusion.schedule import Schedule, ancestral_coefficient


def shift_law(schedule: Schedule, law: str | float) -> Tensor:
    """Return the shift at every timestep, (T,).

    `ancestral` is c_t = sqrt(1 - abar_t) / (1 + sqrt(alpha_t)), for backdoors that ancestral sampling opens; `ode` is
    twice that, for those that are consistent with the probability flow; a number is the same at every t, 0.5 being
    Elijah's. ValueError for anything else.
    """
    if isinstance(law, int | float):
        return full_like(schedule.abar, law)
    if law not in LAWS:
        raise ValueError(f"law={law} is not known: choose from {', '.join(LAWS)}, or a number")
    return (1 + (law == "ode")) * ancestral_coefficient(schedule.abar, schedule.alphas)
