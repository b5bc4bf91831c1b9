"""The Grafana dashboard as a file: its metrics exist, its panels say what they show and do not overlap."""

from __future__ import annotations

import json
import re

from rlhf import telemetry
from tests.monitoring.prometheus import DASHBOARD, panels, queries

OWN = {name for name, _ in telemetry.NUMBERS.values()} | {
    "rlhf_phase", "rlhf_phase_seconds", "rlhf_step", "rlhf_steps", "rlhf_step_end_time_seconds", "rlhf_restarts",
    "rlhf_gpu_memory_bytes",
}


def test_every_metric_of_ours_is_on_a_panel_and_no_other_is() -> None:
    asked = set(re.findall(r"ray_(rlhf_\w+)", " ".join(query.expression for query in queries())))
    assert asked == OWN


def test_every_number_of_ours_is_that_of_the_chosen_runs() -> None:
    expressions = [target["expr"] for panel in panels() for target in panel["targets"]]
    assert not [each for each in expressions if re.search(r'ray_rlhf_\w+(?!\w|\{run=~"\$run"[,}])', each)]


def test_no_query_makes_up_an_answer() -> None:
    assert not [query for query in queries() if "vector(" in query.expression or "absent" in query.expression]


def test_every_panel_has_a_title_a_description_a_unit_and_the_chosen_source() -> None:
    titles = [panel["title"] for panel in panels()]
    assert len(set(titles)) == len(titles) > 20
    for panel in panels():
        assert panel["description"].endswith(".") and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
        assert all(target["legendFormat"] for target in panel["targets"])


def test_panels_lie_in_rows_and_do_not_overlap() -> None:
    content = json.loads(DASHBOARD.read_text())
    assert content["panels"][0]["type"] == "row"
    assert len({panel["id"] for panel in content["panels"]}) == len(content["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in content["panels"]:
        place = panel["gridPos"]
        across = range(place["x"], place["x"] + place["w"])
        cells = {(x, y) for x in across for y in range(place["y"], place["y"] + place["h"])}
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells


def test_source_and_run_are_chosen_on_the_page() -> None:
    content = json.loads(DASHBOARD.read_text())
    source, run = content["templating"]["list"]
    assert (source["name"], source["type"]) == ("datasource", "datasource")
    assert run["name"] == "run" and run["allValue"] == ".*"
    assert run["query"]["query"] == "label_values(ray_rlhf_step, run)"
    uid = re.findall(r'"uid": "([^"]*)"', DASHBOARD.read_text())
    assert set(uid) == {"${datasource}", content["uid"]}  # no data source of somebody's own Grafana
