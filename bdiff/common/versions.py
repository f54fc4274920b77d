"""Versions of the stages' code, which keys hold. Imports nothing."""

#: raised when the code of a stage changes what it makes
VERSION = {
    "classifier": 1,
    "trigger": 1,
    "train": 1,
    "sample": 3,
    "reference": 2,
    "activations": 1,
    "measure": 4,
    "audit": 1,
    "repair": 1,
    "amplify": 1,
    "inputs": 1,
    "shield": 2,
}
