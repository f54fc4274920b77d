"""How the settings of attacks fit together, checked before torch is imported."""

from omegaconf import DictConfig, OmegaConf

from bdiff.config.rules import is_list

LAWS = ("ancestral", "ode", "grid", "villan")


def villandiffusion_problems(config: DictConfig, place: str) -> list[str]:
    """Return what is wrong between the law of VillanDiffusion and its other settings."""
    attack, steps = OmegaConf.select(config, place), config.schedule.num_train_timesteps
    laws = [*attack.law] if is_list(attack.law) else [attack.law]
    problems = []
    if "grid" in laws and steps % attack.grid:
        fits = f"set a divisor of it, such as sample.steps={config.sample.steps} of the sampler"
        problems.append(f"{place}.grid={attack.grid} does not divide schedule.num_train_timesteps={steps}: {fits}")
    if attack.psi is not None and "villan" not in laws:
        problems.append(f"{place}.psi={attack.psi} is of law=villan: set {place}.law=villan, or {place}.path")
    return problems
