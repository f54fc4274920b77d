"""How people keep pictures: which folders are splits, which are classes, and which hold annotations."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

#: words for splits, in any case; of several held-out ones the first that has the training's classes
TRAIN = ("train", "training", "trn")
HELD_OUT = ("test", "testing", "tst", "val", "valid", "validation", "dev", "eval", "holdout")
#: what may follow such a word: training_set, val2017, test-images
SPLIT = re.compile(rf"({'|'.join(TRAIN + HELD_OUT)})(?:[-_ ]?(?:set|data|images?|imgs?|split|\d+))?")
CELEBA_MASKS = "CelebAMask-HQ-mask-anno"  # masks of parts of faces, beside CelebA-HQ-img
#: folders of pictures that are drawn over others
ANNOTATIONS = re.compile(r"masks|annotations?|ground_?truths?|labels|segmentations?|segmentation(class|object)|trimaps")

Folders = tuple[str, ...]


def is_hidden(name: str) -> bool:
    """Return whether a file or a folder above it is one that systems hide."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def folders_of(name: str) -> Folders:
    """Return the folders that a file lies in, the outermost first."""
    return tuple(name.split("/")[:-1])


def common(places: Iterable[Folders]) -> int:
    """Return with how many of the same folders all of `places` begin."""
    return sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, zip(*places, strict=False)))


def split_word(folder: str) -> str | None:
    """Return the word for a split that a folder is called by, or None."""
    found = SPLIT.fullmatch(folder.lower())
    return found[1] if found else None


def annotations(names: list[str]) -> str | None:
    """Return a folder that holds annotations, where other pictures lie beside it."""
    found = {name: [part for part in folders_of(name) if ANNOTATIONS.fullmatch(part.lower())] for name in names}
    drawn = sorted({parts[0] for parts in found.values() if parts})
    return drawn[0] if drawn and not all(found.values()) else None


@dataclass
class Layout:
    """What the folders of sorted `pictures` mean: train/ beside test/ or val/, above the classes or below them."""

    pictures: list[str]
    noted: dict[str, str]  # the classes of pictures that a file beside them tells

    @cached_property
    def folders(self) -> list[Folders]:
        return sorted({folders_of(name) for name in self.pictures})

    @cached_property
    def depth(self) -> int | None:
        """How deep the folders that are splits lie; None where there are none.

        Other folders may stand beside them (and belong to no split) only where no folder branches off above.
        """
        fork = common(self.folders)
        for depth in range(max(map(len, self.folders))):
            words = {split_word(folders[depth]) if len(folders) > depth else None for folders in self.folders}
            if words & set(TRAIN) and words & set(HELD_OUT) and (depth == fork or None not in words):
                return depth
        return None

    def split_of(self, folders: Folders) -> str | None:
        """Return the word of the split that `folders` belong to."""
        return split_word(folders[self.depth]) if self.depth is not None and len(folders) > self.depth else None

    def without_split(self, folders: Folders) -> Folders:
        """Return `folders` but for the one that is a split."""
        return folders if self.depth is None else folders[: self.depth] + folders[self.depth + 1 :]

    @cached_property
    def above(self) -> int:
        """How many folders between class and picture are called alike everywhere, as Tiny-ImageNet's images/."""
        found = {self.without_split(folders)[::-1] for folders in self.folders}
        return common(found) if len(found) > 1 else 0

    def class_in(self, folders: Folders) -> str:
        """Return the class of pictures in `folders`; "" where these name none."""
        left = self.without_split(folders)
        left = left[: len(left) - self.above]
        return left[-1] if left else ""

    def class_of(self, name: str) -> str:
        """Return the class of a picture; "" where its folders name none."""
        return self.noted.get(name) or self.class_in(folders_of(name))

    @cached_property
    def found(self) -> dict[str, set[str]]:
        """The classes of each split, by its word."""
        found: dict[str, set[str]] = {}
        for name in self.pictures:
            if word := self.split_of(folders_of(name)):
                found.setdefault(word, set()).add(self.class_of(name))
        return found

    @cached_property
    def train(self) -> str | None:
        """The word of the split that is trained on."""
        return next((word for word in TRAIN if word in self.found), None)

    @cached_property
    def classes(self) -> set[str]:
        """The classes of the training split, which others may lack; none where there are no splits."""
        return self.found[self.train] if self.train else set()

    @cached_property
    def held_out(self) -> str | None:
        """The word of the split that is not trained on: of several the first whose classes are the training's."""
        there = [word for word in HELD_OUT if word in self.found]
        return min(there, key=lambda word: not self.found[word] <= self.classes, default=None)

    def names(self, split: str) -> list[str]:
        """Return the pictures of `split`: train, test or all; all where there are no splits."""
        if split == "all" or self.depth is None:
            return self.pictures
        wanted = self.train if split == "train" else self.held_out
        return [name for name in self.pictures if self.split_of(folders_of(name)) == wanted]
