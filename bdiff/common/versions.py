"""Versions of the stages' code, which are part of their keys. Imports nothing."""

#: incremented when a change of a stage's code changes its result
VERSION = {
    "classifier": 1,
    "trigger": 1,
    "train": 1,
    "sample": 3,
    "reference": 2,
    "activations": 1,
    "measure": 5,
    "suspect": 1,
    "audit": 1,
    "repair": 1,
    "amplify": 2,
    "inputs": 2,
    "shield": 2,
}
