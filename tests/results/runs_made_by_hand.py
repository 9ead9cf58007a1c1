"""Results of slides that nobody classified, to fill a run's folder with."""

from typing import Any

from tnet_cli.geometry import Region, Size
from tnet_cli.report.attended import AttendedRegion
from tnet_cli.results.result import SlideResult

RECORD: dict[str, Any] = {
    "version": "0",
    "finished": "2026-01-01T00:00:00+00:00",
    "model": {"name": "m", "path": "/gone/m.safetensors", "sha256": "0" * 64},
    "intended_use": "For tests.",
    "options": {"locations": [2, 3], "budget": None, "batch_size": 16},
    "machine": {"cores": 2},
    "slides": {"ok": 2, "failed": 1, "no_tissue": 0},
    "seconds": 3.0,
}


def done(name: str, *, path: str | None = None, size: Size | None = None) -> SlideResult:
    """Return a slide that was called a lesion."""
    size = size or Size(4000, 3000)
    regions = (
        AttendedRegion(Region(0, 0, 4096, 4096), 0, 8.0, 1.0, 1.0, 0.25, (0.5, 0.5), is_location=False),
        AttendedRegion(Region(1024, 0, 1024, 1024), 1, 2.0, 0.5, 0.5, 0.75, (0.1, 0.9)),
    )
    return SlideResult(
        slide=name,
        path=path or f"in/{name}.svs",
        status="ok",
        class_names=("benign", "lesion"),
        prediction="lesion",
        probability=0.9,
        probabilities=(0.1, 0.9),
        logits=(0.0, 2.2),
        size=size,
        mpp=0.5,
        mpp_source="option",
        roots=1,
        locations=1,
        pixels_read=10_000,
        fraction_read=0.01,
        seconds=1.0,
        notes=("skipped processing level 1",),
        regions=regions,
    )


def failed_result(name: str) -> SlideResult:
    """Return a slide that was not there."""
    path = f"in/{name}.svs"
    return SlideResult(
        slide=name, path=path, status="failed", class_names=("benign", "lesion"), error=f"{path}: no such file"
    )
