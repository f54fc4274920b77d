"""Defenses: audits that invert a trigger from a suspect model, repairs, guards and shields. None knows an attack."""
