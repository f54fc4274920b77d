"""What all tests need to be true of the process that runs them."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packages import forget

# A shell that starts the tests in the background lets them ignore Ctrl-C; the runs that they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


# wandb is tested in tests/tracker; to all other runs it would only add seconds.
os.environ["WANDB_MODE"] = "disabled"


#: files whose tests share nothing that is dear, so that each of them may go to another process
APART = {
    *("test_request.py", "test_config.py", "test_samplers.py", "test_emulated.py", "test_sweep.py", "test_tables.py"),
    *("test_data_runs.py", "test_data_errors.py", "test_data_hostile.py", "test_cli.py", "test_train.py"),
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one process (`--dist loadgroup`), as they share fixtures, but for those APART."""
    for item in items:
        if item.path.name not in APART:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))


@pytest.fixture(autouse=True)
def plain_logging() -> None:
    """Undo the log level and the handlers of a run that an earlier test carried out in this process."""
    logging.getLogger("bdiff").setLevel(logging.NOTSET)
    logging.root.handlers[:] = [one for one in logging.root.handlers if type(one).__module__ == "_pytest.logging"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with its own outputs and cache, shared by the tests of a file as by a user's runs."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep compiled kernels out of the user's folders, in one for all tests."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "kernels"))


@pytest.fixture
def site(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder that packages can be put in, and are then installed for this process."""
    place = tmp_path / "site"
    place.mkdir()
    monkeypatch.syspath_prepend(place)
    before = {*sys.modules}
    forget()
    yield place
    forget()
    for name in {*sys.modules} - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(place)):
            del sys.modules[name]
