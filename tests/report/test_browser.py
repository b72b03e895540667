"""Report pages in a real browser: Chromium, driven by playwright. Skipped where one is missing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import CALIBRATION, row, write_comparison

from genkit.registry.catalogue import load_registry
from genkit.report.page import write_page
from genkit.report.tables import estimate

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = os.environ.get("GENKIT_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
HOSTILE = "<script>alert(1)</script>"
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 800}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a comparison with all pictures, one of whose runs has a hostile name."""
    folder = tmp_path_factory.mktemp("browser") / "demo"
    rows = [row("pixelcnn", 0.3), row(HOSTILE, 0.59, 0.02), row("dcgan", 0.72), *CALIBRATION]
    write_comparison(folder, rows, more_pictures=True, warning=f"the loss is {HOSTILE}")
    write_page([folder], folder / "report.html", load_registry())
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, folder: Path) -> Iterator[Any]:
    """Opens the page; at the end nothing may have been complained of, asked for or popped up."""
    contexts, complaints = [], []

    def open_page(viewport: dict[str, int] = WIDE, **options: Any) -> Any:
        context = browser.new_context(viewport=viewport, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        address = (folder / "report.html").as_uri()

        def watch(request: Any) -> None:
            if request.url != address and not request.url.startswith("data:"):
                complaints.append(f"request: {request.url}")

        def popped_up(dialog: Any) -> None:
            complaints.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        page.on("request", watch)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", popped_up)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def hidden_beyond(page: Any) -> int:
    """Pixels by which the page is wider than the window."""
    return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))


def test_every_picture_decodes(open_page: Any) -> None:
    page = open_page()
    pictures = page.evaluate(
        "[...document.querySelectorAll('img[src]')].map(i => i.decode().then(() => i.naturalWidth))"
        ".reduce(async (all, one) => [...await all, await one], [])"
    )
    assert len(pictures) == 3 + 1 + 3 * 4 + 3 * 6 and min(pictures) > 100


def test_table_equals_the_comparison(open_page: Any, folder: Path) -> None:
    page = open_page()
    shown = [
        [cell.inner_text() for cell in line.locator("th, td").all()]
        for line in page.locator("table.ranked tbody tr").all()
    ]
    rows = json.loads((folder / "compare.json").read_text())["rows"]
    assert [line[1] for line in shown] == [one["name"] for one in rows]
    for line, one in zip(shown, rows, strict=True):
        kid, deviation = 1000 * one["scores"]["kid"], 1000 * one["deviations"]["kid"]
        assert line[2] == estimate(kid, 2 * deviation, 1)


def test_hostile_name_is_shown_as_text(open_page: Any) -> None:
    page = open_page()
    assert HOSTILE in page.locator("h1").inner_text()
    assert page.locator("#warnings h3", has_text=HOSTILE).count() == 1
    assert page.locator("script").count() == 1


def test_policy_keeps_scripts_and_requests_of_others_out(browser: Any, folder: Path) -> None:
    """Not by trust in the escaping: a page with a stranger's script in it does not run it."""
    text = (folder / "report.html").read_text(encoding="utf-8")
    strange = "<script>document.title = 'taken'</script><img src='https://example.org/x.png'>"
    path = folder / "strange.html"
    path.write_text(text.replace("</main>", f"{strange}</main>"), encoding="utf-8")
    page = browser.new_page()
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(path.as_uri())
    assert "taken" not in page.title()
    assert sum("Content Security Policy" in text for text in refused) == 2
    page.close()


def test_scrubber_shows_other_pictures_and_says_their_steps(open_page: Any) -> None:
    page = open_page()
    share = page.locator("#share")
    assert share.is_visible() and share.input_value() == "100"

    def state() -> tuple[list[str], list[str]]:
        frames = page.locator(".frames li:visible img")
        sources = [frame.get_attribute("src") for frame in frames.all()]
        return sources, page.locator(".moment").all_inner_texts()

    last, said = state()
    assert len(last) == 3 and said == ["step 2,000, 20 s"] * 3
    share.focus()
    page.keyboard.press("Home")
    first, said = state()
    assert said == ["step 0"] * 3 and not set(first) & set(last)
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    assert page.locator("#share-text").inner_text() == "30%"
    assert share.get_attribute("aria-valuetext") == "30% of training"
    assert state()[1] == ["step 667, 6.7 s"] * 3


