"""The report page without a browser: what it says, what it holds, what it withstands."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import os
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from command_lines import CommandLines, error_of
from pages import CALIBRATION, CARD, row, write_comparison, write_run

from genkit.cli import main
from genkit.errors import GenkitError
from genkit.registry.catalogue import Registry, load_registry
from genkit.report.charts import Series, chart, log_ticks, number, thin, ticks
from genkit.report.headline import Stretch, draw_timeline, explain_columns, make_headline
from genkit.report.page import refresh_page, render, write_page
from genkit.report.ranking import rank, score_columns
from genkit.report.rows import ComparisonRecord, ScoreRow, Span
from genkit.report.tables import Field, estimate
from genkit.report.thumbnails import double_small, embed
from genkit.specs import Column

VOID = {"meta", "link", "img", "input", "br"}
HOSTILE = "<script>alert(1)</script>"
NAMESPACE = "http://www.w3.org/2000/svg"
THREE = [row("pixelcnn", 0.30), row("vae", 0.59, 0.02), row("dcgan", 0.72, 0.017)]


class Page(HTMLParser):
    """A page as a tree of nothing but what these tests ask for; it must be well formed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: dict[str, list[str]] = {}  # texts of elements, by tag
        self.tables: list[list[list[str]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert len(dict(attributes)) == len(attributes), f"{tag}: an attribute is there twice"
        self.tags.append((tag, {key: value or "" for key, value in attributes}))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)
            self.words.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attributes}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.words[tag][-1] += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models with all pictures there are."""
    folder = tmp_path_factory.mktemp("pages") / "demo"
    return write_comparison(folder, [*THREE, *CALIBRATION], more_pictures=True)


@pytest.fixture(scope="module")
def text(folder: Path, registry: Registry) -> str:
    return render([folder], registry)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


# ---- one file


def test_page_refers_to_nothing_outside_itself(text: str, page: Page) -> None:
    assert set(re.findall(r"https?://[^\s\"'<]*", text)) == {NAMESPACE}
    for tag, attributes in page.tags:
        for key in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
            if key in attributes:
                assert attributes[key].startswith(("data:", "#")), (tag, key)
    assert not {"iframe", "object", "embed", "form", "base"} & {tag for tag, _ in page.tags}
    assert "url(" not in text and "@import" not in text


def test_policy_allows_the_pages_own_script_and_style_by_their_hashes_alone(page: Page) -> None:
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (content,) = page.words[tag]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert len(content) > 500 and rules[rule] == f"'sha256-{digest}'"
    inline = {key for _, attributes in page.tags for key in attributes}
    assert not {key for key in inline if key == "style" or key.startswith("on")}


def test_policy_stands_before_all_that_it_governs(page: Page) -> None:
    names = [tag for tag, _ in page.tags]
    policy = next(i for i, (_, found) in enumerate(page.tags) if "http-equiv" in found)
    assert policy < names.index("style") < names.index("script")


def test_what_comes_from_outside_is_text(tmp_path: Path, registry: Registry) -> None:
    quoted = "\"'><img src=x onerror=alert(2)>"
    rows = [row(HOSTILE, 0.3), row(quoted, 0.6), row("{{ 7 * 7 }}", None, error="</style><b>")]
    write_comparison(tmp_path, rows, warning="</script><script>alert(3)</script>")
    for path in tmp_path.glob("run*/config.json"):
        config = json.loads(path.read_text())
        config["options"]["<i>"] = "<iframe src='https://example.org'>"
        path.write_text(json.dumps(config))
    page = Page(render([tmp_path], registry))
    assert len(page.all("script")) == 1 and not {"iframe", "i", "b"} & {t for t, _ in page.tags}
    pictures = [image for image in page.all("img") if "hidden" not in image]
    assert pictures and all(image["src"].startswith("data:image/") for image in pictures)
    headline = page.words["h1"][0]
    assert HOSTILE in headline and quoted in headline
    assert "{{ 7 * 7 }}" in [line[1] for line in page.tables[0]]
    assert "step 2,000: </script><script>alert(3)</script>" in page.words["li"]


def test_signs_that_hide_or_turn_text_are_shown_as_escapes(
    tmp_path: Path, registry: Registry
) -> None:
    text = render([write_comparison(tmp_path, [row("a\u202eb\x1b[31m", 0.3)])], registry)
    assert "a\\u202eb\\x1b[31m" in text and "\u202e" not in text and "\x1b" not in text


# ---- what it says


def test_tables_hold_the_numbers_of_the_comparison(folder: Path, page: Page) -> None:
    rows = json.loads((folder / "compare.json").read_text())["rows"]
    main_table, quality_table = page.tables[:2]
    assert [line[1] for line in main_table[1:]] == [one["name"] for one in rows]
    assert [line[0] for line in main_table[1:]] == ["1", "2", "3", "", "", ""]
    for table, name, heading, scale, decimals in (
        (main_table, "kid", "KID x1000\n(digits)", 1000, 1),
        (main_table, "fid", "FID\n(digits)", 1, 2),
        (quality_table, "precision", "precision", 1, 2),
        (quality_table, "is", "IS\n(digits)", 1, 2),
    ):
        place = table[0].index(heading)
        for line, one in zip(table[1:], rows, strict=True):
            value, deviation = one["scores"][name], one["deviations"][name]
            assert line[place] == estimate(value * scale, 2 * deviation * scale, decimals)


def test_headline_and_sections_stand_in_order(page: Page) -> None:
    assert page.words["h1"] == [
        "These weights of pixelcnn made the best samples, with KID 49% lower than vae"
    ]
    assert [s["id"] for s in page.all("section")] == [
        *("scores", "samples", "growth", "curves", "quality", "pictures", "interpolation"),
        *("reconstructions", "completion", "classes", "neighbours", "warnings", "protocol"),
        "repeat",
    ]
    assert "genkit compare pixelcnn vae dcgan real copy noise" in page.words["code"]
    assert "genkit train dcgan --run-dir 'a folder'" in page.words["code"]


def headline(*rows: dict[str, Any], registry: Registry, by: str | None = None) -> tuple[str, str]:
    return make_headline(rank(list(map(ScoreRow.from_json, rows)), score_columns(registry), by))


def test_headline_names_a_winner_only_beyond_the_error_bars(registry: Registry) -> None:
    winner, why = headline(row("a", 0.3), row("b", 0.6), *CALIBRATION, registry=registry)
    assert winner == "These weights of a made the best samples, with KID 50% lower than b"
    assert "300.0 ±20.0 against 600.0 ±20.0: more than other samples of the same weights" in why
    assert "Unseen real images score 14.0 ±40.0, noise 8.13k ±160.0" in why
    nobody, why = headline(row("a", 0.3, 0.1), row("b", 0.4, 0.1), row("c", 3.0), registry=registry)
    assert nobody == "a and b cannot be told apart" and "300.0 ±200.0 (a), 400.0" in why
    below_zero, _ = headline(row("a", -0.001, 1e-5), row("b", 0.6), registry=registry)
    assert below_zero == "These weights of a made the best samples, ahead of b"


def test_headline_says_why_there_is_no_winner(registry: Registry) -> None:
    other = row("b", 0.6, card={**CARD, "samples": 900})
    assert headline(row("a", 0.3), other, registry=registry)[0] == "These models cannot be ranked"
    failed = [row(name, None, error="no memory") for name in "ab"]
    assert headline(*failed, registry=registry)[0] == "All models failed"
    assert headline(row("a", 0.3), registry=registry)[0] == "a: KID x1000 300.0 ±20.0"
    words, how = headline(row("a", None, run="runs/a"), registry=registry)
    assert words == "a: not scored yet" and how == "To score: genkit evaluate runs/a"
    assert headline(*CALIBRATION, registry=registry)[0] == "No model here"


def test_scores_that_cannot_be_compared_are_not_drawn_side_by_side(
    tmp_path: Path, registry: Registry
) -> None:
    other = row("vae", 0.6, card={**CARD, "data_fingerprint": "bb"})
    page = Page(render([write_comparison(tmp_path, [row("dcgan", 0.3), other])], registry))
    assert page.words["h1"] == ["These models cannot be ranked"]
    assert "with error bars" not in page.tables[0][0]
    assert "quality" not in {section["id"] for section in page.all("section")}
    assert any(line.startswith("fingerprint of the data: aa (dcgan)") for line in page.words["li"])


def test_every_column_of_the_tables_is_explained(page: Page) -> None:
    headings = {" ".join(h.split()) for table in page.tables[:3] for h in table[0]}
    headings -= {"", "rank", "model", "with error bars"}
    explained = {t.strip() for t in page.words["dt"]}
    assert headings and {h.removesuffix(" (digits)") for h in headings} <= {
        e.removesuffix(" (digits)") for e in explained
    }
    assert any("Lower is better." in words for words in page.words["dd"])


def test_a_column_is_explained_by_its_help_or_by_the_summary_of_its_metric(
    registry: Registry,
) -> None:
    for column in score_columns(registry):
        assert column.help.endswith((".", "?")), (
            column.name
        )  # plugins of genkit explain all they show
    helped = Column(name="fid", title="FID", better="lower", help="How far apart they are.")
    bare = Column(name="kid", title="KID\nx1000", better="lower")
    explained = explain_columns(
        [Field("FID", [], helped), Field("KID\nx1000", [], bare), Field("NLL\nnats", [])], registry
    )
    assert explained[0] == ("FID", "How far apart they are. Lower is better.")
    summary = registry.metrics["kid"].spec.summary
    assert explained[1] == ("KID x1000", f"{summary}. Lower is better.")
    assert explained[2][0] == "NLL nats" and "log-likelihood" in explained[2][1]


# ---- for everybody


def test_page_can_be_read_by_a_screen_reader(page: Page) -> None:
    assert page.all("html")[0]["lang"] == "en" and page.words["title"][0]
    assert all(len(image["alt"]) > 10 for image in page.all("img") if "src" in image)
    assert all(header["scope"] in ("col", "row") for header in page.all("th"))
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))
    for _, found in page.tags:
        for key in ("aria-labelledby", "for", "aria-describedby"):
            assert set(found.get(key, "").split()) <= set(ids)
        if found.get("href", "").startswith("#"):
            assert found["href"][1:] in ids
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    drawings = [svg for svg in page.all("svg") if svg.get("aria-hidden") != "true"]
    assert len(drawings) > 6 and all(svg["role"] == "img" for svg in drawings)
    assert len(page.words["desc"]) == len(drawings) and all(page.words["desc"])


def test_pictures_are_the_runs_own_without_loss(folder: Path, page: Page) -> None:
    from io import BytesIO

    from PIL import Image, ImageChops

    newest = max((folder / "run0" / "samples").glob("step-*.png"))
    shown = next(i for i in page.all("img") if i.get("alt", "").startswith("A grid of samples"))
    data = base64.b64decode(shown["src"].partition(",")[2])
    with Image.open(BytesIO(data)) as again, Image.open(newest) as original:
        assert again.size == original.size == (242, 242)
        assert ImageChops.difference(again.convert("L"), original).getbbox() is None
    assert (shown["width"], shown["height"]) == ("242", "242")


def test_a_models_own_pictures_are_shown_once_by_their_names(folder: Path, page: Page) -> None:
    from io import BytesIO

    from PIL import Image, ImageChops

    shown = [i for i in page.all("img") if i.get("alt", "").startswith("attention maps of")]
    assert [image["alt"].rpartition(" ")[2] for image in shown] == ["pixelcnn", "vae", "dcgan"]
    newest = max((folder / "run0" / "samples").glob("attention-maps-*.png"))
    data = base64.b64decode(shown[0]["src"].partition(",")[2])
    with Image.open(BytesIO(data)) as again, Image.open(newest) as original:
        assert ImageChops.difference(again.convert("L"), original).getbbox() is None


def test_scores_of_one_run_by_its_sampler_are_drawn_over_the_options_values(
    tmp_path: Path, registry: Registry
) -> None:
    rows = [row(f"flow@steps={steps}", 4 / steps) for steps in (8, 1, 2)]
    rows += [row(f"flow@solver=euler,steps={steps}", 5 / steps) for steps in (2, 4)]
    rows += [row("flow@solver=midpoint", 0.7), row("vae", 0.9)]
    page = Page(render([write_comparison(tmp_path, rows)], registry))
    assert "Quality by sampler" in page.words["h2"]
    assert sum(title.endswith("over steps") for title in page.words["title"]) > 0
    (words,) = [text for text in page.words["desc"] if "flow: " in text]
    assert "flow: 4,000 at 1, 500 at 8 steps" in words
    assert "flow@solver=euler: 2,500 at 2, 1,250 at 4 steps" in words
    assert "midpoint" not in words and "vae" not in words


# ---- whatever is there


@pytest.mark.slow
def test_three_models_of_noisy_colour_images_stay_below_three_megabytes_and_take_seconds(
    tmp_path: Path, registry: Registry
) -> None:
    rows = [*THREE, *CALIBRATION]
    write_comparison(tmp_path, rows, size=64, channels=3, lines=3000, grids=15, more_pictures=True)
    path = tmp_path / "report.html"
    start = time.process_time()
    write_page([tmp_path], path, registry)
    assert time.process_time() - start < 8  # 2 on a quiet machine
    assert path.stat().st_size < 3_000_000
    page = Page(path.read_text(encoding="utf-8"))
    assert 3 * 12 == sum("data-share" in item for item in page.all("li"))


def test_models_show_equally_many_samples_though_some_compress_better(
    tmp_path: Path, registry: Registry
) -> None:
    from PIL import Image

    write_comparison(tmp_path, THREE, size=64, channels=3)
    for path in (tmp_path / "run1" / "samples").iterdir():
        Image.new("RGB", (530, 530)).save(path)
    page = Page(render([tmp_path], registry))
    samples = [i for i in page.all("img") if i["alt"].startswith("A grid of")]
    growing = [i for i in page.all("img") if i["alt"].startswith("Samples of")]
    assert (len(samples), len(growing)) == (4, 12)
    for group in (samples, growing):
        assert len({(image["width"], image["height"]) for image in group}) == 1


def test_runs_that_were_never_scored_give_a_page(tmp_path: Path, registry: Registry) -> None:
    one = write_run(tmp_path / "one", "vae")
    page = Page(render([one], registry))
    assert page.words["h1"] == ["vae: not scored yet"]
    assert {"samples", "growth", "curves", "quality"} <= {s["id"] for s in page.all("section")}
    two = write_run(tmp_path / "two", "vae")
    again = Page(render([one, two], registry))
    assert [line[1] for line in again.tables[0][1:]] == ["vae", str(two)]


def test_page_of_what_is_damaged_or_missing_says_what_is_wrong(
    tmp_path: Path, registry: Registry
) -> None:
    write_comparison(tmp_path, [*THREE, row("gone", None, error="loss is nan")])
    broken = tmp_path / "run1"
    (broken / "summary.json").write_text("{")
    for path in (broken / "samples").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    log = broken / "metrics.jsonl"
    log.write_text(
        '{"step": 5, "a/loss": null}\n{"step": 9, "a/loss": 1.5}\n{"step": 10, "kid": null}\n'
        '{"step": 11, "b/loss": true, "c/loss": "x", "d/loss": 1e200}\n{"step": "x"}\n[]\n{"st'
    )
    for path in sorted((tmp_path / "run2").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    page = Page(render([tmp_path], registry))
    lines = page.words["li"]
    assert any("summary.json cannot be read" in line for line in lines)
    assert sum("cannot be shown" in line for line in lines) >= 4
    assert "failed: loss is nan" in lines
    assert [line[1] for line in page.tables[0][1:]] == ["pixelcnn", "vae", "dcgan", "gone"]


def test_damaged_number_of_an_unscored_run_is_named(tmp_path: Path, registry: Registry) -> None:
    run = write_run(tmp_path / "run")
    (run / "summary.json").write_text('{"step": 3, "seconds": "soon"}')
    page = Page(render([run], registry))
    assert f"{run}: 'seconds' cannot be 'soon': Input should be a valid number" in page.words["li"]
    assert page.words["h1"][0] == "dcgan: not scored yet"


@pytest.mark.parametrize("config", ["{}", "[]", "nonsense", '{"run": 3, "image_shape": {}}'])
def test_page_needs_no_whole_config(tmp_path: Path, registry: Registry, config: str) -> None:
    run = write_run(tmp_path / "run")
    (run / "config.json").write_text(config)
    assert "not scored yet" in Page(render([run], registry)).words["h1"][0]


def test_scores_beyond_all_measure_give_a_page(tmp_path: Path, registry: Registry) -> None:
    rows = [row("vae", 1e306, 1e305), row("dcgan", -1e306), row("a", 0.0, 0.0), *CALIBRATION]
    for given in rows[:2]:
        given["seconds"] = 1e17
    page = Page(render([write_comparison(tmp_path, rows)], registry))
    assert len(page.tables[0]) == 7 and "quality" in {s["id"] for s in page.all("section")}


def test_run_without_any_picture_or_line_gives_a_page(tmp_path: Path, registry: Registry) -> None:
    page = Page(render([write_run(tmp_path / "run", lines=0, grids=0)], registry))
    assert not {"samples", "growth", "curves"} & {s["id"] for s in page.all("section")}


@pytest.mark.slow
def test_twenty_models_give_a_page_of_bounded_size(tmp_path: Path, registry: Registry) -> None:
    rows = [row(f"model{i}", 0.1 + 0.1 * i, 0.001) for i in range(20)]
    text = render([write_comparison(tmp_path, rows, channels=3, grids=6)], registry)
    page = Page(text)
    assert len(text) < 8_000_000 and len(page.tables[0]) == 21
    growing = [f for f in page.all("figure") if f.get("class") == "growing"]
    assert len(growing) == 20


def test_comparison_that_was_moved_finds_its_runs(tmp_path: Path, registry: Registry) -> None:
    write_comparison(tmp_path / "here", THREE)
    (tmp_path / "here").rename(tmp_path / "there")
    page = Page(render([tmp_path / "there"], registry))
    assert "samples" in {section["id"] for section in page.all("section")}


def test_ranking_by_another_score_decides_table_and_headline(
    tmp_path: Path, registry: Registry
) -> None:
    swapped = row("vae", 0.6)
    swapped["scores"]["fid"] = 1.0
    write_comparison(tmp_path, [row("dcgan", 0.3), swapped])
    page = Page(render([tmp_path], registry, rank_by="fid"))
    assert page.words["h1"][0].startswith("These weights of vae made the best samples, with FID")
    assert page.tables[0][0][2] == "FID\n(digits)" and page.tables[0][1][:2] == ["1", "vae"]


# ---- curves


def test_thinned_line_keeps_its_ends_its_extremes_and_its_gaps() -> None:
    points: list[tuple[float, float | None]] = [(float(i), math.sin(i)) for i in range(100_000)]
    points[31_415], points[92_653] = (31_415.0, 9.0), (92_653.0, -9.0)
    points[50_000] = (50_000.0, None)
    kept = thin(points)
    assert 150 < len(kept) <= 300 and kept == sorted(kept, key=lambda point: point[0])
    assert {points[0], points[-1], points[31_415], points[92_653], points[50_000]} <= set(kept)
    assert thin(points[:300]) == points[:300]


@pytest.mark.parametrize("low", [-3.7, 0.0, 0.021, 980.0])
@pytest.mark.parametrize("extent", [1e-6, 0.3, 7.0, 12_345.0])
def test_ticks_are_round_few_and_inside(low: float, extent: float) -> None:
    found = ticks(low, low + extent)
    assert 2 <= len(found) <= 6
    assert all(low - 1e-9 <= tick <= low + extent + 1e-9 for tick in found)
    steps = {f"{b - a:.1e}"[0] for a, b in itertools.pairwise(found)}
    assert len(steps) == 1 and steps <= {"1", "2", "5"}


def test_logarithmic_ticks_are_powers_of_ten_over_many_decades() -> None:
    assert log_ticks(0.5, 2e4) == pytest.approx([1, 10, 100, 1000, 10_000])
    assert log_ticks(3, 60) == pytest.approx([5, 10, 20, 50])


def test_line_of_a_chart_runs_from_edge_to_edge_and_breaks_at_gaps() -> None:
    found = chart("loss", [Series("a", [(0, 2.0), (5, None), (10, 4.0)])], "steps")
    assert found is not None
    (line,) = found.lines
    assert line.path.count("M") == 2 and (line.xs, line.ys) == ("0 10", "2 4")
    (left, low), (right, high) = (
        map(float, point.split(",")) for point in re.findall(r"[\d.]+,[\d.]+", line.path)
    )
    assert (left, right) == (found.left, found.width - 12)
    assert found.top < high < low < found.height - found.bottom
    assert found.description == "a: 2 at 0, 4 at 10 steps, between 2 and 4"
    assert chart("loss", [Series("a", [(0, None)])], "steps") is None


def test_logarithmic_chart_needs_positive_values() -> None:
    wide = chart("kid", [Series("a", [(0, 0.1), (1, 9.0)])], "s", log=True)
    negative = chart("kid", [Series("a", [(0, -0.1), (1, 9.0)])], "s", log=True)
    assert wide and wide.logarithmic and negative and not negative.logarithmic


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0"), (1234.5, "1,234"), (0.12345, "0.1235"), (2.5e-7, "2.5e-7"), (-3, "\u22123")],
)
def test_numbers_of_curves_are_short(value: float, words: str) -> None:
    assert number(value) == words


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_picture_is_an_os_error_and_blocks_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "text.png").write_text("no picture")
    for name in ("pipe.png", "text.png", "nowhere.png"):
        with pytest.raises(OSError):
            embed(tmp_path / name)


@pytest.mark.parametrize(("width", "expected"), [(599, 1198), (600, 600), (2, 4)])
def test_small_pictures_are_shown_at_twice_their_size(width: int, expected: int) -> None:
    from PIL import Image

    image = Image.new("RGB", (width, 1))
    image.putpixel((1, 0), (9, 8, 7))
    shown = double_small(image)
    assert shown.width == expected
    scale = expected // width
    assert [x for x in range(expected) if shown.getpixel((x, 0)) == (9, 8, 7)] == list(
        range(scale, 2 * scale)
    )


def test_large_grid_loses_images_and_stays_a_grid(tmp_path: Path) -> None:
    from pages import grid

    grid(tmp_path / "grid.png", size=64, channels=3)
    found = embed(tmp_path / "grid.png", (64, 64), square=True, most_bytes=200_000)
    assert found.columns == found.rows and 1 < found.columns < 8
    assert found.width == found.columns * 66 + 2 and found.size < 270_000
    assert found.across <= 280 and found.across == found.down
    strange = embed(tmp_path / "grid.png", (50, 50), most_bytes=200_000)
    assert strange.columns == 0 and strange.width == 530


# ---- commands


def test_report_command_writes_the_page_and_says_where(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "mine.html"
    assert main(["report", str(folder), "-o", str(target)]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == str(target)
    assert "Ranked by KID" in captured.out and target.stat().st_size > 50_000
    assert main(["report", str(folder), "--json", "-"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 6
    assert sorted(tmp_path.iterdir()) == [target]


def test_report_of_one_source_lies_in_it_and_of_several_where_one_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", "vae")
    assert main(["report", str(one)]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{one / 'report.html'}\n" and (one / "report.html").is_file()
    assert captured.err == f"{one} has not been scored; to do so: genkit evaluate {one}\n"
    assert main(["report", str(one), str(two)]) == 0
    assert capsys.readouterr().out == "report.html\n" and (tmp_path / "report.html").is_file()


@pytest.mark.slow
def test_training_and_scoring_leave_a_page_in_the_run(
    command_lines: CommandLines, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = f"train vae --preset quick --budget 8steps --grids 2 --run-dir {run} --progress none"
    (trained,) = command_lines(words)
    assert trained.code == 0 and trained.out == f"{run}\n", trained.err
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    assert page.words["h1"] == ["vae: not scored yet"]
    assert {"samples", "growth", "interpolation"} <= {s["id"] for s in page.all("section")}
    words = f"evaluate {run} --features none -n 16 --alone --threads 1 --draws 2"
    (evaluated,) = command_lines(f"{words} --likelihood-images 10")
    assert evaluated.code == 0, evaluated.err
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    assert page.words["h1"] == ["vae: likelihoods, no samples scored"]


def test_output_that_is_no_page_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "compare.json"
    precious.write_text("{}")
    assert main(["report", str(folder), "-o", str(precious)]) == 2
    assert "give one that ends in .html" in error_of(capsys.readouterr())
    assert precious.read_text() == "{}"


def test_page_that_cannot_be_written_is_one_line(
    tmp_path: Path, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evaluation.json").write_text("{}")
    refresh_page(tmp_path, registry)
    error = capsys.readouterr().err
    assert error.startswith("Warning: no report.html: ") and error.count("\n") == 1
    refresh_page(write_run(tmp_path / "run"), None)  # type: ignore[arg-type]  # a fault in genkit
    assert capsys.readouterr().err.startswith("Warning: no report.html: ")


def test_page_of_a_folder_without_a_run_is_refused(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(GenkitError, match="neither a run nor a folder of a comparison"):
        render([tmp_path], registry)


def test_a_timeline_has_a_bar_for_each_process_in_a_row_for_each_model() -> None:
    spans = [("vae", "training", 0, 20), ("real", "scoring", 5, 10), ("vae", "scoring", 20, 40)]
    spans.append(("vae", "training", 30, 40))
    record = ComparisonRecord(
        rows=(ScoreRow(name="vae"),),
        timeline=tuple(Span(what=w, part=p, start=s, end=e) for w, p, s, e in spans),
    )
    found = draw_timeline(record)
    assert found and found.parts == ["training", "scoring"]
    first, second, third = (Stretch(0, 0, 500, False, ANY), Stretch(1, 500, 500, False, ANY), ANY)
    assert found.rows == [
        ("vae", [first, second, third]),
        ("real", [Stretch(1, 125, 125, False, "real: scoring, 5.0 to 10.0 s")]),
    ]
    assert found.rows[0][1][2].aside
    assert found.ticks[0] == (0, "0 s") and found.ticks[-1] == (1000, "40 s")
    assert draw_timeline(record.model_copy(update={"timeline": ()})) is None
