"""CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test photographs, 32x32, of 10 classes."""

from functools import partial

from bdiff.data.cifar import archive, home
from bdiff.data.dataset import Dataset

cifar10 = Dataset(
    "cifar10",
    home=home("CIFAR10"),
    official=partial(archive, "CIFAR10"),
    sizes={"train": 50_000, "test": 10_000},
    classes=10,
)