def test_picker_shows_the_row_of_one_class(open_page: Any) -> None:
    page = open_page()
    picker = page.locator("#class")
    assert picker.is_visible() and picker.locator("option").count() == 11
    image = page.locator("#classes img").first
    frame = image.locator("..")  # the button that enlarges it
    whole, row = image.bounding_box(), image.bounding_box()["height"] / 10
    picker.select_option(label="digit 3")
    shown, moved = frame.bounding_box(), image.bounding_box()
    assert abs(shown["height"] - row) < 3
    assert abs((shown["y"] - moved["y"]) - 3 * row) < 3
    picker.select_option(label="all classes")
    assert image.bounding_box()["height"] == whole["height"]
    assert frame.bounding_box()["height"] >= whole["height"]


def test_growth_plays_from_the_start_until_it_is_paused(open_page: Any) -> None:
    page = open_page()
    page.get_by_role("button", name="Play").click()
    share = page.locator("#share")
    assert int(share.input_value()) < 90
    for _ in range(200):
        if int(share.input_value()) > 10:
            break
        page.wait_for_timeout(50)
    page.get_by_role("button", name="Pause").click()
    stopped = share.input_value()
    page.wait_for_timeout(200)
    assert share.input_value() == stopped and 10 < int(stopped) < 100
    assert page.get_by_role("button", name="Play").is_visible()


def test_click_and_key_enlarge_a_picture_and_escape_closes_it(open_page: Any) -> None:
    page = open_page()
    viewer, image = page.locator("#viewer"), page.locator("#samples img").first
    assert not viewer.is_visible()
    image.click()
    assert viewer.is_visible()
    large = viewer.locator("img")
    assert large.get_attribute("src") == image.get_attribute("src")
    assert large.bounding_box()["width"] == 3 * 242  # whole multiples keep pixels square
    assert "samples of pixelcnn" in page.locator("#viewer-caption").inner_text()
    page.keyboard.press("Escape")
    assert not viewer.is_visible()
    page.locator("#samples button").nth(1).focus()
    page.keyboard.press("Enter")
    assert viewer.is_visible() and HOSTILE in large.get_attribute("alt")
    page.get_by_role("button", name="Close").click()
    assert not viewer.is_visible()


def test_chart_tells_values_to_pointer_and_keys(open_page: Any) -> None:
    page = open_page()
    panel = page.locator("#curves figure.chart").first
    drawing, told = panel.locator("svg").first, panel.locator("output")
    drawing.scroll_into_view_if_needed()
    box = drawing.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 50)
    assert told.inner_text() == "generator 0.025 · discriminator 1.745 · 2,000 steps"
    page.mouse.move(0, 0)
    assert told.inner_text() == ""
    drawing.focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    assert told.inner_text().endswith("1,950 steps")


@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_page_never_scrolls_sideways(open_page: Any, viewport: dict[str, int]) -> None:
    page = open_page(viewport)
    for details in page.locator("details").all():
        details.evaluate("element => { element.open = true; }")
    assert hidden_beyond(page) == 0


def test_wide_table_scrolls_within_itself_with_the_models_in_sight(open_page: Any) -> None:
    page = open_page(PHONE)
    frame = page.locator("#scores .scroll").first
    assert frame.evaluate("element => element.scrollWidth > element.clientWidth + 50")
    frame.evaluate("element => { element.scrollLeft = 200; }")
    assert page.locator("table.ranked tbody th").first.bounding_box()["x"] >= 0


def test_dark_scheme_changes_the_colours(open_page: Any) -> None:
    light, dark = (open_page(color_scheme=scheme) for scheme in ("light", "dark"))

    def brightness(page: Any, what: str) -> int:
        style = page.evaluate(f"getComputedStyle(document.body).{what}")
        return sum(map(int, style.removeprefix("rgb(").removesuffix(")").split(",")))

    for page, paper_is_lighter in ((light, True), (dark, False)):
        paper, ink = brightness(page, "backgroundColor"), brightness(page, "color")
        assert (paper > ink) == paper_is_lighter and abs(paper - ink) > 500


def test_page_can_be_read_without_scripts(open_page: Any) -> None:
    page = open_page(java_script_enabled=False)
    assert page.locator("table.ranked").is_visible()
    assert not page.locator("#share").is_visible()
    growing = page.locator(".frames").first.locator("li")
    assert growing.count() == 4 and all(frame.is_visible() for frame in growing.all())
    assert page.locator("#samples button").count() == 0
    assert page.locator("#samples img").count() == 4
