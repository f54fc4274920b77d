"""Random seeds as a function of their purpose, so that no stage depends on what ran before it."""

import hashlib

import torch


def seed_of(*parts: int | str) -> int:
    """Return a 63-bit seed that is a function of `parts` alone, e.g. `seed_of(0, "noise", 17)`."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """Return a CPU generator seeded by `seed_of(*parts)`."""
    return torch.Generator().manual_seed(seed_of(*parts))
