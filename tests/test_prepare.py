"""`bdiff data`: what is listed, what prepare prints and draws, and what verify notices."""

import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bdiff.cli import main as cli
from bdiff.cli.data import dataset_of, names
from bdiff.config.compose import jobs

COUNT = 24


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A folder for outputs and cache, where BDIFF_CACHE leads to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """cat/ and dog/ with 12 pictures of noise each, 32x32, that no test changes."""
    folder = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        path = folder / ("cat", "dog")[number % 2] / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture
def own_pictures(pictures, tmp_path) -> Path:
    """The same pictures, to be changed."""
    return shutil.copytree(pictures, tmp_path / "pictures")


@pytest.fixture(scope="module")
def decoded(pictures, tmp_path_factory) -> Path:
    """A cache that holds the pictures."""
    from bdiff.config.instantiate import make

    cache = tmp_path_factory.mktemp("decoded")
    (config,) = jobs(["data=images", f"data.path={pictures}"], False)
    make(config.data, cache=cache, seed=0, memory=1.0)
    return cache


@pytest.fixture
def prepared(decoded, home) -> Path:
    """A cache that holds the pictures, to be changed."""
    return shutil.copytree(decoded, home / "cache")


def ask(capsys, *words: str) -> tuple[int, str, str]:
    """The exit code of `bdiff data` with these words, and what it printed on either stream."""
    code = cli.command(["data", *words])
    return (code, *capsys.readouterr())


def facts(out: str) -> dict[str, str]:
    """What prepare printed, by name."""
    return {name: message.strip() for name, message in (line.split(maxsplit=1) for line in out.splitlines())}


def cached(home: Path, file: str) -> Path:
    (path,) = (home / "cache" / "data").glob(f"*/{file}")
    return path


@pytest.mark.parametrize("name", names())
def test_every_dataset_says_where_it_lies_and_where_it_comes_from(name, home):
    (config,) = jobs([f"data={name}"], False)
    dataset = dataset_of(config)
    assert dataset.name == name and dataset.home.origin
    assert dataset.home.place(home / "cache") is None
    for place in dataset.home.places:
        assert Path(place).parts[0] == name or dataset.home.downloads
        (home / "cache" / place).mkdir(parents=True, exist_ok=True)
        assert dataset.home.place(home / "cache") is not None


def test_the_list_says_what_is_found_and_what_is_missing(home, capsys):
    (home / "cache" / "celebahq").mkdir(parents=True)
    code, out, _ = ask(capsys)
    message = {line.split()[0]: line.split(maxsplit=2)[1:] for line in out.splitlines()}
    assert code == 0
    assert list(message) == names()
    assert message["digits"][0] == "found" and "scikit-learn" in message["digits"][1]
    assert message["celebahq"] == ["found", str(home / "cache" / "celebahq")]
    assert message["cifar10"][0] == "missing" and "bdiff data prepare cifar10 downloads it" in message["cifar10"][1]
    assert message["lsun_church"][0] == "missing"
    assert "https://" in message["lsun_church"][1] and str(home / "cache" / "lsun_church") in message["lsun_church"][1]


def test_prepare_counts_and_draws(home, pictures, capsys):
    code, out, _ = ask(capsys, "prepare", "images", f"data.path={pictures}")
    message = facts(out)
    assert code == 0
    assert message["data"] == "images, split train"
    assert message["images"] == f"{COUNT} of 3x32x32"
    assert message["classes"] == "2 of 12 images: cat, dog"
    assert re.fullmatch("[0-9a-f]{16}", message["fingerprint"])
    assert message["place"].startswith(str(cached(home, "pixels.npy").parent)) and "decoded" in message["place"]
    assert message["preview"] == f"outputs/data/images-{message['fingerprint']}.png"
    drawn = np.asarray(Image.open(home / message["preview"]).convert("RGB"))
    assert drawn.std() > 30  # pictures are on it


