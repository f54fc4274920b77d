"""Common layouts of picture folders: which are splits, which are classes, and which hold annotations."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import takewhile

#: words for splits, in any case; of several held-out ones the first that has the training's classes
TRAIN = ("train", "training", "trn", "trainval")
HELD_OUT = ("test", "testing", "tst", "val", "valid", "validation", "dev", "eval", "holdout")
BOTH = r"train[-_ +]?val(?:id(?:ation)?)?"
#: such a word in a folder's name, with a possible suffix: training_set, val2017, seg_test, train_aug, tests
SPLIT = re.compile(
    rf"(?:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z]))(?i:(?:({BOTH})|({'|'.join(TRAIN + HELD_OUT)}))s?"
    r"(?:[-_ ]?(?:set|data|images?|imgs?|split|aug(?:mented|mentation)?|\d+))?)(?:(?![A-Za-z])|(?<=[a-z])(?=[A-Z]))"
)
CELEBA_MASKS = "CelebAMask-HQ-mask-anno"  # masks of parts of faces, next to CelebA-HQ-img
#: folders of annotations of, or copies of, other pictures, anywhere
ANNOTATIONS = re.compile(
    r"masks|annotations?|ground_?truths?|labels|segmentations?|segmentation(class|object)|trimaps|thumbnails?"
)
#: folders that are so only next to one of images; alone they may be classes
BESIDE_IMAGES = re.compile(
    r"gt|gts|mask|labels?|annots?|seg|depths?|depth_?maps?|disparit(y|ies)|normals|thumbs?|heatmaps?"
)
IMAGES = re.compile(r"images?|imgs?|jpegimages|pictures?|photos|rgb|colou?rs?|inputs?|frames|.*[-_ ]im(age|g)s?")
THUMBS = re.compile(r"thumbs?|previews?")  # also below a folder of pictures

Folders = tuple[str, ...]


def parts_of(name: str) -> list[str]:
    """Return a file's folders, the outermost first, and its own name."""
    return [part for part in name.split("/") if part not in ("", ".")]


def is_hidden(name: str) -> bool:
    """Return whether a file or a folder above it is hidden."""
    return any(part.startswith(".") or part == "__MACOSX" for part in parts_of(name))


def folders_of(name: str) -> Folders:
    """Return the folders that contain a file, the outermost first."""
    return tuple(parts_of(name)[:-1])


def common(places: Iterable[Folders]) -> int:
    """Return the number of leading folders that all of `places` have in common."""
    return sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, zip(*places, strict=False)))


@lru_cache(maxsize=4096)
def split_name(folder: str) -> tuple[str, str]:
    """Return the word for a split in a folder's name ("" if none), and the rest, which its other splits share."""
    if not (found := SPLIT.search(folder)):
        return "", ""
    word = "trainval" if found[1] else found[2].lower()
    return word, f"{folder[: found.start()]} {folder[found.end() :]}".strip(" -_")


def annotations(names: list[str]) -> str | None:
    """Return a folder of annotations or copies of pictures, if there are other pictures next to it."""
    every = {folders_of(name) for name in names}
    below: dict[Folders, set[str]] = {}
    for folders in every:
        for depth, part in enumerate(folders):
            below.setdefault(folders[:depth], set()).add(part)
    with_images = {place for place, parts in below.items() if any(IMAGES.fullmatch(part.lower()) for part in parts)}

    def is_drawn(place: Folders, part: str) -> bool:
        word, rest = split_name(part)
        name = (rest or part).lower()
        pictures_beside = place in with_images or (rest != "" and (word, "") in map(split_name, below[place]))
        return bool(
            ANNOTATIONS.fullmatch(name)
            or (BESIDE_IMAGES.fullmatch(name) and pictures_beside)
            or (THUMBS.fullmatch(name) and place and place in every)
        )

    found = {folders: [part for at, part in enumerate(folders) if is_drawn(folders[:at], part)] for folders in every}
    drawn = sorted({parts[0] for parts in found.values() if parts})
    return drawn[0] if drawn and not all(found.values()) else None


