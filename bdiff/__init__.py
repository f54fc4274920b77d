"""bdiff: train, measure and defend against backdoors in diffusion models, from one configured command."""

from importlib.metadata import version

__version__ = version("bdiff")
