"""`bdiff data`: list the datasets; prepare, count and preview one; verify one."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import get_object
from omegaconf import DictConfig
from rich.filesize import decimal
from rich.text import Text

from bdiff.cli.main import DONE, FAILED
from bdiff.common.errors import RequestError, RunError, few
from bdiff.common.progress import Screen
from bdiff.config.compose import jobs
from bdiff.config.instantiate import make
from bdiff.config.options import group_options
from bdiff.data.dataset import Dataset
from bdiff.data.request import PixelRequest
from bdiff.data.sources import Source
from bdiff.store import artifacts

if TYPE_CHECKING:
    from bdiff.data.base import Images

SHOWN = 64  # pictures in a preview

HELP = """usage: bdiff data [prepare|verify <name> [key=value ...]]

  bdiff data                            list the datasets, found or missing, and where they are looked for
  bdiff data prepare cifar10            download or index it, decode it into the cache, count it, draw a preview
  bdiff data verify cifar10             check the cache against its fingerprint; exit 1 if it differs
  bdiff data prepare images data.path=faces.zip data.size=64

Keys are those of bdiff run."""


@dataclass(frozen=True)
class State:
    """Whether a request's data are available."""

    place: str | None  # their path
    hint: str = ""  # how to get them
    downloads: str | None = None  # the URL that a run downloads them from


def data(words: list[str]) -> int:
    """Execute `bdiff data` with these arguments; return its exit code. Raises RequestError if they are invalid."""
    if {"-h", "--help"} & {*words}:
        print(HELP)
        return DONE
    match words:
        case []:
            return listing()
        case ["prepare" | "verify" as action, name, *overrides]:
            if second := next((word for word in overrides if word.startswith("data=")), None):
                raise RequestError(f"{name} and {second} name two datasets: bdiff data {action} takes one")
            (config,) = jobs([f"data={name.lower()}", *overrides], False)
            return prepare(config) if action == "prepare" else verify(config)
        case ["prepare" | "verify" as action]:
            raise RequestError(f"name a dataset: bdiff data {action} <name> (choose from {', '.join(names())})")
    raise RequestError(f"{words[0]} is not an action of bdiff data: see bdiff data --help")


def names() -> list[str]:
    """Return the options of conf/data."""
    return list(group_options()["data"])


def listing() -> int:
    """Print every dataset, found or missing."""
    console = Screen(soft_wrap=True)
    wide = max(map(len, names())) + 2
    for name in names():
        found = state(*jobs([f"data={name}"], False))
        word = Text("found    ", "green") if found.place else Text("missing  ", "yellow")
        fetch = f"bdiff data prepare {name} downloads it; or " if found.downloads else ""
        console.print(Text(f"{name:<{wide}}") + word + Text(found.place or fetch + found.hint))
    return DONE


def name_of(config: DictConfig) -> str:
    """Return the chosen option of conf/data."""
    return config.hydra.runtime.choices.data


def cache_of(config: DictConfig) -> Path:
    """Return the folder of decoded datasets and downloads."""
    return Path(config.paths.cache).expanduser()


def dataset_of(config: DictConfig) -> Dataset:
    """Return the request's dataset. Raises RequestError if its yaml names something else."""
    found = get_object(config.data._target_)
    if not isinstance(found, Dataset):
        raise RequestError(f"data._target_={config.data._target_} is not a Dataset, see bdiff.data.dataset")
    return found


def source_of(config: DictConfig) -> Source:
    """Return the source of the request's pictures. Raises RequestError if it is missing."""
    return dataset_of(config).source(config.data.path, config.data.split, cache_of(config))


def request_of(config: DictConfig) -> PixelRequest:
    """Return the settings of the request that determine the pixels."""
    data = config.data
    return PixelRequest(data.size, data.channels, data.split, data.limit, config.seed)


def stage_of(config: DictConfig) -> artifacts.Stage:
    """Return the stage that holds, or will hold, the request's decoded pixels."""
    return request_of(config).stage(source_of(config), cache_of(config))


def manifest_of(made: artifacts.Stage) -> Path:
    """Return the file that exists once decoding has finished; it may be damaged, so it is not read here."""
    return made.folder / "manifest.json"


def size_of(path: Path) -> str:
    """Return the disk usage of a file or folder, formatted; links are not followed."""
    files = path.rglob("*") if path.is_dir() else [path]
    return decimal(sum(file.lstat().st_size for file in files if file.is_symlink() or file.is_file()))


def state(config: DictConfig) -> State:
    """Return whether the request's data are available, as a source or decoded; nothing is read or downloaded."""
    home, cache = dataset_of(config).home, cache_of(config)
    if config.data.path is not None:  # already checked with the request
        return State(str(config.data.path))
    if not home.places:
        return State(f"comes with {home.origin}")
    if place := home.place(cache):
        return State(str(place))
    if home.downloads and manifest_of(made := stage_of(config)).exists():
        return State(f"{made.folder} (decoded)")
    return State(None, home.hint(cache), home.downloads)


