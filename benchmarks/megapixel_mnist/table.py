"""The table of results, in Markdown."""

from typing import Any

TITLES = {"full": "(a) full resolution", "shrunk": "(b) shrunk", "tnet": "(c) TNet, {} at full resolution"}
TITLES["random"] = "(d) {} at random"


def table(document: dict[str, Any]) -> str:
    """Return the results of one size as a table.

    Args:
        document: As ``results-SIDE.json`` holds it.
    """
    full = document["arms"]["full"]
    lines = [
        f"{document['side']} px, threads: {document['threads']}",
        "",
        "| arm | accuracy (Wilson, 95 %) | digit seen | multiply-adds | time | times faster than (a) | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in document["arms"].items():
        kind, _, budget = name.partition("-")
        cells = [TITLES[kind].format(budget), _accuracy(row), _share(row.get("seen"))]
        if "seconds" in row:
            ratio = full["seconds"] / row["seconds"]
            cells += [
                f"{row['multiply_adds'] / 1e6:,.0f} M",
                f"{1000 * row['seconds']:,.1f} ms",
                f"{ratio:.1f}",
                f"{row['peak_mb']:,.0f} MB" if "peak_mb" in row else "as (c)",
            ]
        else:
            cells += [""] * 4
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _accuracy(row: dict[str, Any]) -> str:
    if "accuracy" not in row:
        return ""
    low, high = row["interval_95"]
    return f"{row['accuracy']:.3f} ({low:.3f} to {high:.3f})"


def _share(seen: float | None) -> str:
    return "" if seen is None else f"{seen:.3f}"
