"""Mean and covariance of features, in a .npz as pytorch-fid reads and writes it. Torch-free, for checks of requests."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bdiff.common.errors import RequestError
from bdiff.common.places import no_file


@dataclass(frozen=True, eq=False)
class Moments:
    """The moments of a set of images that a Fréchet distance depends on."""

    mu: np.ndarray  # (D,) float64, the mean
    sigma: np.ndarray  # (D,D) float64, the unbiased covariance
    count: int | None  # of images; None if a file does not have it


def write(path: Path, moments: Moments) -> None:
    """Write mu, sigma and the count, which must not be None, to the .npz `path`."""
    assert moments.count is not None
    np.savez(path, mu=moments.mu, sigma=moments.sigma, count=np.int64(moments.count))


def read(path: str | Path, dimensions: int | None = None) -> Moments:
    """Return the mu and sigma in `path`, and the count if present.

    Raises RequestError if it is not such a file, or not of `dimensions` features, if given.
    """
    if why := no_file(Path(path).expanduser()):
        raise RequestError(f"metric.fid.reference={path} {why}")
    try:
        found = load(Path(path).expanduser())
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RequestError(f"metric.fid.reference={path} cannot be used: {error}") from error
    if dimensions is not None and len(found.mu) != dimensions:
        raise RequestError(
            f"metric.fid.reference={path} is of {len(found.mu)} features, and metric/fid=inception has {dimensions}"
        )
    return found


def load(path: Path) -> Moments:
    """Return the moments in a .npz. Raises ValueError with the reason if its arrays are not as expected."""
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("it is not a .npz file with mu and sigma")
    with np.load(path, allow_pickle=False) as archive:
        if missing := {"mu", "sigma"} - set(archive):
            raise ValueError(f"it has no {' and no '.join(sorted(missing))} (but {', '.join(archive) or 'nothing'})")
        mu, sigma = (np.asarray(archive[name], np.float64) for name in ("mu", "sigma"))
        count = int(archive["count"]) if "count" in archive else None
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise ValueError(f"mu has the shape {mu.shape} and sigma {sigma.shape}, which should be (D,) and (D,D)")
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ValueError("mu or sigma has non-finite values")
    return Moments(mu, sigma, count)