def test_prepare_and_verify_know_the_images_as_a_run_does(home, pictures, capsys):
    from bdiff.config.instantiate import make

    words = ["images", f"data.path={pictures}", "data.limit=9", "seed=4"]
    _, out, _ = ask(capsys, "prepare", *words)
    code, message, _ = ask(capsys, "verify", *words)
    (config,) = jobs(["data=images", f"data.path={pictures}", "data.limit=9", "seed=4"], False)
    images = make(config.data, cache=home / "cache", seed=4, memory=1.0)
    assert facts(out)["fingerprint"] == images.fingerprint
    assert facts(out)["images"].startswith("9 of")
    place = cached(home, "pixels.npy").parent
    assert code == 0
    assert message == f"images: ok, 9 images, fingerprint {images.fingerprint}, as decoded into {place}\n"


def test_odd_class_names_are_drawn_as_they_are(home, own_pictures, capsys):
    (own_pictures / "cat").rename(own_pictures / "$\\frac{")
    code, out, _ = ask(capsys, "prepare", "images", f"data.path={own_pictures}")
    assert code == 0 and "$\\frac{" in facts(out)["classes"]


def test_verify_needs_no_originals_of_what_is_fetched(home, capsys, monkeypatch):
    """CIFAR-10's archive may be removed once it is decoded."""
    from bdiff.data import cifar

    rows = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    classes = tuple("abcdefghij")
    monkeypatch.setattr(cifar, "read", lambda *_: (rows, np.arange(20) % 10, classes))
    assert ask(capsys, "prepare", "cifar10")[0] == 0
    monkeypatch.setattr(cifar, "read", lambda *_: pytest.fail("read again"))
    code, message, _ = ask(capsys, "verify", "cifar10")
    assert code == 0 and "ok, 20 images" in message
    assert "(decoded)" in ask(capsys)[1]
    half_a_manifest(cached(home, "pixels.npy"))
    assert "(decoded)" in ask(capsys)[1]
    assert ask(capsys, "verify", "cifar10")[0] == 1


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def other_labels(path: Path) -> None:
    np.save(path.with_name("labels.npy"), np.load(path.with_name("labels.npy"))[::-1])


def impossible_labels(path: Path) -> None:
    np.save(path.with_name("labels.npy"), np.load(path.with_name("labels.npy")) + 1)


def fewer_pixels(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


def no_pixels(path: Path) -> None:
    path.unlink()


def other_digest(path: Path) -> None:
    manifest = json.loads(path.with_name("manifest.json").read_text())
    path.with_name("manifest.json").write_text(json.dumps({**manifest, "content": "0" * 16}))


def half_a_manifest(path: Path) -> None:
    path.with_name("manifest.json").write_text('{"count": 24,')


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flip_a_bit, "have changed since decoding"),
        (cut_off, "cannot be read"),
        (other_labels, "have changed since decoding"),
        (impossible_labels, "does not hold 24 labels of 2 classes"),
        (fewer_pixels, "not 24 pictures"),
        (no_pixels, "cannot be read"),
        (other_digest, "have changed since decoding"),
        (half_a_manifest, "cannot be read"),
    ],
)
def test_verify_names_what_is_wrong_with_the_cache(damage, said, home, pictures, prepared, capsys):
    words = ["verify", "images", f"data.path={pictures}"]
    assert ask(capsys, *words)[0] == 0
    damage(cached(home, "pixels.npy"))
    code, message, err = ask(capsys, *words)
    place = cached(home, "manifest.json").parent
    assert code == 1 and said in message and str(place) in message and "Traceback" not in err
    assert f"remove {place} and run bdiff data prepare again" in message


@pytest.mark.parametrize("damage", [cut_off, no_pixels, half_a_manifest])
def test_prepare_makes_a_damaged_cache_again(damage, home, pictures, prepared, capsys):
    made = cached(home, "pixels.npy")
    kept = made.read_bytes()
    damage(made)
    assert ask(capsys, "prepare", "images", f"data.path={pictures}")[0] == 0
    assert cached(home, "pixels.npy").read_bytes() == kept
    assert ask(capsys, "verify", "images", f"data.path={pictures}")[0] == 0


