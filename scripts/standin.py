"""Stand-ins for CelebA-HQ and LSUN bedrooms: small pictures, such as CIFAR-10's, enlarged into the layouts of these.

What they show is not the point: they let runs at 256 px go through everything that the real archives would.

    python scripts/standin.py cifar10.zip standin --count 2000
    bdiff run data=celebahq data.path=standin ...         # standin/CelebA-HQ-img/*.jpg
    bdiff run data=lsun_bedroom data.path=standin ...     # standin/bedroom_train_lmdb, of WebP
"""

import argparse
import hashlib
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import lmdb
from PIL import Image

from bdiff.data.find import find

ROOM = 2**40  # bytes an LMDB may grow to; the file is only as large as its pictures
TOGETHER = 500  # pictures written in one transaction


def pictures(path: Path, count: int, size: int) -> Iterator[Image.Image]:
    """Yield the first `count` pictures of a folder, zip or LMDB, enlarged; from the first again if there are fewer."""
    source = find(path, "all", cache=path.parent / "cache")
    for number in range(count):
        small = source.open(number % len(source.names)).convert("RGB")
        yield small.resize((size, size), Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, form: str) -> bytes:
    """Return a picture as a file's bytes."""
    data = io.BytesIO()
    picture.save(data, form, quality=90)
    return data.getvalue()


def faces(folder: Path, shown: Iterator[Image.Image]) -> Path:
    """Write pictures as CelebA-HQ is unpacked, numbered JPEGs in one folder, and return that."""
    images = folder / "CelebA-HQ-img"
    images.mkdir(parents=True)
    for number, picture in enumerate(shown):
        (images / f"{number}.jpg").write_bytes(encoded(picture, "JPEG"))
    return images


def bedrooms(folder: Path, shown: Iterator[Image.Image]) -> Path:
    """Write pictures as LSUN is unpacked, an LMDB of WebP under hexadecimal digests, and return its folder."""
    place = folder / "bedroom_train_lmdb"
    place.mkdir(parents=True)
    with lmdb.open(str(place), map_size=ROOM) as environment:
        numbered = enumerate(shown)
        while some := list(islice(numbered, TOGETHER)):
            with environment.begin(write=True) as transaction:
                for number, picture in some:
                    key = hashlib.sha1(str(number).encode()).hexdigest()
                    transaction.put(key.encode(), encoded(picture, "WEBP"))
    return place


def main() -> None:
    """Write both layouts and print where they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, help="a folder or zip of pictures")
    parser.add_argument("folder", type=Path, help="where to write; new")
    parser.add_argument("--count", type=int, default=2000, help="pictures of each layout (default: 2000)")
    parser.add_argument("--size", type=int, default=256, help="px (default: 256)")
    asked = parser.parse_args()
    for write in (faces, bedrooms):
        print(write(asked.folder, pictures(asked.pictures, asked.count, asked.size)))


if __name__ == "__main__":
    main()
