"""Parts and options that were renamed since earlier versions."""

import sys

from omegaconf import DictConfig, OmegaConf

from bdiff.config.keys import targets

DETECTION = ("elijah.Elijah", "purediffusion.PureDiffusion", "terd.Terd")
REMOVAL = ("anp.Anp", "finetune.Finetune")
SHIELDS = ("purification.Purification", "certification.Certification")
#: current path of each part by its path in bdiff 0.1
RENAMED = {
    **{f"bdiff.defense.{name}": f"bdiff.defense.detection.{name}" for name in DETECTION},
    **{f"bdiff.defense.{name}": f"bdiff.defense.removal.{name}" for name in REMOVAL},
    **{f"bdiff.defense.{name}": f"bdiff.defense.shields.{name}" for name in SHIELDS},
    "bdiff.defense.removal.Removal": "bdiff.defense.removal.elijah.ElijahRemoval",
    "bdiff.defense.clipping.Clipping": "bdiff.defense.sampling.clipping.Clipping",
    "bdiff.schedule.Schedule": "bdiff.diffusion.schedule.Schedule",
}
#: current name of each option by its name in bdiff 0.1, still accepted in this version
OPTIONS = {
    **{
        f"{place}.{old}": f"{place}.{new}"
        for place in ("classifier", "surrogate")
        for old, new in (
            ("hold_out", "val_fraction"),
            ("smoothing", "label_smoothing"),
            ("shift", "random_crop_padding"),
        )
    },
    "defense.at_once": "defense.batch_size",
    "defense.votes": "defense.copies",
    "defense.strip.blends": "defense.strip.overlays",
    "defense.removal.unshift": "defense.removal.shift_weight",
    "defense.removal.keep": "defense.removal.clean_weight",
}


def today(word: str) -> str:
    """Return an override with its option's current name, and print a notice on stderr if it was renamed."""
    key, equals, value = word.partition("=")
    name = key.lstrip("+~")
    if name not in OPTIONS:
        return word
    print(f"bdiff: {name} is now {OPTIONS[name]}; the old name will be removed in the next version", file=sys.stderr)
    return f"{key.removesuffix(name)}{OPTIONS[name]}{equals}{value}"


def rename(config: DictConfig) -> None:
    """Replace the names of parts and options of a saved config with the current ones."""
    for old, new in OPTIONS.items():
        parent, _, name = old.rpartition(".")
        holder = OmegaConf.select(config, parent)
        if isinstance(holder, DictConfig) and name in holder:
            OmegaConf.update(config, new, holder.pop(name))
    for key, target in list(targets(config)):
        if target in RENAMED:
            OmegaConf.update(config, key, RENAMED[target])
