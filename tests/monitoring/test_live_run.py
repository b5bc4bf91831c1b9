"""A real run, looked at as a person would: `ps`, `rlhf watch`, the dashboard in a browser, Grafana's queries.

The last ones have a second run beside it, whose actors would not leave those of the first on the dashboard's page.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlhf.device import has_gpu
from rlhf.metrics import read_json_lines
from tests.limits import HANG_S
from tests.monitoring.conftest import Running, steps_of
from tests.monitoring.prometheus import Prometheus, queries
from tests.report.chromium import wait

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
NEEDS_GPU = {"GPU memory of each actor"}  # tests/gpu/test_memory_metric.py has it
FORGOTTEN_S = 25.0  # Ray forgets a gauge that was not set again for 20 s
ACTORS = ("policy[0]", "critic[0]", "reference[0]", "reward[0]", "rollout[0]", "experience[0]")


def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition; whether it came true is for the test to say."""
    end = time.monotonic() + HANG_S
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)


def test_no_tag_grows_with_the_run(running: Running, prometheus: Prometheus) -> None:
    """Processes show their step in the title, which Ray's agent reads; tasks have names, which Ray counts by."""
    named = 'sum by (Component) (ray_component_uss_bytes{Component=~"ray::.+[[]0[]].*"})'
    until(lambda: len(prometheus.series(named)) >= 3)
    assert len(prometheus.series(named)) >= 3
    for label in ("Component", "Name", "phase", "run", "actor"):
        assert prometheus.series(f'{{{label}=~".*step.+[0-9].*"}}') == []
    assert len(prometheus.series('count by (Component) ({Component=~"ray::.+"})')) < 60
    assert len(prometheus.series("count by (Name) (ray_tasks)")) < 60


def test_ps_says_what_each_actor_does(running: Running) -> None:
    wanted = {r"policy\[0\] step \d+ update", r"rollout\[0\] step \d+ generate", r"critic\[0\] step \d+ values"}
    seen: set[str] = set()

    def look() -> bool:
        for process in psutil.process_iter(["cmdline"]):
            title = " ".join(filter(None, process.info["cmdline"] or []))
            seen.update(pattern for pattern in wanted if re.fullmatch(rf"ray::{pattern}", title))
        return seen == wanted

    until(look)
    assert seen == wanted


def test_watch_shows_the_run(running: Running) -> None:
    command = [sys.executable, "-m", "rlhf", "watch", str(running.output.parent), "--once"]
    shown = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True, timeout=HANG_S).stdout
    assert re.search(r"^ppo +> now +\d+/100000 +\S.* left", shown, re.MULTILINE)
    assert re.search(r"^reward +-?[\d.]+ +[▁-█]+", shown, re.MULTILINE)
    assert "phases of the last step  rollout " in shown


def test_the_dashboard_in_a_browser(running: Running, driver, tmp_path: Path) -> None:
    """It asks for the token; then the actors page has every actor by name, an actor's page says its steps, and the
    job's page has the command and a line per step."""
    pictures = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    enter(driver, running)
    driver.get(f"{running.head.dashboard}/#/actors")
    shows(driver, all_shown(*ACTORS))
    picture(driver, pictures / "dashboard_actors.png")
    driver.execute_script(f"{LINK_OF}('policy[0]').click()")
    shows(driver, r"/\d\d:\d\d:\d\d step \d+ update/.test(document.body.innerText)")
    picture(driver, pictures / "dashboard_actor.png")
    driver.get(f"{running.head.dashboard}/#/jobs/{running.job}")
    shows(driver, r"/ppo \d+\/100000 +reward/.test(document.body.innerText)")
    picture(driver, pictures / "dashboard_job.png")


LINK_OF = """(name => [...document.querySelectorAll('tbody tr')].find(row => row.innerText.includes(name))
    .querySelector('a'))"""


def shows(driver, condition: str) -> None:
    """Wait until the page meets a condition; an AssertionError says what it shows instead."""
    try:
        wait(driver, condition)
    except AssertionError as error:
        shown = driver.execute_script("return document.body.innerText")
        raise AssertionError(f"{error}; at {driver.current_url} the page says: {shown[:1500]}") from None


def all_shown(*words: str) -> str:
    return " && ".join(f"document.body.innerText.includes('{word}')" for word in words)


def enter(driver, running: Running) -> None:
    """Give the dashboard the token that it asks for."""
    driver.get(running.head.dashboard)
    field = "document.querySelector('input[type=password]')"
    shows(driver, field)
    driver.find_element("css selector", "input[type=password]").send_keys(running.head.token + "\n")
    shows(driver, f"!{field} && document.body.innerText.includes('Jobs')")


def picture(driver, path: Path) -> None:
    """Photograph the page, small enough for the documents."""
    size = {"width": 1600, "height": 1150, "deviceScaleFactor": 0.75, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    time.sleep(1.5)  # the page moves what it has just shown into place
    driver.save_screenshot(str(path))
    assert 10_000 < path.stat().st_size < 200_000


def test_every_panel_of_the_grafana_dashboard_has_data(
    running: Running, finetuning: Running, prometheus: Prometheus
) -> None:
    wanted = [query for query in queries() if has_gpu() or query.panel not in NEEDS_GPU]

    def without_data() -> list[str]:
        return [f"{query.panel}: {query.expression}" for query in wanted if not prometheus.returns(query)]

    until(lambda: without_data() == [])
    time.sleep(max(0.0, running.began + FORGOTTEN_S - time.monotonic()))
    until(lambda: without_data() == [])
    assert without_data() == []  # what is set only once is still there


def test_the_numbers_are_those_of_the_run(running: Running, prometheus: Prometheus) -> None:
    def step() -> dict[str, Any] | None:
        return next(iter(prometheus.series('ray_rlhf_step{stage="ppo"}')), None)

    before = steps_of(running.metrics)
    until(lambda: (found := step()) and before <= float(found["value"][1]))
    told = step()
    assert before <= float(told["value"][1]) <= steps_of(running.metrics)
    assert {key: told["metric"][key] for key in ("run", "stage")} == {
        "run": f"{running.output.parent.name}/ppo", "stage": "ppo",
    }
    (total,) = prometheus.series('ray_rlhf_steps{stage="ppo"}')
    assert float(total["value"][1]) == 100000
    phases = {series["metric"]["phase"] for series in prometheus.series("ray_rlhf_phase_seconds")}
    assert phases == {"rollout", "score", "experience", "update", "publish", "step"}
    assert {series["value"][1] for series in prometheus.series("ray_rlhf_rollouts_waiting")} == {"1"}


def test_a_training_stage_tells_its_numbers_too(finetuning: Running, prometheus: Prometheus) -> None:
    tags = f'{{run="{finetuning.output.parent.name}/sft",stage="sft"}}'
    names = ("loss", "learning_rate", "gradient_norm", "validation_loss", "tokens_per_second", "step")
    until(lambda: all(prometheus.series(f"ray_rlhf_{name}{tags}") for name in names))
    told = {name: float(prometheus.series(f"ray_rlhf_{name}{tags}")[0]["value"][1]) for name in names}
    rows = read_json_lines(finetuning.metrics)
    kept = {"loss": "loss", "learning_rate": "learning_rate", "gradient_norm": "grad_norm",
            "validation_loss": "validation_loss", "step": "step"}
    for name, key in kept.items():
        assert told[name] in [pytest.approx(row[key]) for row in rows if key in row], name
    assert told["tokens_per_second"] > 0 and not any("throughput/tokens_per_s" in row for row in rows)
