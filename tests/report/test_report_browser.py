"""The browser of transcripts in a real browser: filters, search, sorting, pages, keys, and hostile text."""

from __future__ import annotations

from tests.report.chromium import (
    PROMPTS,
    choose,
    console,
    draw_all,
    found,
    gains,
    position,
    press,
    requested,
    wait,
    walk,
)


def test_filters_narrow_the_list(driver, pipeline_page):
    assert found(driver) == PROMPTS
    choose(driver, "language", "zh")
    assert found(driver) == PROMPTS // 2
    choose(driver, "family", "add")
    both = found(driver)
    assert 0 < both < PROMPTS // 2
    counts = {}
    for change in ("improved", "worsened", "same"):
        choose(driver, "change", change)
        counts[change] = found(driver)
        mark = {"improved": "▲", "worsened": "▼", "same": "±"}[change]
        assert all(gain.startswith(mark) for gain in gains(driver))
    assert sum(counts.values()) == both and all(counts.values())
    driver.find_element("id", "filter-reset").click()
    wait(driver, f"document.getElementById('position').textContent.endsWith(' {PROMPTS}')")


def test_search_finds_and_marks(driver, pipeline_page):
    driver.find_element("id", "filter-search").send_keys("heldout-0042")
    assert found(driver) == 1
    choose(driver, "search", "NUMBERS FROM THE SMALLEST")
    assert found(driver) == PROMPTS // 2
    marked = driver.execute_script("return document.querySelector('#detail mark').textContent")
    assert marked == "numbers from the smallest"
    choose(driver, "search", "there is no such text")
    assert found(driver) == 0
    assert "Nothing matches" in driver.find_element("id", "detail").text


def test_sorting_by_gain(driver, pipeline_page):
    choose(driver, "sort", "gain")
    best = [int(gain.split("+")[1]) for gain in gains(driver)]
    assert best == sorted(best, reverse=True) and best[0] == 100
    choose(driver, "sort", "loss")
    assert gains(driver)[0].startswith("▼")


def test_pages_and_keys_walk_through_the_records(driver, pipeline_page):
    driver.find_element("id", "page-next").click()
    assert position(driver) == f"9 of {PROMPTS}"
    press(driver, "j")
    assert position(driver) == f"10 of {PROMPTS}"
    press(driver, "k"), press(driver, "k")
    assert position(driver) == f"8 of {PROMPTS}"
    assert driver.find_element("id", "page-number").text == "page 1 of 63"
    press(driver, "End", "#list")
    assert position(driver) == f"{PROMPTS} of {PROMPTS}"
    assert not driver.find_element("id", "record-next").is_enabled()
    press(driver, "Home", "#list"), press(driver, "ArrowDown", "#list")
    assert position(driver) == f"2 of {PROMPTS}"
    press(driver, "/")
    assert driver.execute_script("return document.activeElement.id") == "filter-search"
    press(driver, "j", "#filter-search")
    assert position(driver) == f"2 of {PROMPTS}"


def test_a_record_shows_three_models_side_by_side_with_their_scores(driver, pipeline_page):
    columns = driver.find_elements("css selector", "#detail .response")
    assert [column.find_element("css selector", "h4").text for column in columns] == ["base", "SFT", "PPO"]
    assert len({column.location["y"] for column in columns}) == 1
    text = columns[2].text
    assert "gold" in text and "reward" in text and "KL" in text and "tokens" in text


def test_training_transcripts_are_the_second_source(driver, pipeline_page):
    choose(driver, "source", "2")
    titles = [item.text for item in driver.find_elements("css selector", "#detail .response h4")]
    assert titles[0].startswith("step ") and titles == sorted(titles, key=lambda title: int(title.split()[1]))
    choose(driver, "source", "0")
    assert found(driver) == PROMPTS


def test_hostile_text_is_shown_and_stays_inert(driver, hostile_run, build_report, open_page, hostile):
    path = build_report(hostile_run.path)
    open_page(path)
    draw_all(driver)
    for source in ("0", "1"):
        choose(driver, "source", source)
        shown = walk(driver)
        assert set(hostile) <= shown
    assert driver.execute_script("return window.broken") is None
    assert driver.execute_script("return document.querySelectorAll('img, iframe, b-hostile, #main script').length") == 0
    assert driver.execute_script("return document.querySelectorAll('.plot a[*|href]').length") == 0
    labels = driver.execute_script("return [...document.querySelectorAll('.xtick text')].map(text => text.textContent)")
    assert {text for text in hostile if text.startswith("<")} <= set(labels)
    assert requested(driver) == [path.as_uri()]
    assert console(driver) == []


def test_two_thousand_prompts_stay_quick(driver, synthetic_run, build_report, open_page):
    open_page(build_report(synthetic_run().pipeline(prompts=2000, steps=8).path))
    spent = driver.execute_script(
        "const field = document.getElementById('filter-search'); field.value = '7'; const start = performance.now();"
        "field.dispatchEvent(new Event('input', {bubbles: true})); return performance.now() - start;")
    assert spent < 2000


def test_a_page_without_transcripts_has_no_browser_and_no_error(driver, synthetic_run, build_report, open_page):
    made = synthetic_run()
    made.stage("sft", fill=lambda directory: made.losses(directory, 2, 1))
    open_page(build_report(made.path))
    draw_all(driver)
    assert driver.execute_script("return document.getElementById('transcripts')") is None
    assert console(driver) == []
