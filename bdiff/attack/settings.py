"""The settings of an attack's node of conf/attack that describe it, not the constructor's."""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class AttackSettings:
    """What is said of an attack in tables, and changes nothing of what it does."""

    adaptive_to: Annotated[list[str], "defenses that it knows and was made against, by their options"]
