"""A run on disk: tables, per-slide results and overlays, each file written whole or not at all."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image

from tnet_cli.errors import UsageError
from tnet_cli.pipeline.atomic import write_text_whole, written_whole
from tnet_cli.pipeline.documents import table_text, write_json
from tnet_cli.pipeline.presentation import attended_regions
from tnet_cli.pipeline.result import REGION_COLUMNS, SlideResult, region_row
from tnet_cli.report.geojson import regions_geojson
from tnet_cli.report.thumbnail import overlay_note

PREDICTIONS = "predictions.csv"


def prediction_columns(class_names: Sequence[str]) -> list[str]:
    """Return the columns of ``predictions.csv`` for a model's classes."""
    return [
        *("slide", "path", "status", "prediction", "probability"),
        *(f"prob_{name}" for name in class_names),
        *("mpp", "mpp_source", "reader", "roots", "locations", "pixels_read", "fraction_read", "seconds", "error"),
    ]


class RunDirectory:
    """The folder a run writes into. Nothing in it that tnet did not write is touched.

    Args:
        path: The folder; made on the first write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def refuse_if_it_holds_another_run(self, paths: Iterable[str], *, overwrite: bool) -> None:
        """Protect the rows of an earlier run that this one would not write again.

        Raises:
            UsageError: the folder's table lists slides that are not among ``paths``, or the folder is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path}: is a file; give a folder with --out")
        table = self.path / PREDICTIONS
        if overwrite or not table.exists():
            return
        with table.open(newline="", encoding="utf-8") as file:
            earlier = {row.get("path") or "" for row in csv.DictReader(file)}
        lost = sorted(earlier - set(paths))
        if lost:
            raise UsageError(
                f"{self.path}: holds the results of another run ({len(lost)} slides not in this one, "
                f"such as {lost[0]}); "
                "give another folder with --out, or replace its table with --overwrite"
            )

    def slide_folder(self, result: SlideResult) -> Path:
        """Return the folder of one slide's results."""
        return self.path / "slides" / result.slide

    def write_slide(self, result: SlideResult, overlay: Image | None) -> Path | None:
        """Write one slide's files.

        Args:
            result: What was found.
            overlay: The picture, or None for none.

        Returns:
            Where the overlay is, or None.
        """
        folder = self.slide_folder(result)
        details = result.row() | {
            "logits": list(result.logits),
            "width": result.size.width if result.size else None,
            "height": result.size.height if result.size else None,
            "bytes_read": result.bytes_read,
            "notes": list(result.notes),
        }
        write_json(folder / "result.json", details)
        if result.status == "ok":
            rows = [region_row(region, result.class_names) for region in result.regions]
            columns = [*REGION_COLUMNS, *(f"prob_{name}" for name in result.class_names)]
            write_text_whole(folder / "regions.csv", table_text(columns, rows))
            write_json(folder / "regions.geojson", _geojson(result))
        if overlay is None:
            return None
        path = folder / "overlay.png"
        with written_whole(path) as draft:
            overlay.save(draft, format="PNG", pnginfo=overlay_note(overlay))
        return path

    def write_predictions(self, results: Sequence[SlideResult], class_names: Sequence[str]) -> None:
        """Write ``predictions.csv``: one row for every input, in input order."""
        rows = [result.row() for result in results]
        write_text_whole(self.path / PREDICTIONS, table_text(prediction_columns(class_names), rows))

    def write_run(self, record: dict[str, Any]) -> None:
        """Write ``run.json``: what the run was."""
        write_json(self.path / "run.json", record)


def _geojson(result: SlideResult) -> dict[str, Any]:
    origin = (result.bounds.x, result.bounds.y) if result.bounds else (0, 0)
    return regions_geojson(attended_regions(result), result.class_names, origin)
