"""Whole files of every kind that bdiff reads, and seeded ways to spoil them: what tests/test_fuzz.py feeds it."""

import gzip
import io
import json
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from data_archives import encode, noise
from PIL import Image

Spoil = Callable[[random.Random, bytes], bytes]


def cut(draw: random.Random, data: bytes) -> bytes:
    """Left off somewhere."""
    return data[: draw.randrange(len(data))]


def empty(draw: random.Random, data: bytes) -> bytes:
    """Of no bytes."""
    return b""


def flip(draw: random.Random, data: bytes) -> bytes:
    """With up to eight bytes changed."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        changed[draw.randrange(len(changed))] ^= draw.randint(1, 255)
    return bytes(changed)


def zeros(draw: random.Random, data: bytes) -> bytes:
    """With a range of zeros, as a power loss leaves it."""
    start, end = sorted(draw.sample(range(len(data) + 1), 2))
    return data[:start] + bytes(end - start) + data[end:]


def rubbish(draw: random.Random, data: bytes) -> bytes:
    """Of random bytes."""
    return draw.randbytes(len(data))


def head(draw: random.Random, data: bytes) -> bytes:
    """With something before it."""
    return draw.randbytes(draw.randint(1, 40)) + data


def tail(draw: random.Random, data: bytes) -> bytes:
    """With something behind it."""
    return data + draw.randbytes(draw.randint(1, 4000))


def twice(draw: random.Random, data: bytes) -> bytes:
    """Two times."""
    return data + data


def packed(draw: random.Random, data: bytes) -> bytes:
    """Compressed."""
    return gzip.compress(data)


def swapped(draw: random.Random, data: bytes) -> bytes:
    """Another kind of file."""
    return draw.choice([a_zip({"a/b.txt": b"c"}), encode(noise(8, 8, 3)), b"{}", b"[1, 2]", b"<html></html>\n", b"\0"])


BYTES: tuple[Spoil, ...] = (cut, empty, flip, zeros, rubbish, head, tail, twice, packed, swapped)

ODD: tuple[Any, ...] = (None, -1, 0, 10**400, 1e308, "", "text", "../../x", True, [], {}, [None], {"a": {"b": []}})


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all that a JSON value holds."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [one for name, held in inside for one in [(*path, name), *leaves(held, (*path, name))]]


def spoilt_json(draw: random.Random, data: bytes) -> bytes:
    """JSON with another value, without one, or in another encoding."""
    value = json.loads(data)
    how = draw.randrange(5)
    if how == 0:
        return data.decode().encode(draw.choice(["utf-16", "utf-8-sig", "utf-32"]))
    if how == 1 or not leaves(value):
        return json.dumps(draw.choice(ODD)).encode()
    if how == 2:
        return data.replace(b'"', b"'", draw.randint(1, 9))
    *way, last = draw.choice(leaves(value))
    holder = value
    for name in way:
        holder = holder[name]
    if how == 3 and isinstance(holder, dict):
        del holder[last]
    else:
        holder[last] = draw.choice([*ODD, float("nan"), float("inf")])
    return json.dumps(value).encode()


def a_zip(members: dict[str, bytes]) -> bytes:
    """A zip of these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def pictures(seed: int) -> dict[str, bytes]:
    """Twelve pictures of two classes, in the formats that are read."""
    formats = ("PNG", "JPEG", "BMP", "WEBP")
    kinds = [(f"{'ab'[n % 2]}/{n:02}.{formats[n % 4].lower()}", formats[n % 4]) for n in range(12)]
    return {name: encode(noise(20, 24, 3, seed=seed + n), form) for n, (name, form) in enumerate(kinds)}


def odd_picture(draw: random.Random) -> tuple[str, bytes]:
    """A picture as cameras, scanners and editors leave it, with the suffix of its kind."""
    size = draw.choice([(1, 1), (1, 300), (300, 1), (17, 31), (64, 64)])
    mode, form, end = draw.choice([
        ("1", "PNG", "png"), ("L", "PNG", "png"), ("P", "PNG", "png"), ("LA", "PNG", "png"), ("RGBA", "PNG", "png"),
        ("I;16", "PNG", "png"), ("CMYK", "JPEG", "jpg"), ("L", "JPEG", "JPG"), ("RGBA", "WEBP", "webp"),
        ("1", "BMP", "bmp"), ("P", "BMP", "bmp"), ("P", "GIF", "gif"), ("F", "TIFF", "tif"), ("RGB", "TIFF", "tiff"),
    ])  # fmt: skip
    picture = Image.fromarray(noise(size[1], size[0], 3, seed=draw.randrange(99)))
    if mode == "I;16":
        picture = Image.fromarray(noise(size[1], size[0]).astype(np.uint16) * 257)
    else:
        picture = picture.convert(mode)
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = draw.randint(1, 8)  # which way up
    more = {"exif": exif} if form in ("PNG", "JPEG", "WEBP") else {}
    picture.save(buffer, form, **more)
    return end, buffer.getvalue()


def data_fuzz_result(home: Path, members: dict[str, bytes]) -> Path:
    """Write files below `home`."""
    for name, data in members.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(data)
    return home


def an_lmdb(home: Path, values: dict[str, bytes]) -> Path:
    """An LMDB as LSUN's."""
    home.mkdir(parents=True)
    with lmdb.open(str(home), map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
        for name, data in values.items():
            transaction.put(name.encode(), data)
    (home / "lock.mdb").unlink()
    return home


def odd_entry(draw: random.Random, path: Path) -> str:
    """Put something else in a file's place; returns what."""
    what = draw.choice(["a folder", "a pipe", "a loop", "a dead link", "nothing", "another suffix", "an odd name"])
    data = path.read_bytes()
    path.unlink()
    match what:
        case "a folder":
            path.mkdir()
        case "a pipe":
            os.mkfifo(path)
        case "a loop":
            path.symlink_to(path)
        case "a dead link":
            path.symlink_to(path.parent / "gone")
        case "another suffix":
            path.with_suffix(draw.choice([".PNG", ".jpeg", ".txt", ".npz", ""])).write_bytes(data)
        case "an odd name":
            path.with_name(draw.choice(["[red]x[/]", "$x_1$", "é\n", " ", "-x", "%s{}"]) + path.suffix).write_bytes(
                data
            )
    return what
