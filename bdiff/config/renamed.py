"""Parts under the paths that saved configs of earlier versions have."""

from omegaconf import DictConfig, OmegaConf

from bdiff.config.keys import targets

DETECTION = ("elijah.Elijah", "purediffusion.PureDiffusion", "terd.Terd")
REMOVAL = ("anp.Anp", "finetune.Finetune")
SHIELDS = ("purification.Purification", "certification.Certification")
#: today's path of each part by that of bdiff 0.1
RENAMED = {
    **{f"bdiff.defense.{name}": f"bdiff.defense.detection.{name}" for name in DETECTION},
    **{f"bdiff.defense.{name}": f"bdiff.defense.removal.{name}" for name in REMOVAL},
    **{f"bdiff.defense.{name}": f"bdiff.defense.shields.{name}" for name in SHIELDS},
    "bdiff.defense.removal.Removal": "bdiff.defense.removal.elijah.ElijahRemoval",
    "bdiff.defense.clipping.Clipping": "bdiff.defense.sampling.clipping.Clipping",
    "bdiff.schedule.Schedule": "bdiff.diffusion.schedule.Schedule",
}


def rename(config: DictConfig) -> None:
    """Give the parts that a saved config names the paths of today."""
    for key, target in list(targets(config)):
        if target in RENAMED:
            OmegaConf.update(config, key, RENAMED[target])
