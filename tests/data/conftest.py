"""Small archives in the official layouts, and `get`, which opens a dataset as its yaml says."""

import hashlib
import io
import json
import pickle
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import lmdb
import pytest
from data_archives import encode, noise, write
from hydra.utils import get_method
from omegaconf import OmegaConf

CONF = Path(__file__).parents[2] / "conf" / "data"


@pytest.fixture
def get(tmp_path: Path) -> Callable:
    """Open the dataset `name` with its yaml's values, some replaced; errors come as they are, not wrapped by Hydra."""

    def get(name: str, *, seed: int = 0, memory: float = 1.0, cache: Path = tmp_path / "cache", **changed):
        config = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
        config.pop("defaults")
        config |= {key: str(value) if isinstance(value, Path) else value for key, value in changed.items()}
        return get_method(config.pop("_target_"))(**config, cache=cache, seed=seed, memory=memory)

    return get


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """cat/ and dog/ with 6 pictures of 32x32 each, as lossless PNG."""
    for number, pixels in enumerate(noise(12, 32, 32, 3)):
        write(tmp_path / "animals" / ("cat", "dog")[number % 2] / f"{number:02}.png", encode(pixels))
    return tmp_path / "animals"


def make_cifar(folder: Path, kind: type, files: dict[str, dict], monkeypatch: pytest.MonkeyPatch, server: str) -> Path:
    """Write `files` (name to pickled content) as `kind`'s official tar.gz, and make its checksums those of it."""
    packed = {name: pickle.dumps(content) for name, content in files.items()}
    path = folder / kind.filename
    folder.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        for name, data in packed.items():
            entry = tarfile.TarInfo(f"{kind.base_folder}/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    md5 = {name: hashlib.md5(data).hexdigest() for name, data in packed.items()}
    monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setattr(kind, "train_list", [[name, md5[name]] for name, _ in kind.train_list])
    monkeypatch.setattr(kind, "test_list", [[name, md5[name]] for name, _ in kind.test_list])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": md5[kind.meta["filename"]]})
    monkeypatch.setattr(kind, "url", f"{server}/{folder.name}/{path.name}")
    return path


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a web server on this machine that serves the test's folder."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def cifar10_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str) -> Path:
    """CIFAR-10's layout with 5 x 4 training pictures and 4 test pictures; picture i is `noise(24, 3072)[i]`."""
    from torchvision.datasets import CIFAR10

    rows = noise(24, 3072)
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    files = {name: {"data": rows[4 * at : 4 * at + 4], "labels": [at, 1, 2, 9]} for at, name in enumerate(names)}
    files["batches.meta"] = {"label_names": [f"class{number}" for number in range(10)]}
    return make_cifar(tmp_path / "official", CIFAR10, files, monkeypatch, server)


@pytest.fixture
def cifar100_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str) -> Path:
    """CIFAR-100's layout with 6 training and 4 test pictures."""
    from torchvision.datasets import CIFAR100

    rows = noise(10, 3072, seed=1)
    files = {
        "train": {"data": rows[:6], "fine_labels": [0, 99, 2, 3, 4, 5], "coarse_labels": [0] * 6},
        "test": {"data": rows[6:], "fine_labels": [7, 8, 9, 10], "coarse_labels": [0] * 4},
        "meta": {"fine_label_names": [f"class{number:02}" for number in range(100)]},
    }
    return make_cifar(tmp_path / "official100", CIFAR100, files, monkeypatch, server)


@pytest.fixture
def lsun(tmp_path: Path) -> Path:
    """A folder with LSUN's LMDBs of two categories: WebP of 40x32 under 40-digit keys."""
    for name, count in (("bedroom_train", 7), ("bedroom_val", 3), ("church_outdoor_train", 5)):
        folder = tmp_path / "lsun" / f"{name}_lmdb"
        folder.mkdir(parents=True)
        with lmdb.open(str(folder), map_size=2**24) as environment, environment.begin(write=True) as transaction:
            for pixels in noise(count, 32, 40, 3, seed=count):
                data = encode(pixels, "WEBP")
                transaction.put(hashlib.sha1(data).hexdigest().encode(), data)
    return tmp_path / "lsun"


@pytest.fixture
def edm_zip(tmp_path: Path) -> Path:
    """A zip as NVlabs/edm's dataset_tool makes: numbered PNGs in numbered folders, classes in dataset.json."""
    path = tmp_path / "edm.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        labels = []
        for number, pixels in enumerate(noise(6, 32, 32, 3)):
            name = f"{number // 4:05}/img{number:08}.png"
            archive.writestr(name, encode(pixels))
            labels.append([name, number % 3])
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return path