def prepare(config: DictConfig) -> int:
    """Prepare the request's data as a run would, print a summary and draw a preview. Raises RunError if it fails."""
    from bdiff.data.base import Images, StreamedImages

    name, source = name_of(config), source_of(config)
    try:
        images: Images = make(config.data, cache=cache_of(config), seed=config.seed, memory=config.runtime.memory)
        picture = Path(config.paths.outputs) / "data" / f"{name}-{images.fingerprint}.png"
        preview(images, picture)
    except (OSError, ValueError, TypeError) as error:
        line = " ".join(str(error).split())
        raise RunError(f"{name} cannot be prepared ({line}); bdiff data verify {name} checks the cache") from error
    streamed = isinstance(images, StreamedImages)
    place = Path(str(images.source)) if isinstance(images, StreamedImages) else stage_of(config).folder
    counts = images.labels.bincount(minlength=len(images.classes)).tolist()
    classes = ", ".join(images.classes[:10]) + (", ..." if len(images.classes) > 10 else "")
    spread = f"{min(counts)}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    facts = {
        "data": f"{name}, split {images.split}",
        "images": f"{len(images)} of {images.shape[0]}x{images.shape[1]}x{images.shape[2]}",
        "classes": f"{len(images.classes)} of {spread} images: {classes}",
        "fingerprint": images.fingerprint,
        "place": f"{place} ({size_of(place)}, {'decoded as needed' if streamed else 'decoded'})",
        "preview": str(picture),
    }
    if source.left_out:
        facts["left out"] = source.left_out
    for label, fact in facts.items():
        Screen().print(f"{label:<12} {fact}", soft_wrap=True)
    return DONE


def preview(images: "Images", path: Path, columns: int = 8) -> None:
    """Write up to `SHOWN` pictures with their classes, spread evenly over the images in the order of classes."""
    import torch
    from matplotlib.figure import Figure

    from bdiff.report.charts import INK, save
    from bdiff.report.figures import shown

    order = images.labels.argsort(stable=True)
    rows = order[torch.linspace(0, len(order) - 1, min(SHOWN, len(order))).long()]
    lines, line = -(-len(rows) // columns), 1.2  # height of a line in pictures: the picture, and its class below
    figure = Figure(figsize=(1.2 * columns, 1.2 * line * lines + 0.8), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1 - 0.7 / (1.2 * line * lines + 0.8)))  # one for all: one for each takes seconds
    axes.axis("off")
    for at, (row, pixels) in enumerate(zip(rows, images.take(rows), strict=True)):
        left, top = at % columns, at // columns * line
        axes.imshow(shown(pixels), extent=(left, left + 0.95, top + 0.95, top), interpolation="nearest")
        label = images.classes[int(images.labels[row])][:16]
        axes.text(left + 0.475, top + 0.97, label, parse_math=False, ha="center", va="top", fontsize=9)
    axes.set(xlim=(-0.05, columns), ylim=(lines * line, 0))
    figure.suptitle(f"{images.name} {images.split}, {len(images)} images, {images.fingerprint}", color=INK)
    save(figure, path)


def verify(config: DictConfig) -> int:
    """Check the request's data; print that they are intact and return 0, or print the problems and return 1."""
    from bdiff.data.load import choose
    from bdiff.data.verify import cache_problems, picture_problems

    name, found, request = name_of(config), state(config), request_of(config)
    if found.place is None:
        return report(name, [f"missing: {found.hint}"])
    source, made = source_of(config), stage_of(config)
    if manifest_of(made).exists():
        problems = cache_problems(made, request)
        if problems:
            return report(name, [*problems, f"remove {made.folder} and run bdiff data prepare again"])
        manifest = artifacts.read_json(manifest_of(made))
        count, how = manifest["count"], f"as decoded into {made.folder}"
        fingerprint = request.fingerprint(content=manifest["content"])
    else:
        rows = choose(len(source.names), request.limit, request.seed)
        if len(rows) <= request.capacity(config.runtime.memory):
            return report(name, [f"not decoded yet: {made.folder} does not exist; run bdiff data prepare"])
        problems = picture_problems(source, rows, request)
        if problems:
            return report(name, problems)
        count, how = len(rows), f"all of {source} can be decoded"
        fingerprint = request.fingerprint(listing=source.listing)
    return report(name, [], f"ok, {count} images, fingerprint {fingerprint}, {how}")


def report(name: str, problems: list[str], well: str = "") -> int:
    """Print the problems, or `well` if there are none; return the exit code."""
    for line in few(problems, 21, "and {} more") or [well]:
        print(f"{name}: {line}")
    return FAILED if problems else DONE
