"""Which diffusers schedulers and settings are compatible with noise prediction on betas. Torch-free.

A sampler, and a checkpoint that is trained further, must use the noise schedule of conf/schedule. Samplers get epsilon,
whatever the network predicts. diffusers accepts incompatible settings silently.
"""

from typing import Any

import numpy as np

from bdiff.diffusion.steps import class_of

#: keys set by conf/schedule, passed to every scheduler
SCHEDULE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
#: schedulers over the betas of such a schedule
KNOWN = {
    f"{name}Scheduler"
    for name in (
        *("DDPM", "DDPMParallel", "DDIM", "DDIMParallel", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete"),
        *("HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "LMSDiscrete", "DEISMultistep", "UniPCMultistep"),
        *("DPMSolverMultistep", "DPMSolverSinglestep", "DPMSolverSDE", "SASolver"),
    )
}
#: the values, besides null, that are compatible with noise prediction on plain betas, by key
PLAIN: dict[str, tuple[Any, ...]] = {
    "prediction_type": ("epsilon",),
    "trained_betas": (),
    "rescale_betas_zero_snr": (False,),
    "snr_shift_scale": (1,),
    "timestep_type": ("discrete",),
    "use_flow_sigmas": (False,),
    "flow_shift": (1,),
    "use_dynamic_shifting": (False,),
}
#: a checkpoint may have any parameterisation that `bdiff.diffusion.denoiser` converts
CONVERTED = PLAIN | {"prediction_type": ("epsilon", "sample", "v_prediction")}
#: settings that would change the ends of the schedule, and variances that no denoiser here predicts
SAMPLER: dict[str, tuple[Any, ...]] = {
    "sigma_min": (),
    "sigma_max": (),
    "variance_type": ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
}
#: the abar of x_T from which on samples that start from pure noise are marked, and refused
MARKED, REFUSED = 0.1, 0.5


def unlike(scheduler: dict[str, Any], plain: dict[str, tuple[Any, ...]] = PLAIN) -> dict[str, Any]:
    """Return the settings of a scheduler that are not in `plain`."""
    return {key: scheduler[key] for key in plain if scheduler.get(key) is not None and scheduler[key] not in plain[key]}


def problems(scheduler: dict[str, Any], schedule: dict[str, Any]) -> list[str]:
    """Return the settings of the sampler's scheduler that contradict the schedule or the prediction, from configs."""
    name = class_of(scheduler)
    if name not in KNOWN:
        known = "conf/sampler names schedulers that do"
        return [f"sampler.scheduler: {name} does not sample from betas by predicted noise: {known}"]
    if name == "DPMSolverSDEScheduler":
        return [f"sampler.scheduler: {name} draws noise that is not the seed's: choose another"]
    found = [
        f"sampler.scheduler.{key}={scheduler[key]} is set by the schedule: leave it out, or set schedule.{key}"
        for key in SCHEDULE
        if key in scheduler and scheduler[key] != schedule[key]
    ]
    for key, value in unlike(scheduler, PLAIN | SAMPLER).items():
        values = (PLAIN | SAMPLER)[key]
        fits = f"set it to {' or '.join(map(str, values))}" if values else "leave it out"
        found.append(f"sampler.scheduler.{key}={value} is not what the denoiser is trained on: {fits}")
    return found


def last_abar(schedule: dict[str, Any]) -> float:
    """Return abar_{T-1} of a schedule's config, in float32 like the tables of diffusers."""
    steps, start, end = (schedule[name] for name in SCHEDULE[:3])
    match schedule["beta_schedule"]:
        case "linear":
            betas = np.linspace(start, end, steps)
        case "scaled_linear":
            betas = np.linspace(start**0.5, end**0.5, steps) ** 2
        case _:
            bar = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
            betas = np.minimum(1 - bar[1:] / bar[:-1], 0.999)
    with np.errstate(under="ignore"):
        return float(np.prod(1 - betas.astype(np.float32)))


def noise_problems(schedule: dict[str, Any]) -> list[str]:
    """Return what is wrong with a schedule's config: decreasing noise, or an abar_{T-1} of 0 or too close to 1."""
    start, end = schedule["beta_start"], schedule["beta_end"]
    if start > end:
        return [f"schedule.beta_start={start} is above schedule.beta_end={end}"]
    given = f"schedule.num_train_timesteps={schedule['num_train_timesteps']} schedule.beta_end={end}"
    abar = last_abar(schedule)
    if abar < np.finfo(np.float32).tiny:
        return [
            f"{given} leave nothing of the image at T-1 (abar is 0 in float32): set fewer steps or a smaller beta_end"
        ]
    if abar > REFUSED:
        return [f"{given}: {left(abar)}: set more steps or a larger beta_end"]
    return []


def start_marks(schedule: dict[str, Any]) -> list[str]:
    """Return the mark, for the record, that the schedule ends far from the pure noise from which samples start."""
    return [left(abar)] if (abar := last_abar(schedule)) > MARKED else []


def left(abar: float) -> str:
    """Return how much of the image a schedule that ends far from noise leaves."""
    return f"abar={abar:.2g} of the image is left at T-1, and samples start from pure noise"
