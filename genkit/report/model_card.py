"""The model card of an exported model: README.md as model hubs read it. Light.

The text is in the template model_card.md. Whatever a value holds is shown as text: names of
classes, data and features never become Markdown, HTML or YAML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genkit.errors import printable
from genkit.report.footnotes import footnotes
from genkit.report.ranking import Ranking
from genkit.report.tables import fields

COLOURS = ("grey", "grey and alpha", "RGB", "RGBA")  # by channels
MOST_CLASSES = 20  # whose names are shown
_MARKUP = re.compile(r"([\\`*_<>\[\]|~#&!$])")
_LINKS = re.compile(r"(?<=[a-z]):(?=//)|@|(?<=\bwww)\.", re.IGNORECASE)  # hubs make them links
Facts = Mapping[str, Any]


class Markdown(str):
    """Text that is Markdown already: the template shows it as it is."""


def code(text: object) -> Markdown:
    """Text from outside as a code span, in which nothing is markup; fit for a table's cell."""
    shown = printable(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", shown)), default=0) + 1)
    pad = " " if shown[:1] in ("`", " ", "") or shown[-1:] in ("`", " ") else ""
    return Markdown(f"{fence}{pad}{shown}{pad}{fence}".replace("|", "\\|"))


def escape(text: object) -> str:
    """Text as it is, in a sentence or a cell: no markup, no HTML, no links."""
    if isinstance(text, Markdown):
        return text
    shown = _MARKUP.sub(r"\\\1", printable(text))
    return _LINKS.sub(lambda sign: f"&#{ord(sign[0])};", shown)


def count(value: Any) -> str:
    """A whole number with commas; "unknown" for anything else."""
    return f"{value:,}" if isinstance(value, int) else "unknown"


def model_card(
    config: Facts,
    summary: str,
    plugin: tuple[str, str],
    ranking: Ranking | None,
    features: str | None,
    network: Facts | None,
    *,
    follows_labels: bool = False,
) -> str:
    """README.md of an exported model.

    Args:
        config: the exported config.json.
        summary: the trainer's own, in a line.
        plugin: distribution and version that brings the model; version "file" for a file.
        ranking: the model's scores and the calibration rows'; None if it was not evaluated.
        features: name of the features behind them.
        network: `genkit.runs.onnx.Network.facts`, if there is one.
        follows_labels: the model is class-conditional.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        finalize=escape,  # of every value that the template shows
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": code, "count": count}
    shape, training, classes = (
        config["image_shape"],
        config["training"],
        config["data"].get("classes"),
    )
    kind = "class-conditional-image-generation" if follows_labels else "image-generation"
    seconds, (distribution, version) = training.get("seconds"), plugin
    file = distribution if version == "file" else None
    own = ranking.models if ranking else []
    return environment.get_template("model_card.md").render(
        config=config,
        data=config["data"],
        training=training,
        tags=Markdown(json.dumps(["genkit", kind, config["model"]])),  # JSON is YAML
        follows_labels=follows_labels,
        summary=summary,
        size=f"{COLOURS[shape['channels'] - 1]} images of "
        f"{shape['height']} x {shape['width']} pixels",
        classes=classes if isinstance(classes, list) else [],
        most_classes=MOST_CLASSES,
        seconds=f"{seconds:,.0f} s" if isinstance(seconds, int | float) else "unknown time",
        file=file,
        package="" if file or distribution == "torch-genkit" else Markdown(f" {distribution}"),
        option=Markdown(f" --plugin {file}") if file else "",
        scores=_scores(ranking, features) if ranking else None,
        copies=own[0].memorisation if own else None,
        network=network,
    )


def _scores(ranking: Ranking, features: str | None) -> Facts:
    """What the section on scores shows, from the card of the model's own row."""
    distances, others, costs = fields(ranking, features)
    card = next(row.card for row in ranking.models if row.card)
    return {
        "names": [row.name for row in ranking.rows],
        "fields": [
            *(*distances, *others),
            *(field for field in costs if field.heading.startswith(("near", "sample"))),
        ],
        "notes": [line for line in footnotes(ranking) if not line.startswith("Ranked by")],
        "card": card.lines(),
    }
