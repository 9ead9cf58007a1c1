"""``tnet bench``: what attending costs, beside reading everything and beside the least it could cost."""

from typing import TYPE_CHECKING, Annotated

import typer

from tnet_cli.cli import options
from tnet_cli.cli.loading import load
from tnet_cli.cli.terminal import answer, answer_json, counting
from tnet_cli.errors import UsageError
from tnet_cli.inputs.options import named_model
from tnet_cli.places import Place

if TYPE_CHECKING:
    from tnet_cli.benchmark.run import BenchReport, BenchRow


def bench(
    slides: Annotated[list[str], typer.Argument(metavar="SLIDE...", help="Slides or URLs.")],
    model: options.Model = None,
    budgets: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="Locations to attend in all, a row each.  [default: the model's]"),
    ] = None,
    stop_at: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="CHANGE",
            help="Add a row that takes the most probable locations first, and ends before the greatest budget when the "
            "probabilities move by less than this.",
        ),
    ] = None,
    every_tile: Annotated[
        bool, typer.Option("--every-tile/--no-every-tile", help="Also read every tissue tile; may take minutes.")
    ] = True,
    rounds: Annotated[int, typer.Option(min=1, help="Measure so often, and tell the median.")] = 3,
    mpp: options.Mpp = None,
    device: options.Device = "auto",
    batch_size: options.BatchSize = 16,
    workers: options.Workers = None,
    plot: Annotated[
        str | None,
        typer.Option(metavar="FILE.png", help="Draw time and memory against the side of slides of several sizes."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
) -> None:
    """Measure tnet on slides: against random locations, every tissue tile, and the floor of decoding and computing."""
    wanted = tuple(sorted(set(options.whole_numbers("--budgets", budgets, example="24,48,96") or ())))
    if wanted and wanted[0] < 1:
        raise UsageError(f"--budgets {budgets}: a budget is at least 1")

    load("benchmark.run")
    from tnet_cli.benchmark.run import BenchRequest, run_bench
    from tnet_cli.files import path_given

    request = BenchRequest(
        slides=[Place(slide) for slide in slides],
        model=named_model(model),
        budgets=wanted,
        stop_at=stop_at,
        rounds=rounds,
        every_tile=every_tile,
        mpp=mpp,
        device=device,
        batch_size=batch_size,
        workers=workers,
        plot=None if plot is None else path_given(plot, "--plot"),
    )
    with counting("measurements") as measuring:
        report = run_bench(request, on_progress=measuring)
    if as_json:
        answer_json(report.record)
    else:
        print_tables(report)


HEADINGS = (
    "",
    "wall s",
    "traversal s",
    "CPU s",
    "forward passes",
    "tiles decoded",
    "pixels read",
    "MB read",
    "peak MB",
    "over torch",
    "faster than every tile",
    "to floor",
)


def print_tables(report: "BenchReport") -> None:
    """Print one table for each slide, as Markdown: it reads well in a terminal and goes into a document as it is."""
    from tnet_cli.benchmark.run import arm_text

    for slide, rows in report.slides:
        side = round(rows[0].measured.side_px)
        answer(f"{slide}: {side} px a side, {side**2 / 1e9:.2g} gigapixels; {report.record['model']}")
        answer("")
        table = [HEADINGS, *((arm_text(row.measured.arm, row.measured.budget), *_cells(row)) for row in rows)]
        widths = [max(len(line[column]) for line in table) for column in range(len(HEADINGS))]
        for number, line in enumerate(table):
            cells = [line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))]
            answer(f"| {' | '.join(cells)} |")
            if number == 0:
                answer(f"|{'|'.join(['-' * (widths[0] + 2), *('-' * (w + 1) + ':' for w in widths[1:])])}|")
        answer("")
        for row in rows:
            if row.measured.prediction is not None and row.measured.arm != "forward":
                name = arm_text(row.measured.arm, row.measured.budget)
                answer(f"{name}: {row.measured.prediction}, probability {row.measured.probability:.3f}")


def _cells(row: "BenchRow") -> tuple[str, ...]:
    measured = row.measured
    return (
        f"{measured.seconds:.2f}",
        "" if measured.traversal_seconds is None else f"{measured.traversal_seconds:.2f}",
        f"{measured.cpu_seconds:.2f}",
        str(measured.forward_passes),
        str(measured.tiles_decoded),
        f"{100 * measured.fraction_read:.2g} %",
        f"{measured.bytes_read / 1e6:.1f}" if measured.bytes_read else "",
        f"{measured.peak_mb:.0f}",
        f"{measured.over_torch_mb:.0f}",
        "" if row.to_every_tile is None else f"{row.to_every_tile:.1f} x",
        "" if row.to_floor is None else f"{row.to_floor:.2f}",
    )
