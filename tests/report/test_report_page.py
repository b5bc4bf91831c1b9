"""The page as text: it loads nothing, says what is absent, and keeps hostile text inert."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

SCRIPTS = 6
"""plotly and the page's own five."""


class Page(HTMLParser):
    """Tags of a page with their attributes, and the text of each script."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict]] = []
        self.scripts: list[str] = []
        self.data: dict[str, object] = {}
        self._reading = False
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._reading = tag == "script"
        if self._reading:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._reading = False
        kind, attributes = self.tags[-1]
        if tag == "script" and kind == "script" and attributes.get("type") == "application/json":
            self.data[attributes["id"]] = json.loads(self.scripts.pop())

    def handle_data(self, text):
        if self._reading:
            self.scripts[-1] += text

    def attributes(self, tag: str, name: str) -> list[str]:
        return [attributes[name] for kind, attributes in self.tags if kind == tag and name in attributes]


@pytest.fixture(scope="module")
def page(pipeline_report):
    """The page of a whole pipeline."""
    return Page(pipeline_report)


def test_the_page_names_no_address_to_load_from(page):
    assert page.attributes("script", "src") == page.attributes("img", "src") == []
    assert page.attributes("link", "href") == ["data:,"]
    style = page.text[page.text.index("<style>"): page.text.index("</style>")]
    assert "url(" not in style and "@import" not in style


def test_the_policy_allows_the_pages_own_scripts_and_nothing_else(page):
    (policy,) = [value for value in page.attributes("meta", "content") if "script-src" in value]
    assert policy.startswith("default-src 'none'")
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    found = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts}
    assert found == allowed and len(found) == SCRIPTS
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]


def test_plotly_is_there_once(page):
    assert sum("plotly.js v" in script for script in page.scripts) == 1


def test_every_part_of_a_pipeline_is_there(page):
    for section in ("overview", "health", "ppo", "evaluation", "transcripts", "training", "lineage"):
        assert section in page.attributes("section", "id")
    assert set(page.attributes("figure", "data-chart")) == set(page.data["charts"])
    expected = {"ppo-scores", "ppo-kl", "ppo-gap", "ppo-phases", "gold-family", "gold-lang", "perplexity",
                "pretrain-loss", "sft-loss", "reward-loss", "reward-accuracy"}
    assert expected <= set(page.data["charts"])
    assert [len(group["records"]) for group in page.data["transcripts-data"]] == [500, 500, 6]


def test_both_languages_are_in_the_page(page):
    for text in ("Sampler–learner gap", "采样器与学习器之差", "What was made from what", "训练前后"):
        assert text in page.text
    assert all(set(words) == {"en", "zh"} and all(words.values()) for words in page.data["words"].values())


def test_a_ppo_run_alone_says_what_is_absent(synthetic_run, build_report):
    made = synthetic_run("alone")
    made.ppo(made.path / "ppo.work", 8, gold=False)
    page = Page(build_report(made.path))
    missing = "data, tokenizer, pretraining, SFT, preference pairs, reward model, evaluation"
    assert f"Stages that are not in this directory: {missing}." in page.text
    assert "PPO has not finished" in page.text
    assert "Without an evaluation there is no comparison" in page.text
    assert "evaluation" not in page.attributes("section", "id")
    assert "gold" not in {trace["meta"]["colour"] for trace in page.data["charts"]["ppo-scores"]["data"]}
    assert len(page.data["transcripts-data"]) == 1


def test_a_stage_without_metrics_and_an_evaluation_without_gold(synthetic_run, build_report):
    made = synthetic_run()
    made.stage("sft")
    made.stage("evaluate", ("sft",), fill=lambda directory: made.evaluate(directory, 6, gold=False))
    page = Page(build_report(made.path))
    assert "SFT logged no metrics" in page.text
    assert "These prompts have no gold checker" in page.text
    assert list(page.data["charts"]) == ["perplexity"]


def test_a_stage_that_has_just_begun_is_reported(synthetic_run, build_report):
    made = synthetic_run()
    (made.path / "pretrain.work").mkdir()
    (made.path / "pretrain.work" / "metrics.jsonl").write_text("")
    assert "pretraining logged no metrics" in Page(build_report(made.path)).text


def test_the_browser_says_how_many_prompts_were_left_out(synthetic_run, build_report):
    path = build_report(synthetic_run().pipeline(prompts=20, steps=8).path, max_prompts=5)
    page = Page(path)
    assert "The browser holds 5 of 20 prompts of stage evaluate" in page.text
    assert len(page.data["transcripts-data"][0]["records"]) == 5


def test_hostile_text_adds_no_element_and_survives_as_text(hostile_run, build_report, hostile):
    page = Page(build_report(hostile_run.path))
    assert len(page.scripts) == SCRIPTS
    assert not {"img", "svg", "iframe", "b-hostile"} & {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    responses = {sample["r"] for record in page.data["transcripts-data"][0]["records"] for sample in record["samples"]}
    assert set(hostile) <= responses


def test_a_lone_surrogate_does_not_stop_the_report(synthetic_run, build_report):
    made = synthetic_run()
    made.stage("data", metrics={"note": "x"})
    (made.path / "summary.json").write_text('{"seed": "\\ud800"}')
    assert "\\ud800" in build_report(made.path).read_text(encoding="utf-8")
