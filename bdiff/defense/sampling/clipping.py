"""BadDiffusion's inference-time clipping (Chou et al. 2023, arXiv 2212.05400, section 5.4)."""

from typing import Any

from bdiff.defense.base import SamplingDefense


class Clipping(SamplingDefense):
    """Clamps the predicted image to [-1,1] at every sampler step; a trigger moves it far out of this range."""

    checks = ("bdiff.defense.check.clipping_problems",)

    def scheduler(self, scheduler: Any) -> Any:
        """Return the scheduler with clip_sample on. ValueError if it cannot clip; see `SamplingDefense.scheduler`."""
        if "clip_sample" not in scheduler.config:
            raise ValueError(f"{type(scheduler).__name__} cannot clip: use sampler=ddpm or sampler=ddim")
        return scheduler.from_config(scheduler.config, clip_sample=True)
