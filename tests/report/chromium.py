"""What a test does with a page in headless Chromium: wait, look, choose, press."""

from __future__ import annotations

import json
import time

from tests.limits import HANG_S

INSTALL = "the report's browser test needs Chromium: apt-get install chromium chromium-driver"
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1280,900", "--accept-lang=en-US",
    "--force-prefers-reduced-motion",
)
PROMPTS = 500


def wait(driver, script: str, seconds: float = HANG_S) -> object:
    """Wait until a script returns something true, and give that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = driver.execute_script(f"return {script}")
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"never true within {seconds} s: {script}")


def draw_all(driver) -> None:
    """Bring each chart into the window until it is drawn."""
    for chart in driver.execute_script("return [...document.querySelectorAll('[data-chart]')]"):
        driver.execute_script("arguments[0].scrollIntoView({behavior: 'instant'})", chart)
        name = chart.get_attribute("data-chart")
        wait(driver, f"document.querySelector('[data-chart=\"{name}\"] .main-svg') !== null")


def console(driver) -> list[str]:
    return [entry["message"] for entry in driver.get_log("browser")]


def requested(driver) -> list[str]:
    """Addresses that the page asked for, but for those inside itself."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("data:", "blob:"))]


def choose(driver, name: str, value: str) -> None:
    """Set a filter as a reader does: choose or type, then let the page hear of it."""
    driver.execute_script(
        "const field = document.getElementById('filter-' + arguments[0]); field.value = arguments[1];"
        "field.dispatchEvent(new Event('input', {bubbles: true}));", name, value)


def found(driver) -> int:
    """How many records pass the filters: the second number of “3 of 500”."""
    return int(driver.execute_script("return document.getElementById('position').textContent").split(" of ")[1])


def position(driver) -> str:
    return driver.execute_script("return document.getElementById('position').textContent")


def gains(driver) -> list[str]:
    return driver.execute_script("return [...document.querySelectorAll('#list .delta')].map(item => item.textContent)")


def press(driver, key: str, element: str = "body") -> None:
    driver.execute_script(
        "const pressed = new KeyboardEvent('keydown', {key: arguments[1], bubbles: true});"
        "document.querySelector(arguments[0]).dispatchEvent(pressed)", element, key)


def walk(driver) -> set[str]:
    """Every response that the browser of transcripts shows, record by record."""
    shown: set[str] = set()
    for _ in range(found(driver)):
        shown.update(driver.execute_script(
            "return [...document.querySelectorAll('#detail .response .prose')].map(block => block.textContent)"))
        press(driver, "j")
    return shown
