"""One headless browser for all tests of pages."""

from collections.abc import Iterator

import pytest
from browser import CHROMIUM, DRIVER, Browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium and chromedriver: install the packages chromium and chromium-driver")
    with Browser() as opened:
        yield opened
