"""Synthetic runs, their pages, and the browser that opens them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.report.chromium import FLAGS, INSTALL
from tests.report.synthetic import HOSTILE, SyntheticRun, build


@pytest.fixture
def synthetic_run(tmp_path: Path) -> Callable[[str], SyntheticRun]:
    """Makes an empty synthetic run of a name."""
    return lambda name="demo": SyntheticRun(tmp_path / "runs" / name)


@pytest.fixture
def hostile() -> tuple[str, ...]:
    return HOSTILE


@pytest.fixture
def hostile_run(synthetic_run: Callable[[str], SyntheticRun]) -> SyntheticRun:
    """A run with hostile text wherever text can stand, its own name included."""
    return synthetic_run("<img src=x onerror=window.broken=1>").hostile()


@pytest.fixture(scope="session")
def pipeline_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a whole pipeline with 500 prompts, made once."""
    return build(SyntheticRun(tmp_path_factory.mktemp("runs") / "demo").pipeline(prompts=500, steps=40).path)


@pytest.fixture
def build_report() -> Callable[..., Path]:
    return build


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """Headless Chromium with a profile of its own, its console and its network recorded."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.fail(INSTALL) if os.environ.get("CI") else pytest.skip(INSTALL)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chromium = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    chromium.set_page_load_timeout(120)
    yield chromium
    chromium.quit()


@pytest.fixture
def open_page(driver):
    """Opens a page with empty logs."""
    def open_it(path: Path) -> None:
        driver.get("about:blank")
        driver.get_log("browser"), driver.get_log("performance")
        driver.get(path.as_uri())
    return open_it


@pytest.fixture
def pipeline_page(pipeline_report, open_page) -> Path:
    """The page of a whole pipeline, open."""
    open_page(pipeline_report)
    return pipeline_report
