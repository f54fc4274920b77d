"""CIFAR-100 (Krizhevsky 2009): 50,000 training and 10,000 test photographs, 32x32, of 100 classes."""

from functools import partial

from bdiff.data.cifar import archive, home
from bdiff.data.dataset import Dataset

cifar100 = Dataset(
    "cifar100",
    home=home("CIFAR100"),
    official=partial(archive, "CIFAR100"),
    sizes={"train": 50_000, "test": 10_000},
    classes=100,
)
