"""The page in a real browser: Chromium, headless, at the width of a desk and of a telephone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from report_data import HOSTILE, everything, features_by, rendered_set

from training.reporting.figures import line_chart
from training.reporting.gallery import galleries
from training.reporting.page import page_of, render

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --disable-dev-shm-usage"
)
WIDTHS = (1280, 390)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium with chromedriver here: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    import torch

    source = rendered_set()
    features = features_by(lambda video, clip: torch.eye(24)[video], source)
    curve = {HOSTILE: [(0, 1), (1, 0.5)], "b": [(0, 2), (1, 1)]}
    page = page_of(
        everything(),
        title=f"Title {HOSTILE}",
        charts=[line_chart(curve, title=HOSTILE, x_label="step", y_label="loss")],
        galleries=galleries(source, features, HOSTILE, queries=2),
    )
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(page), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(params=WIDTHS)
def opened(request, browser, address):
    """The page at one width, everything folded open, with what it asked for and complained of."""
    size = {"width": request.param, "height": 900, "deviceScaleFactor": 1}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**size, "mobile": False})
    # A fresh browser opens a page of its own first, and may log it late.
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get(address)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    messages = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    browser.asked_for = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
        and message["params"]["documentURL"] == address
    ]
    browser.complaints = browser.get_log("browser")
    assert browser.execute_script("return innerWidth") == request.param
    return browser


def test_no_complaint_and_nothing_is_fetched(opened, address):
    assert opened.complaints == []
    assert address in opened.asked_for
    assert [u for u in opened.asked_for if u != address and not u.startswith("data:")] == []


def test_every_image_loads_and_is_described(opened):
    images = opened.execute_script(
        "return [...document.images].map(i => [i.complete, i.naturalWidth, i.alt])"
    )
    assert len(images) == 36
    assert all(done and width > 0 and alt for done, width, alt in images)
    drawings = opened.execute_script(
        "return [...document.querySelectorAll('figure svg')].map("
        "s => [s.getBoundingClientRect().width, s.querySelector('title').textContent])"
    )
    assert drawings and all(width > 200 and title for width, title in drawings)


def test_the_page_never_scrolls_sideways(opened):
    wide, inner = opened.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide <= inner
    # Whatever sticks out does so inside a box that scrolls, and that the keyboard reaches.
    outside = opened.execute_script(
        """const limit = document.documentElement.clientWidth + 1;
        return [...document.body.querySelectorAll('*')].filter(e =>
            e.getBoundingClientRect().right > limit && !e.closest('.scroll table')
        ).map(e => e.outerHTML.slice(0, 120))"""
    )
    assert outside == []
    boxes = opened.execute_script(
        "return [...document.querySelectorAll('.scroll')].map("
        "e => [getComputedStyle(e).overflowX, e.tabIndex, e.getAttribute('aria-label')])"
    )
    assert boxes and all(box[0] == "auto" and box[1] == 0 and box[2] for box in boxes)


def test_tables_have_captions_and_heads_and_rows_stay_in_sight(opened):
    tables = opened.execute_script(
        """return [...document.querySelectorAll('table')].map(t => [
            t.caption ? t.caption.innerText.trim() : '',
            t.querySelectorAll('thead th[scope=col]').length,
            [...t.tBodies].flatMap(b => [...b.rows]).every(r => r.cells[0].scope === 'row'),
            [...t.tBodies].flatMap(b => [...b.rows]).every(
                r => [...r.cells].every(c => c.innerText.trim() !== ''))])"""
    )
    assert len(tables) > 20
    for caption, heads, labelled, filled in tables:
        assert caption and heads >= 2 and labelled and filled, caption
    left = opened.execute_script(
        """const box = [...document.querySelectorAll('#table-2 .scroll')].pop();
        box.scrollLeft = 10000;
        return box.querySelector('tbody th').getBoundingClientRect().left
            - box.getBoundingClientRect().left"""
    )
    assert 0 <= left < 3, "the name of a row stays beside its figures"


def test_text_is_readable_in_both_schemes(opened):
    for scheme in ("light", "dark"):
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        ratios = opened.execute_script(CONTRASTS)
        assert len(ratios) > 10
        assert min(ratios.values()) >= 4.5, (scheme, min(ratios, key=ratios.get))


# Contrast of each colour of text with what is behind it (WCAG 2).
CONTRASTS = """
const light = text => {
  const [r, g, b] = text.match(/[\\d.]+/g).map(v => {
    v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
  return .2126 * r + .7152 * g + .0722 * b; };
const behind = e => {
  for (; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)$/.test(colour) && !/^rgba/.test(colour)) return colour; }
  return 'rgb(255, 255, 255)'; };
const found = {};
const kinds = 'p, li, b, th, td, span, a, caption, figcaption, summary, code, h1, h2, h3, h4';
for (const e of document.body.querySelectorAll(kinds)) {
  if (!e.innerText.trim()) continue;
  const [a, b] = [light(getComputedStyle(e).color), light(behind(e))];
  found[e.tagName + '.' + e.className + ' in ' + e.parentElement.className] =
    (Math.max(a, b) + .05) / (Math.min(a, b) + .05); }
return found;
"""


def test_hostile_labels_are_shown_and_never_run(opened):
    assert opened.title == f"Title {HOSTILE}"
    shown = opened.execute_script("return document.body.innerText")
    assert HOSTILE in shown
    assert opened.execute_script("return document.scripts.length") == 0


def test_right_and_wrong_are_told_in_words(opened):
    words = opened.execute_script(
        "return [...document.querySelectorAll('.answers li')].map(e => [e.className, e.innerText])"
    )
    marks = {"right": "✓", "near": "≈", "wrong": "✗"}
    assert {name for name, _ in words} == set(marks)
    assert all(marks[name] in text for name, text in words)
