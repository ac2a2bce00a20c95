"""The page: whole in itself, names are text, and in Chromium it plays a hit from where it is."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from scenes import footage

from ccl_hub.errors import InputError
from ccl_hub.find.page.write import Place, render, write_page
from ccl_hub.find.results import Alike, Doubt, Hit, Overlap, Results

HOSTILE = "</script><img src=x onerror=document.title='taken'>&\"'.mp4"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --disable-dev-shm-usage "
    "--autoplay-policy=no-user-gesture-required"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of hits: one that plays, a mirrored one, one whose file is gone and name is bad."""
    folder = tmp_path_factory.mktemp("page #1")
    video = footage(folder / "film.mp4", 1, seconds=8.0)
    query = footage(folder / "cut.mp4", 1, begin=3.0, seconds=3.0)
    hits = (
        Hit("films/film.mp4", str(video), 0.0, 3.0, 3.0, 6.0, 1.0, False, 0.97, 40.0, 1e-9, True),
        Hit("other/film.mp4", str(video), 0.5, 2.5, 1.0, 3.0, 1.0, True, 0.9, 20.0, 1e-4, None),
        Hit(HOSTILE, str(folder / "gone.mp4"), 0.0, 1.0, 0.0, 0.5, 0.5, False, 0.8, 9.0, 9e-3),
    )
    write_page(Results(Hit, hits, str(query), 3.0), folder / "hits.html")
    return folder / "hits.html"


def data_of(page: Path) -> dict:
    text = page.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    return json.loads(found)


def test_the_page_is_whole_in_itself_and_names_are_text(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"https?://", text)
    assert "default-src 'none'" in text and HOSTILE not in text
    data = data_of(page)
    assert [row["places"][1]["name"] for row in data["rows"]][2] == HOSTILE
    pictures = [len(place["thumbnails"]) for row in data["rows"] for place in row["places"]]
    assert pictures == [4] * 6
    first, gone = data["rows"][0]["places"][1], data["rows"][2]["places"][1]
    assert all(first["thumbnails"]) and not any(gone["thumbnails"])
    assert "page%20%231" in first["file"]


def test_every_kind_of_result_has_a_page(page: Path, tmp_path: Path) -> None:
    video = str(page.parent / "film.mp4")
    for rows in (
        (Overlap(1, "copy", "a", video, 0.0, 2.0, "b", video, 1.0, 3.0, 1.0, 0.9, 9.0, 1e-5),),
        (Alike("a", video, 0.0, 4.0, 0.8),),
        (Doubt("a", video, 4, 0.25, "b"),),
    ):
        write_page(Results(type(rows[0]), rows, "library"), tmp_path / "page.html")
        assert len(data_of(tmp_path / "page.html")["rows"]) == 1
    write_page(Results(Hit), tmp_path / "page.html")
    assert data_of(tmp_path / "page.html")["rows"] == []


def test_each_file_is_opened_once(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ccl_hub.find.page import write

    opened, inner = [], write.thumbnails
    monkeypatch.setattr(
        write,
        "thumbnails",
        lambda path, at: opened.append((str(path), len(at))) or inner(path, at),
    )
    film, query = str(page.parent / "film.mp4"), str(page.parent / "cut.mp4")
    hits = [
        Hit("film.mp4", film, 0.0, 2.0, float(n), n + 2.0, 1.0, False, 0.9, 9.0, 1e-3)
        for n in range(5)
    ]
    seen = []
    write_page(
        Results(Hit, tuple(hits), query),
        tmp_path / "page.html",
        progress=lambda *at: seen.append(at),
    )
    assert sorted(opened) == [(query, 4), (film, 12)], "instants that rows share count once"
    assert seen == [(1, 2), (2, 2)]
    rows = data_of(tmp_path / "page.html")["rows"]
    assert all(all(place["thumbnails"]) for row in rows for place in row["places"])
    first, second = (row["places"][1]["thumbnails"] for row in rows[:2])
    assert first[2:] == second[:2] and first[0] != second[0]


def test_a_title_is_text_and_a_picture_has_one_thumbnail() -> None:
    assert "<title>&lt;b&gt;</title>" in render({"rows": []}, "<b>")
    assert Place("a", "/a.png", 0.0, 0.0).instants == [0.0]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory):
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


def resized(browser, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**size, "mobile": False})


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_can_be_read(width: int, scheme: str, browser, page: Path) -> None:
    resized(browser, width)
    scheme_now = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme_now)
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script("return document.querySelectorAll('li').length") == 3
    ground, text = (
        browser.execute_script(f"return getComputedStyle(document.body).{name}")
        for name in ("backgroundColor", "color")
    )
    levels = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ground, text)]
    assert abs(levels[0] - levels[1]) > 500 and (levels[0] > levels[1]) == (scheme == "light")
    assert "taken" not in browser.title
    assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    messages = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    asked = {
        message["params"]["request"]["url"].partition(":")[0]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    assert asked <= {"file", "data"}


def test_sorting_filters_and_keys(browser, page: Path) -> None:
    resized(browser, 1280)
    browser.get(page.as_uri())
    run = browser.execute_script
    names = "return [...document.querySelectorAll('li .places > div:last-child .name')]"
    names += ".map(e => e.textContent)"
    assert run(names) == ["films/film.mp4", "other/film.mp4", HOSTILE]
    choose = "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
    choose += "e.dispatchEvent(new Event('input', {bubbles: true}))"
    run(choose, "sort", "name")
    assert run(names)[0] == HOSTILE
    run(choose, "folder", "other")
    assert run(names) == ["other/film.mp4"]
    run(choose, "folder", "*")
    run(choose, "length", "2.5")
    assert run(names) == ["films/film.mp4"]
    run(choose, "length", "0")
    run(choose, "words", "nobody")
    assert run(names) == [] and "Nothing matches" in run("return document.body.textContent")
    run(choose, "words", "")
    run(choose, "sort", "e_value")
    from selenium.webdriver.common.keys import Keys

    body = browser.find_element("tag name", "body")
    body.send_keys("j")
    focused = "return document.activeElement.querySelector('div:last-child > .name').textContent"
    assert run(focused) == "films/film.mp4"
    browser.switch_to.active_element.send_keys("j")
    assert run(focused) == "other/film.mp4"
    browser.switch_to.active_element.send_keys("/")
    assert run("return document.activeElement.id") == "words"
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)


def test_a_player_starts_at_the_hit(browser, page: Path) -> None:
    resized(browser, 1280)
    browser.get(page.as_uri())
    browser.find_elements("css selector", "li")[0].find_elements("css selector", "button")[
        1
    ].click()
    state = browser.execute_async_script(
        "const done = arguments[0], video = document.querySelector('video');"
        "const tell = () => done([video.currentTime, video.videoWidth, video.error && 1]);"
        "video.addEventListener('playing', () => setTimeout(tell, 200), {once: true});"
        "setTimeout(tell, 20000); if (!video.paused && video.currentTime > 0) { tell(); }"
    )
    time, width, error = state
    if error or not width:
        pytest.skip("this Chromium has no H.264")
    assert 3.0 <= time < 6.0


def test_a_page_never_replaces_a_video(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(b"frames")
    with pytest.raises(InputError, match=r"a page is HTML; give a name that ends in \.html"):
        write_page(Results(Hit, (), "q.png", 0.0), film)
    assert film.read_bytes() == b"frames"
