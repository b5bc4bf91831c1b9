"""The page in a real browser: charts draw, nothing is loaded, light and dark, languages, widths."""

from __future__ import annotations

import time

import pytest

from tests.report.chromium import PROMPTS, console, draw_all, position, requested, wait

CONTRAST = """
const style = getComputedStyle(document.documentElement);
const level = name => {
  const hex = style.getPropertyValue('--' + name).trim();
  const parts = [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16) / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
};
const ratio = (one, other) => {
  const [high, low] = [level(one), level(other)].sort((a, b) => b - a);
  return (high + 0.05) / (low + 0.05);
};
const text = [['ink', 'page'], ['ink', 'surface'], ['muted', 'surface'], ['muted', 'page'], ['good', 'good-soft'],
  ['watch', 'watch-soft'], ['bad', 'bad-soft'], ['good', 'surface'], ['bad', 'surface'], ['accent', 'surface'],
  ['muted', 'accent-soft'], ['ink', 'mark']];
const lines = ['base', 'sft', 'ppo', 'gold', 'reward', 'validation', 'c1', 'c2', 'c3', 'c4', 'c5', 'c6', 'c7', 'c8'];
return [...text.filter(pair => ratio(...pair) < 4.5).map(String),
  ...lines.filter(name => ratio('chart-' + name, 'surface') < 3)];
"""
"""Pairs of colours below WCAG's 4.5 for text, and lines below its 3 for graphics."""


def test_every_chart_draws_its_data(driver, pipeline_page):
    draw_all(driver)
    drawn = driver.execute_script("""
        return Object.fromEntries([...document.querySelectorAll('[data-chart]')].map(chart => [chart.dataset.chart,
            [...chart.querySelectorAll('.scatterlayer path.js-line, .scatterlayer .js-fill, .barlayer path')]
                .filter(path => (path.getAttribute('d') || '').length > 20).length]))""")
    assert len(drawn) > 20
    assert [key for key, paths in drawn.items() if paths == 0] == []
    assert drawn["ppo-scores"] >= 2 and drawn["ppo-phases"] >= 6 and drawn["gold-family"] == 18
    labels = driver.execute_script("return [...document.querySelectorAll('.plot')].map(plot => plot.ariaLabel)")
    assert all("→" in label or "PPO" in label for label in labels)


def test_nothing_is_loaded_and_nothing_complains(driver, pipeline_page):
    draw_all(driver)
    for name in ("dark", "light"):
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": name}]})
        time.sleep(0.3)
    driver.find_element("id", "ui-language").click()
    driver.find_element("id", "ui-language").click()
    assert requested(driver) == [pipeline_page.as_uri()]
    assert console(driver) == []


def test_the_first_paint_does_not_wait_for_the_charts(driver, pipeline_page):
    painted = wait(driver, "performance.getEntriesByName('first-contentful-paint').map(entry => entry.startTime)[0]")
    assert painted < 10_000


def test_dark_and_light_follow_the_reader(driver, pipeline_page):
    shades = []
    for name in ("dark", "light"):
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": name}]})
        driver.execute_script("document.querySelector('[data-chart]').scrollIntoView({behavior: 'instant'})")
        wait(driver, "document.querySelector('[data-chart] .scatterlayer path.js-line')")
        wait(driver, "getComputedStyle(document.querySelector('[data-chart] .legendtext')).fill"
                     " === getComputedStyle(document.body).color")
        shades.append(driver.execute_script(
            "return [getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.querySelector('[data-chart] .legendtext')).fill]"))
    assert shades[0][0] != shades[1][0] and shades[0][1] != shades[1][1]


def test_the_page_speaks_chinese(driver, pipeline_page):
    driver.find_element("id", "ui-language").click()
    assert driver.execute_script("return document.documentElement.lang") == "zh-CN"
    assert "训练前后" in driver.find_element("id", "overview").text
    assert "Before and after" not in driver.find_element("id", "overview").text
    assert position(driver) == f"第 1 条，共 {PROMPTS} 条"
    assert driver.find_element("id", "list").get_attribute("aria-label") == "提示列表"


def test_fields_are_labelled_and_text_has_contrast(driver, pipeline_page):
    unnamed = driver.execute_script("""
        return [...document.querySelectorAll('#filters input, #filters select')]
            .filter(field => !field.labels.length || !field.labels[0].innerText.trim()).map(field => field.id)""")
    assert unnamed == []
    assert driver.execute_script(
        "return [...document.querySelectorAll('button')].filter(b => !(b.innerText || b.ariaLabel).trim()).length") == 0
    for scheme in ("light", "dark"):
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": scheme}]})
        assert driver.execute_script(CONTRAST) == []


@pytest.mark.parametrize("width", [390, 800])
def test_a_narrow_window_does_not_scroll_sideways(driver, pipeline_page, width):
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600})
    try:
        draw_all(driver)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_policy_stops_a_script_that_is_not_the_pages_own(driver, pipeline_page):
    driver.execute_script(
        "const script = document.createElement('script'); script.textContent = 'window.broken = 1';"
        "document.body.append(script);"
        "document.body.insertAdjacentHTML('beforeend', '<b onclick=\"window.broken = 1\" id=x>');"
        "document.getElementById('x').click(); fetch('http://127.0.0.1:9/').catch(() => {});")
    assert driver.execute_script("return window.broken") is None
    assert sum("Content Security Policy" in message for message in console(driver)) >= 3


def test_numbers_can_be_read_as_a_table(driver, pipeline_page):
    driver.execute_script("document.querySelector('[data-chart=ppo-kl] details').open = true")
    wait(driver, "document.querySelectorAll('[data-chart=ppo-kl] details td').length")
    rows = driver.execute_script("return document.querySelectorAll('[data-chart=ppo-kl] details tbody tr').length")
    assert rows == 40
