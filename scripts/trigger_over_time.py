"""Draw a model's response to its trigger, and to other pictures, over the timesteps: docs/trigger_over_time.png.

    python scripts/trigger_over_time.py <run folder of a backdoored model> <run folder of a clean one> <file.png>

Left: distance of the shift of the predicted noise from c_t tau, relative to it. Right: spread of the predicted images
over a batch, relative to the chain without tau. Both are low only for the true trigger in its own model.
"""

import sys
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from omegaconf import OmegaConf

from bdiff.common.seeds import generator
from bdiff.config.instantiate import make
from bdiff.defense.detection.coefficients import correction_coefficient
from bdiff.diffusion.denoiser import Suspect
from bdiff.model import checkpoint
from bdiff.report.figures import save
from bdiff.store.artifacts import read_json
from bdiff.trigger.base import Trigger

BATCH = 64


@torch.no_grad()
def over_time(suspect: Suspect, tau: torch.Tensor) -> tuple[list[float], list[float]]:
    """Return the distance of the shift from c_t tau and the relative spread, at every timestep from the last down."""
    schedule, coefficient = suspect.schedule, correction_coefficient(suspect.schedule, "ancestral")
    draws = generator(0, "trigger over time")
    clean = suspect.noise(BATCH, draws)
    x = clean + tau
    gaps, spreads = [], []
    for t in reversed(range(len(schedule))):
        eps, own = suspect.eps(x, t), suspect.eps(clean, t)
        gaps.append((((eps - own).mean(0) - coefficient[t] * tau).norm() / (coefficient[t] * tau).norm()).item())
        when = torch.full((BATCH,), t)
        seen, plain = schedule.x0(x, eps, when), schedule.x0(clean, own, when)
        spreads.append((seen.std(0).square().mean() / plain.std(0).square().mean()).sqrt().item())
        noise = suspect.noise(BATCH, draws) if t else None
        x, clean = schedule.step(x, eps, t, t - 1, noise), schedule.step(clean, own, t, t - 1, noise)
    return gaps, spreads


def suspect_of(folder: Path) -> tuple[Suspect, torch.Tensor]:
    """Return the model of a run and the run's trigger."""
    config, record = OmegaConf.load(folder / "config.yaml"), read_json(folder / "metrics.json")
    shape = (config.data.channels, config.data.size, config.data.size)
    pattern = Trigger.from_picture(make(config.trigger, size=shape[1]), shape[0]).pattern
    return checkpoint.suspect(Path(record["model"]), make(config.schedule), shape, torch.device("cpu")), pattern


def main() -> None:
    """Draw the figure."""
    backdoored, clean, path = map(Path, sys.argv[1:])
    (bad, trigger), (good, _) = suspect_of(backdoored), suspect_of(clean)
    shown = {
        "its trigger": (bad, trigger, "#b5301d", "-"),
        "half its trigger": (bad, trigger / 2, "#b5301d", ":"),
        "noise as strong": (bad, trigger.std() * torch.randn(trigger.shape, generator=generator(1)), "#1f5fa8", "-"),
        "black": (bad, -torch.ones_like(trigger), "#555555", "-"),
        "the same trigger, clean model": (good, trigger, "#3a8a3a", "--"),
    }
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), facecolor="white", layout="constrained")
    for name, (suspect, tau, colour, style) in shown.items():
        for box, values in zip(axes, over_time(suspect, tau), strict=True):
            box.plot(range(len(values) - 1, -1, -1), values, label=name, color=colour, linestyle=style)
    axes[0].set(title="shift of the noise: distance from c_t tau", ylim=(0, 1.2))
    axes[1].set(title="spread of the predicted images", ylim=(0.05, 8), yscale="log")
    for box in axes:
        box.set(xlabel="timestep (sampling runs to the right)", xlim=(99, 5))
        box.grid(alpha=0.25)
    axes[1].legend(fontsize=8)
    save(figure, path, dpi=140)


if __name__ == "__main__":
    main()
