"""A model card as readable Markdown."""

import re
from typing import Any

from tnet_cli.modelfile.card import ModelCard


def card_as_markdown(card: ModelCard) -> str:
    """Write a card as the Markdown page that stands beside the model file."""
    network = card.network
    scale = (
        " → ".join(f"{mpp:g}" for mpp in network.mpp)
        + " µm per pixel, coarsest first"
        + "; small slides begin at the first that they fill" * network.starts_where_filled
        if network.mpp
        else f"whole images, resized to {network.image_px} px a side"
    )
    lines = [
        f"# {card.name}",
        "",
        card.summary,
        "",
        f"**Intended use.** {card.intended_use}",
        "",
        "## Limits",
        "",
        *[f"- {limit}" for limit in card.limits],
        "",
        "## What it is",
        "",
        "| | |",
        "|---|---|",
        f"| classes | {', '.join(network.class_names)} |",
        f"| backbone | {network.backbone}, patches of {network.base_px} px |",
        f"| scales | {scale} |",
        f"| attention grid | {network.grid} x {network.grid}, {network.choice} choice |",
        *(["| verdict | by the features of the closest views alone |"] if network.verdict_from == "closest" else []),
        f"| default locations | {', '.join(str(k) for k in network.locations)} |",
        f"| temperature | {card.temperature:g} |",
        *_verdict_lines(card),
        *_bias_lines(card),
        *_domain_lines(card),
        f"| licence | {card.licence} |",
        f"| written | {card.created.isoformat()}, tnet {card.package_version} |",
        "",
        "## Training data",
        "",
        *[f"- {source.name} ({source.licence}). {source.description}".rstrip() for source in card.training_data],
        "",
        "## Metrics",
        "",
        *_metric_lines(card.metrics),
        *_tile_lines(card),
        "",
    ]
    return "\n".join(lines)


def _verdict_lines(card: ModelCard) -> list[str]:
    verdict = card.verdict
    if verdict is None:
        return []
    teacher = verdict.teacher
    patch = f"{teacher.patch_px} px at {teacher.spacing_um_px:g} µm per pixel"
    rule = f"{verdict.rule_words} of {' + '.join(verdict.targets)}, called by the teacher from {verdict.call_at:g}"
    return [
        f"| teacher | {teacher.name}, {teacher.architecture}, patches of {patch}, SHA-256 {teacher.digest[:12]} |",
        f"| licence of the teacher | {teacher.licence}{'; ' + teacher.attribution if teacher.attribution else ''} |",
        f"| verdict | {rule} |",
        f"| drawn at random | {verdict.sample} finest cells |",
    ]


def is_card_page(text: str) -> bool:
    """Whether a text is what ``card_as_markdown`` gives, of this version of tnet or an earlier one."""
    headings = {f"## {heading}" for heading in ("Limits", "What it is", "Training data", "Metrics")}
    is_signed = re.search(r"^\| written \| \d{4}-\d\d-\d\d, tnet [^|]+ \|$", text, re.MULTILINE) is not None
    return is_signed and headings <= set(text.splitlines())


def _bias_lines(card: ModelCard) -> list[str]:
    if not card.bias:
        return []
    each = ", ".join(f"{name} {bias:+.3g}" for name, bias in zip(card.network.class_names, card.bias, strict=True))
    return [f"| bias of the logits | {each} |"]


def _domain_lines(card: ModelCard) -> list[str]:
    lines = []
    if card.domain is not None:
        limits = ", ".join(f"{limit:.3g}" for limit in card.domain.limits)
        lines.append(
            f"| no answer beyond | features further away than {limits}, by scale ({card.domain.slides} slides) |"
        )
    if card.least_sharpness is not None:
        lines.append(f"| no answer below | a sharpness of {card.least_sharpness:.3g} |")
    return lines


def _tile_lines(card: ModelCard) -> list[str]:
    rates = card.tile_rates
    if rates is None:
        return []
    lines = [f"- its finest view alone, on single tiles: {rates.source}"]
    for name, rate in rates.sensitivity.items():
        lines.append(f"  - {name}: sensitivity {rate.words()}; specificity {rates.specificity[name].words()}")
    return lines


def _metric_lines(metrics: dict[str, Any], depth: int = 0) -> list[str]:
    lines: list[str] = []
    for name, value in metrics.items():
        indent = "  " * depth
        if isinstance(value, dict):
            lines.append(f"{indent}- {name}")
            lines.extend(_metric_lines(value, depth + 1))
        elif isinstance(value, list | tuple):
            lines.append(f"{indent}- {name}: {', '.join(_figure(item) for item in value)}")
        else:
            lines.append(f"{indent}- {name}: {_figure(value)}")
    return lines


def _figure(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