@dataclass
class Layout:
    """The meaning of the folders of sorted `pictures`: train/ and test/ or val/, above the classes or below them."""

    pictures: list[str]
    noted: dict[str, str]  # the classes of pictures that are listed in a file

    @cached_property
    def folders(self) -> list[Folders]:
        return sorted({folders_of(name) for name in self.pictures})

    @cached_property
    def splits(self) -> tuple[int, set[str]] | None:
        """The depth of the folders that are splits, and the rests of their names; None if there are none.

        Other folders may exist at that depth (and belong to no split) only if no folder branches off above.
        """
        fork = common(self.folders)
        for depth in range(max(map(len, self.folders))):
            named = {split_name(folders[depth]) if len(folders) > depth else ("", "") for folders in self.folders}
            rests = {rest for word, rest in named if word in TRAIN}
            rests &= {rest for word, rest in named if word in HELD_OUT}
            if rests and (depth == fork or all(word and rest in rests for word, rest in named)):
                return depth, rests
        return None

    @cached_property
    def doubtful(self) -> tuple[str, str] | None:
        """A folder named like a training split and one like its counterpart, if there are no splits; else None.

        The classes test_tube and train_station, for instance, are unrelated.
        """
        if self.splits is not None:
            return None
        fork = common(self.folders)
        names = {part: split_name(part) for folders in self.folders for part in folders[fork:]}
        train, held_out = ([part for part in sorted(names) if names[part][0] in words] for words in (TRAIN, HELD_OUT))
        others = [part for part in names if not names[part][0]]
        for one in train:
            for other in held_out:
                rests = {names[one][1].lower(), names[other][1].lower()}
                if "" in rests or len(rests) == 1 or not others:
                    return one, other
        return None

    def split_of(self, folders: Folders) -> str | None:
        """Return the word of the split that `folders` belong to."""
        if self.splits is None or len(folders) <= self.splits[0]:
            return None
        word, rest = split_name(folders[self.splits[0]])
        return word if word and rest in self.splits[1] else None

    def without_split(self, folders: Folders) -> Folders:
        """Return `folders` without the split; of names such as cat_train and dog_train the rest remains."""
        if self.splits is None or self.split_of(folders) is None:
            return folders
        depth, rests = self.splits
        rest = (split_name(folders[depth])[1],) if len(rests) > 1 else ()
        return folders[:depth] + rest + folders[depth + 1 :]

    @cached_property
    def above(self) -> int:
        """The number of folders between class and picture with the same name everywhere, as Tiny-ImageNet's images/."""
        found = {self.without_split(folders)[::-1] for folders in self.folders}
        return common(found) if len(found) > 1 else 0

    def class_in(self, folders: Folders) -> str:
        """Return the class of pictures in `folders`; "" if these name none."""
        left = self.without_split(folders)
        left = left[: len(left) - self.above]
        return left[-1] if left else ""

    def class_of(self, name: str) -> str:
        """Return the class of a picture; "" if its folders name none."""
        return self.noted.get(name) or self.class_in(folders_of(name))

    @cached_property
    def found(self) -> dict[str, set[str]]:
        """The classes of each split, by the split's word."""
        found: dict[str, set[str]] = {}
        for name in self.pictures:
            if word := self.split_of(folders_of(name)):
                found.setdefault(word, set()).add(self.class_of(name))
        return found

    @property
    def beside(self) -> int:
        """The number of pictures that belong to no split, if there are splits."""
        return sum(self.split_of(folders_of(name)) is None for name in self.pictures) if self.splits else 0

    @cached_property
    def train(self) -> str | None:
        """The word of the training split."""
        return next((word for word in TRAIN if word in self.found), None)

    @cached_property
    def classes(self) -> set[str]:
        """The classes of the training split, which others may lack; empty if there are no splits."""
        return self.found[self.train] if self.train else set()

    @cached_property
    def held_out(self) -> str | None:
        """The word of the held-out split: of several the first whose classes are the training's."""
        present = [word for word in HELD_OUT if word in self.found]
        return min(present, key=lambda word: not self.found[word] <= self.classes, default=None)

    def names(self, split: str) -> list[str]:
        """Return the pictures of `split`: train, test or all; all pictures if there are no splits."""
        if split == "all" or self.splits is None:
            return self.pictures
        word = self.train if split == "train" else self.held_out
        return [name for name in self.pictures if self.split_of(folders_of(name)) == word]
