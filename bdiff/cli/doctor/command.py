"""`bdiff doctor`: its sections and its verdict."""

from omegaconf import DictConfig
from rich.text import Text

from bdiff.cli.doctor import machine, parts
from bdiff.cli.doctor.finding import MISSING, OK, WARN, Finding
from bdiff.cli.doctor.selftest import selftest
from bdiff.cli.main import DONE, FAILED
from bdiff.common.errors import RequestError
from bdiff.common.progress import Screen
from bdiff.config.compose import jobs
from bdiff.config.environment import device_problems

STYLES = {OK: "green", WARN: "yellow", MISSING: "red"}
CUDA_DATA = ["data=cifar10"]
CUDA_RUN = [*CUDA_DATA, "runtime.device=cuda"]

HELP = f"""usage: bdiff doctor [--cuda] [key=value ...]

  bdiff doctor                          check this machine; exit 0 if bdiff run would work on it, else 1
  bdiff doctor --cuda                   the same for bdiff run {" ".join(CUDA_RUN)}
  bdiff doctor data=celebahq            the same for a run with these overrides

Missing things matter only if that run needs them."""


def doctor(words: list[str]) -> int:
    """Print what is available and what is missing; return 0 if the run in question would work, else 1.

    Raises RequestError if `words` are invalid.
    """
    if {"-h", "--help"} & set(words):
        print(HELP)
        return DONE
    flags = [word for word in words if word.startswith("-") and word != "--cuda"]
    if flags:
        raise RequestError(f"{flags[0]} is not an option of bdiff doctor: see bdiff doctor --help")
    cuda = "--cuda" in words
    overrides = [word for word in words if word != "--cuda"]
    (config,) = jobs([*(CUDA_DATA if cuda else []), *overrides], False)  # of two choices of data the last wins
    if cuda:  # set only now: a missing device is a finding, not an invalid request
        config.runtime.device = "cuda"
    asked = " ".join(["bdiff run", *(CUDA_RUN if cuda else []), *overrides])

    packages = machine.versions()
    if any(one.state == MISSING for one in packages):  # torch, which knows the devices, may be among them
        show("versions", packages)
        return verdict(asked, packages)
    show("this machine", machine.devices())
    show("versions", packages)
    blocking = look(config)
    needed = parts.needs(config) + [Finding("device", MISSING, line) for line in device_problems(config)]
    show(f"what {asked} reads", needed)
    tests = selftests()
    show("self-test", tests)
    return verdict(asked, [*blocking, *needed, *tests])


def look(config: DictConfig) -> list[Finding]:
    """Print the disk and the parts, and return the findings that every run needs."""
    disk = machine.disk(config)
    show("disk", disk)
    show("caches", machine.caches(config))
    show("datasets", parts.datasets(config.paths.cache))
    show("weights", parts.weights())
    show("tracker", parts.tracker())
    show("plugins", parts.plugins())
    return disk


def selftests() -> list[Finding]:
    """Run the self-test on the CPU and, if there is one, on a CUDA device."""
    import torch

    return [selftest(device) for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else []))]


def show(title: str, findings: list[Finding]) -> None:
    """Print one section; long lines are wrapped by the terminal, so that paths and URLs can be copied."""
    console = Screen(soft_wrap=True)
    console.print(Text(f"\n{title}", "bold"))
    wide = max(len(one.what) for one in findings) + 2
    for one in findings:
        console.print(Text(f"{one.state:<9}", STYLES[one.state]) + Text(f"{one.what:<{wide}}{one.found}"))
        if one.hint:
            console.print(Text(f"{'':<{9 + wide}}{one.hint}", "dim"))


def verdict(asked: str, needed: list[Finding]) -> int:
    """Print whether the run would work, given the findings `needed`, and return the exit code."""
    console = Screen(soft_wrap=True)
    lacking = [one.what for one in needed if one.state == MISSING]
    if lacking:
        console.print(Text(f"\n{asked} would not work here: see {', '.join(lacking)}", "bold red"))
        return FAILED
    console.print(Text(f"\n{asked} would work here", "bold green"))
    return DONE
