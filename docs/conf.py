"""The site: `sphinx-build -W docs build/site` makes one that works offline, from files.

Nothing is fetched when a page is read: formulas become MathML here, not by a script of MathJax,
which would be loaded from another site. The pages are those of this folder, in the order of the
tables in index.md.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

project = "genkit"
html_title = "genkit"
author = "the genkit authors"
copyright = author
extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
highlight_language = "none"
exclude_patterns = ["_build"]
html_theme = "furo"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_search_summary = False  # it would fetch pages, which browsers refuse to do from files
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": []}
html_math_renderer = "mathml"

README = "](../README.md)"  # which is not a page of the site; links lead to the quickstart
REPOSITORY = re.compile(r"\[([^]]*)\]\(\.\./[^)]+\)")  # files that are only in a checkout


def order_pages(app: Sphinx, page: str, source: list[str]) -> None:
    """Give index.md a hidden table of contents for each of its headings, of the pages in the
    table below it; in other pages, remove the links of files outside this folder."""
    if page != "index":
        source[0] = REPOSITORY.sub(r"\1", source[0].replace(README, "](quickstart.md)"))
        return
    for section in re.split(r"^## ", source[0], flags=re.M)[1:]:
        title = section.partition("\n")[0]
        files = re.findall(r"^\| \[.+?\]\((\w[\w-]*)\.md\)", section, re.M)
        lines = ["```{toctree}", ":hidden:", f":caption: {title}", "", *files, "```"]
        source[0] += "\n" + "\n".join(lines) + "\n"


def formula(node: nodes.Node, display: str) -> str:
    """A formula as MathML, with the space behind "log" that TeX puts before a letter or number."""
    found = convert(node.astext(), display=display)
    return re.sub(
        r"<mi>log</mi>(?=<(?:mi|mn|msub|msup)\b)", r'\g<0><mspace width="0.17em"/>', found
    )


def visit_inline(translator: Any, node: nodes.Node) -> None:
    translator.body.append(formula(node, "inline"))
    raise nodes.SkipNode


def visit_block(translator: Any, node: nodes.Node) -> None:
    translator.body.append(f'<div class="math">{formula(node, "block")}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", order_pages)
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
