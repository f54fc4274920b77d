"""The numbers of steps that each sampler can take, and its first timestep, checked before torch is imported.

A sampler is valid if its first timestep is the schedule's last, T-1, each step ends where the next begins, and none is
repeated. The numbers of steps for which that holds differ between diffusers' schedulers, which do not check them.
"""

from typing import Any

#: diffusers' default spacing of timesteps
SPACINGS = {"DDPMScheduler": "leading", "DDIMScheduler": "leading", "PNDMScheduler": "leading"}
#: schedulers that step from t to t - T // steps, whatever their timesteps are
STRIDING = ("DDIMScheduler", "PNDMScheduler")
#: schedulers that place steps + 1 timesteps and leave the last one out
MULTISTEP = ("DPMSolverMultistepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler")


def spacing_of(scheduler: dict[str, Any]) -> str:
    """Return how the scheduler of a config places its timesteps: linspace, leading or trailing."""
    return str(scheduler.get("timestep_spacing", SPACINGS.get(class_of(scheduler), "linspace")))


def class_of(scheduler: dict[str, Any]) -> str:
    """Return the name of the class of a config's scheduler."""
    return str(scheduler["_target_"]).rpartition(".")[2]


def first_timestep(scheduler: dict[str, Any], steps: int, length: int) -> int:
    """Return the timestep at which sampling starts: T-1 of a schedule of `length`, or less if spacing is `leading`."""
    if spacing_of(scheduler) != "leading":
        return length - 1
    return int(length // steps * (steps - 1) + scheduler.get("steps_offset", 0))


def step_problem(scheduler: dict[str, Any], steps: int, schedule: dict[str, Any]) -> str | None:
    """Return why the scheduler cannot take `steps` steps of a schedule, or None if it can. Both are configs."""
    name, spacing, length = class_of(scheduler), spacing_of(scheduler), schedule["num_train_timesteps"]
    given = f"sample.steps={steps}"
    if name == "PNDMScheduler" and schedule["beta_schedule"] == "squaredcos_cap_v2":  # variance 1.0 of data of 0.25
        return "sampler=pndm diverges with schedule.beta_schedule=squaredcos_cap_v2: use sampler=ddim, or another"
    if steps > length:
        return f"{given} is more than the schedule's {length}"
    if name in MULTISTEP:
        if spacing != "linspace":
            return f"sampler.scheduler.timestep_spacing={spacing}: {name} needs linspace"
        most = length // 2 if name == "DEISMultistepScheduler" else length - 1  # its weights cancel between neighbours
        return f"{given} is too many: {name} takes at most {most} of {length}" if steps > most else None
    if spacing not in ("linspace", "leading", "trailing"):
        return f"sampler.scheduler.timestep_spacing={spacing} is not known: choose linspace, leading or trailing"
    if name in STRIDING and spacing == "linspace":
        return f"sampler.scheduler.timestep_spacing=linspace: {name} needs trailing or leading"
    if name not in STRIDING and spacing == "trailing":
        return f"sampler.scheduler.timestep_spacing=trailing: {name} needs linspace"
    if spacing == "linspace":
        least = 4 if name == "HeunDiscreteScheduler" else 2  # with fewer, the rounding of Heun's steps is visible
        return f"{given} is too few: {name} takes {least} or more" if steps < least else None
    fits = divisors(length)
    why = f"which are all of one length, so it must divide the schedule's {length}"
    if name == "PNDMScheduler":
        fits = [n for n in fits if n >= 4 and length // n % 2 == 0]
        why = f"which are all of one even length, and 4 or more, so it must divide half of the schedule's {length}"
    if steps in fits:
        return None
    return f"{given} is not valid for {name}'s steps, {why}: use {nearest(steps, fits)}"


def divisors(number: int) -> list[int]:
    """Return the divisors of a number, in increasing order."""
    return [n for n in range(1, number + 1) if number % n == 0]


def nearest(steps: int, fits: list[int]) -> str:
    """Return the numbers closest to `steps` among those that fit, as text; "another sampler" if there are none."""
    around = [n for n in fits if n < steps][-1:] + [n for n in fits if n > steps][:1]
    return " or ".join(map(str, around)) or "another sampler"