def test_verify_before_prepare_says_so(home, pictures, capsys):
    code, message, _ = ask(capsys, "verify", "images", f"data.path={pictures}")
    assert code == 1 and "not decoded yet" in message
    assert not list((home / "cache").rglob("*.npy"))


def test_verify_of_missing_data_fetches_nothing(home, capsys, monkeypatch):
    from bdiff.data import cifar

    monkeypatch.setattr(cifar, "read", lambda *_: pytest.fail("fetched"))
    code, message, _ = ask(capsys, "verify", "cifar10")
    assert code == 1 and "missing" in message and "https://" in message


def test_every_picture_of_a_streamed_source_is_decoded(home, own_pictures, capsys):
    words = ["images", f"data.path={own_pictures}", "runtime.memory=0"]
    _, out, _ = ask(capsys, "prepare", *words)
    assert "decoded as needed" in facts(out)["place"] and str(own_pictures) in facts(out)["place"]
    code, message, _ = ask(capsys, "verify", *words)
    assert code == 0 and f"fingerprint {facts(out)['fingerprint']}" in message
    cut_off(own_pictures / "cat" / "04.png")
    cut_off(own_pictures / "dog" / "05.png")
    code, message, _ = ask(capsys, "verify", *words)
    assert code == 1 and len(message.splitlines()) == 2
    assert "picture cat/04.png cannot be read" in message and "picture dog/05.png cannot be read" in message


def test_many_broken_pictures_are_counted(home, own_pictures, capsys):
    for path in own_pictures.rglob("*.png"):
        cut_off(path)
    code, message, _ = ask(capsys, "verify", "images", f"data.path={own_pictures}", "runtime.memory=0")
    assert code == 1 and len(message.splitlines()) == 21
    assert message.splitlines()[-1] == f"images: and {COUNT - 20} more"


def hostile_zip(home: Path) -> str:
    with zipfile.ZipFile(home / "hostile.zip", "w") as archive:
        archive.writestr("../out.png", b"0")
    return f"data.path={home}/hostile.zip"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["frob"], "frob is not an action of bdiff data"),
        (["prepare"], "name a dataset: bdiff data prepare <name> (choose from"),
        (["verify"], "name a dataset: bdiff data verify <name>"),
        (["prepare", "cifar11"], "did you mean cifar10?"),
        (["prepare", "digits", "data.sise=8"], "did you mean data.size?"),
        (["prepare", "digits", "data=cifar10"], "name two datasets"),
        (["prepare", "digits,cifar10"], "has several values"),
        (["prepare", "digits", "-m"], "write key=value"),
        (["prepare", "digits", "data.limit=9999"], "not within 1 to 1438"),
        (["prepare", "images"], "was not found"),
        (["prepare", "images", "data.path=/nowhere"], "does not exist"),
        (["prepare", "images", hostile_zip], "outside of its folder"),
        (["verify", "images", hostile_zip], "outside of its folder"),
        (["verify", "digits", "seed=x"], "must be a whole number"),
    ],
)
def test_wrong_words_are_reported_in_one_line(words, said, home, capsys):
    code, out, err = ask(capsys, *(word(home) if callable(word) else word for word in words))
    (line,) = err.splitlines()
    assert code == 2 and line.startswith("bdiff: ") and said in line and out == ""
    assert not (home / "outputs").exists()


@pytest.mark.parametrize(
    "words", [["--help"], ["-h"], ["prepare", "--help"], ["verify", "-h"], ["verify", "cifar10", "-h"]]
)
def test_help(words, home, capsys):
    code, out, _ = ask(capsys, *words)
    assert code == 0 and out.startswith("usage: bdiff data")
