"""The model card of an exported model: README.md as model hubs read it. Light.

Text from outside stays text: names of classes, data and features are never Markdown or YAML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from genkit.errors import printable
from genkit.report.protocol_card import entries
from genkit.report.ranking import CALIBRATION, Ranking, footnotes
from genkit.report.tables import fields

MOST_CLASSES = 20  # whose names are shown
_MARKUP = re.compile(r"([\\`*_<>\[\]|~#&!$])")
_LINKS = re.compile(r"(?<=[a-z]):(?=//)|@|(?<=\bwww)\.", re.IGNORECASE)  # made links by hubs
Facts = Mapping[str, Any]


def code(text: object) -> str:
    """Text from outside as a code span, in which nothing is markup; fit for a table's cell."""
    shown = printable(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", shown)), default=0) + 1)
    pad = " " if shown[:1] in ("`", " ", "") or shown[-1:] in ("`", " ") else ""
    return f"{fence}{pad}{shown}{pad}{fence}".replace("|", "\\|")


def escape(text: object) -> str:
    """Text as it is, in a sentence or a cell: no markup, no HTML, no links."""
    shown = _MARKUP.sub(r"\\\1", printable(text))
    return _LINKS.sub(lambda sign: f"&#{ord(sign[0])};", shown)


def table(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Lines of a Markdown table of two columns, without a heading."""
    return ["| | |", "|---|---|", *(f"| {escape(title)} | {text} |" for title, text in rows)]


def model_card(
    config: Facts,
    summary: str,
    plugin: tuple[str, str],
    ranking: Ranking | None,
    features: str | None,
    network: Facts | None,
) -> str:
    """README.md of an exported model.

    Args:
        config: the exported config.json.
        summary: the trainer's own, in a line.
        plugin: distribution and version that brings the model; version "file" for a file.
        ranking: the model's scores and the calibration rows'; None if it was not evaluated.
        features: name of the features behind them.
        network: `onnx_network.Network.facts`, if there is one.
    """
    name, data = config["model"], config["data"]
    lines = [
        *_front_matter(config),
        f"# {code(name)}, trained on {code(data.get('name'))}",
        "",
        f"{escape(summary)} It draws {_size(config)} and was trained with genkit (`torch-genkit`).",
        "",
        "![64 samples, not chosen by hand](samples.png)",
        "",
        *table(list(_facts(config))),
        "",
        "## How to sample",
        "",
        *_usage(plugin),
        "",
        "## Scores",
        "",
        *_scores(ranking, features),
    ]
    if network:
        lines += ["", "## ONNX", "", *_onnx(network)]
    lines += ["", "## Options", "", *table([(k, code(v)) for k, v in config["options"].items()])]
    lines += ["", "## Limits", "", *(f"- {line}" for line in _limits(config, ranking))]
    return "\n".join(lines) + "\n"


def _front_matter(config: Facts) -> Iterator[str]:
    tags = ["genkit", "image-generation", config["model"]]
    yield "---"
    yield "library_name: torch-genkit"
    yield "pipeline_tag: unconditional-image-generation"
    yield f"tags: {json.dumps(tags)}"  # JSON is YAML, with every sign of a name quoted
    yield "# license: yours to choose; the rights in the training images matter, too"
    yield "---"
    yield ""


def _size(config: Facts) -> str:
    shape = config["image_shape"]
    colours = ("grey", "grey and alpha", "RGB", "RGBA")[shape["channels"] - 1]
    return f"{colours} images of {shape['height']} x {shape['width']} pixels"


def count(value: Any) -> str:
    """A whole number with commas; "unknown" for anything else."""
    return f"{value:,}" if isinstance(value, int) else "unknown"


def _facts(config: Facts) -> Iterator[tuple[str, str]]:
    data, run, training = config["data"], config["run"], config["training"]
    seconds, classes = training.get("seconds"), data.get("classes")
    yield "parameters", count(config.get("parameters"))
    images = f"{count(data.get('train_images'))} training and {count(data.get('test_images'))} test"
    yield "data", f"{code(data.get('name'))}: {images} images"
    yield "fingerprint of the data", code(data.get("fingerprint"))
    if isinstance(classes, list) and classes:
        more = f" and {len(classes) - MOST_CLASSES} more" if len(classes) > MOST_CLASSES else ""
        names = ", ".join(code(each) for each in classes[:MOST_CLASSES])
        yield "classes in the data", names + more
    yield "budget", f"{code(run.get('budget'))}, seed {code(run.get('seed'))}"
    time = f"{seconds:,.0f} s" if isinstance(seconds, int | float) else "unknown time"
    yield (
        "trained",
        f"{time} on {code(config.get('device'))}, {code(config.get('precision'))}: "
        f"{count(training.get('step'))} steps, {count(training.get('images'))} images",
    )
    yield "weights", escape(training["weights"])
    yield "versions", ", ".join(code(f"{k} {v}") for k, v in config["provenance"].items())


def _usage(plugin: tuple[str, str]) -> list[str]:
    distribution, version = plugin
    file = version == "file"
    others = f" {distribution}" if not file and distribution != "torch-genkit" else ""
    option = f" --plugin {distribution}" if file else ""
    note = (
        [f"The model itself is in {code(distribution)}, a file that is not here.", ""]
        if file
        else []
    )
    variable = f"GENKIT_PLUGINS={distribution} " if file else ""
    return [
        *note,
        "In this folder:",
        "",
        "```sh",
        f"pip install torch-genkit{others}",
        f"genkit sample . -n 64 --seed 0 -o grid.png{option}",
        "```",
        "",
        f"or in Python{f' ({code(variable.strip())} in the environment)' if file else ''}:",
        "",
        "```python",
        "import genkit",
        "",
        'run = genkit.load(".")',
        "images = run.sample(64, seed=0)  # uint8, (64, C, H, W)",
        "```",
    ]


def _scores(ranking: Ranking | None, features: str | None) -> list[str]:
    if ranking is None:
        return ["These weights have not been evaluated: nothing is known of how good samples are."]
    distances, others, costs = fields(ranking, features)
    shown = [*distances, *others, *(f for f in costs if f.heading.startswith(("near", "sample")))]
    names = " | ".join(escape(row["name"]) for row in ranking.rows)
    lines = [f"| | {names} |", "|---" * (len(ranking.rows) + 1) + "|"]
    for field in shown:
        heading = " ".join(field.heading.replace("-\n", "").split("\n"))
        lines.append(f"| {escape(heading)} | {' | '.join(map(escape, field.cells))} |")
    notes = [line for line in footnotes(ranking) if not line.startswith("Ranked by")]
    lines += ["", *(f"- {escape(line)}" for line in notes), "", "What stands behind them:", ""]
    card = next(row["card"] for row in ranking.rows if row["name"] not in CALIBRATION)
    return [*lines, *table([(title, code(text)) for title, text in entries(card)])]


def _onnx(network: Facts) -> Iterator[str]:
    def shapes(ends: Facts) -> str:
        return ", ".join(
            f"{code(name)}, ({escape(', '.join(map(str, shape)))})" for name, shape in ends.items()
        )

    if network["kind"] == "decoder":
        yield "`model.onnx` makes images in [-1, 1] of latents from a standard normal distribution:"
    else:
        yield (
            "`model.onnx` holds the network alone. What samples with it, for instance pixel after "
            "pixel, is a loop and not in the file: sample with genkit."
        )
    yield ""
    yield from table(
        [
            ("input", f"{shapes(network['inputs'])}, float32"),
            ("output", shapes(network["outputs"])),
            ("operators", f"opset {network['opset']}"),
            ("largest difference to PyTorch", f"{network['difference']:.1e} (onnxruntime, CPU)"),
        ]
    )


def _limits(config: Facts, ranking: Ranking | None) -> Iterator[str]:
    yield f"It draws {_size(config)} and no others; no label says what they are to show."
    yield "What its training images lack or overdo, its samples lack or overdo, too."
    own = [row for row in ranking.rows if row["name"] not in CALIBRATION] if ranking else []
    shares = own[0].get("memorisation") if own else None
    if shares and shares.get("flagged"):
        yield "Samples are closer to training than to unseen images: some may be copies."
    elif shares:
        yield "No sign of copied training images was found among the samples that were scored."
    else:
        yield "Whether samples are copies of training images was not measured."
    yield "Scores compare only with those of the same features, reference, data and samples."
    yield "Samples are no evidence of anything: not for a diagnosis, not for a measurement."
