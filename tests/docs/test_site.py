"""The site is built without a warning, reads nothing from elsewhere, and has no dead link."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.stem for path in DOCS.glob("*.md"))
# Attributes that make a browser fetch something when it opens a page; of links only some kinds do.
LOADED = {"src", "srcset", "data", "poster", "background"}
KINDS_OF_LINKS = {"stylesheet", "icon", "preload", "prefetch", "modulepreload", "manifest"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("site"),
    pytest.mark.skipif(
        any(importlib.util.find_spec(n) is None for n in ("sphinx", "furo", "myst_parser")),
        reason="Sphinx is not installed: pip install '.[docs]'",
    ),
]


class Page(HTMLParser):
    """What one page loads, links to and can be linked to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.formulas = 0
        self.text: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors.update(filter(None, (values.get("id"), values.get("name"))))
        self.formulas += tag == "math"
        self.loads += [value for name, value in values.items() if name in LOADED]
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "link" and KINDS_OF_LINKS & set(values.get("rel", "").split()):
            self.loads.append(values["href"])
        self.loads += re.findall(r"url\(([^)]+)\)", values.get("style", ""))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built by the README's command, but elsewhere; warnings are errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-d", folder / "trees"]
    built = subprocess.Popen(
        [*command, DOCS, folder / "html"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    out, _ = built.communicate(timeout=300)
    assert built.returncode == 0, out
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {path.stem: Page(path) for path in site.glob("*.html")}


def local(target: str) -> bool:
    parts = urlsplit(target)
    return not parts.scheme and not parts.netloc


def test_every_page_of_the_folder_is_in_the_site_and_in_the_list_beside_it(
    pages: dict[str, Page],
) -> None:
    assert set(PAGES) <= set(pages) and len(PAGES) > 15
    listed = {urlsplit(link).path.removesuffix(".html") for link in pages["index"].links}
    assert set(PAGES) - {"index"} <= listed
    for name in PAGES:
        beside = re.findall(r'toctree-l1.*?href="([\w-]*)(?:\.html)?#?"', pages[name].source)
        assert len(set(beside)) >= len(PAGES) - 1, name


def test_no_page_loads_anything_from_elsewhere(pages: dict[str, Page]) -> None:
    found = 0
    for page in pages.values():
        for target in page.loads:
            found += 1
            assert local(target) or target.startswith("data:"), (page.path.name, target)
            if local(target) and urlsplit(target).path:
                assert (page.path.parent / unquote(urlsplit(target).path)).is_file(), target
    assert found > 5 * len(PAGES)


def test_styles_load_nothing_from_elsewhere(site: Path) -> None:
    styles = list(site.rglob("*.css"))
    assert len(styles) >= 3
    for path in styles:
        text = path.read_text(encoding="utf-8")
        targets = re.findall(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)", text)
        for target in map("".join, targets):
            assert local(target) or target.startswith("data:"), (path.name, target)


def test_links_within_the_site_lead_to_pages_and_anchors(pages: dict[str, Page]) -> None:
    checked = 0
    for page in pages.values():
        for link in page.links:
            parts = urlsplit(link)
            if not local(link):
                assert parts.scheme in ("https", "mailto"), link
                continue
            there = page.path.parent / unquote(parts.path) if parts.path else page.path
            assert there.is_file(), (page.path.name, link)
            if parts.fragment and there.suffix == ".html":
                anchors = pages[there.stem].anchors
                assert unquote(parts.fragment) in anchors, (page.path.name, link)
                checked += 1
    assert checked > 100


def test_formulas_became_mathml(pages: dict[str, Page]) -> None:
    for name in ("families", "comparing"):
        text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
        inline = re.findall(r"(?<!\$)\$[^$\n]+\$(?!\$)", text)
        blocks = re.findall(r"^\$\$\n.*?\n\$\$$", text, re.M | re.S)
        assert pages[name].formulas == len(inline) + len(blocks) > 5, name
        assert not re.search(r"\\(frac|mathbb|log|text)\b", "".join(pages[name].text))


def test_tables_and_pictures_of_the_pages_arrive(pages: dict[str, Page]) -> None:
    for name in PAGES:
        text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
        tables = len(re.findall(r"^\| ?-{3,}|^\|-{3,}", text, re.M))
        assert pages[name].source.count("<table") == tables, name
        pictures = re.findall(r"^!\[(.+?)\]\((\S+)\)", text, re.M)
        for words, picture in pictures:
            assert f'alt="{words}"' in pages[name].source, picture
            assert (DOCS / picture).is_file()


def test_pages_cover_their_subjects(pages: dict[str, Page]) -> None:
    subjects = {
        "quickstart": ["Your own images", "genkit compare", "genkit sample", "near train"],
        "own-images": ["Art and game assets", "Virtual worlds", "Medical scans", "Never for"],
        "families": ["non-saturating", "equilibrium", "Posterior collapse", "chain rule"],
        "comparing": ["Inception Score", "What to report", "When a difference counts"],
        "architecture": ["Why one loop", "How data flows"],
        "commands": ["genkit compare", "genkit data prepare", "--seeds"],
        "options": ["--discriminator-rate", "binarisation"],
    }
    for name, words in subjects.items():
        text = " ".join("".join(pages[name].text).split())
        for word in words:
            assert word in text, (name, word)


def svg_texts(path: Path) -> Iterator[str]:
    for node in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text"):
        yield node.text or ""


def test_curves_are_an_svg_without_scripts_and_references() -> None:
    path = DOCS / "instability.svg"
    assert path.stat().st_size < 60_000 and (DOCS / "instability.png").stat().st_size < 300_000
    assert {"steady", "greedy", "strong"} <= set(svg_texts(path))
    text = path.read_text(encoding="utf-8")
    assert "<script" not in text and "href" not in text


@pytest.mark.browser
def test_browser_opens_every_page_and_searches_without_the_network(site: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = Path(os.environ.get("GENKIT_CHROMIUM", "/usr/bin/chromium"))
    if not chromium.exists():
        pytest.skip("chromium is not installed")
    asked: list[str] = []
    errors: list[str] = []
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=str(chromium), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        for name in PAGES:
            page.goto((site / f"{name}.html").as_uri())
            decoded = "[...document.images].every(i => i.complete && i.naturalWidth > 0)"
            assert page.evaluate(decoded), name
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= 390, (name, width)
        page.goto((site / "search.html").as_uri() + "?q=collapse")
        page.wait_for_selector("#search-results a[href*=families]")
        browser.close()
    assert not errors
    assert asked and all(url.startswith(("file:", "data:")) for url in asked)
