"""What the arms are measured to take on small slides, in this process, and how the rows stand to each other."""

from pathlib import Path

import pytest
from PIL import Image

from tests.model_files import save_random
from tnet_cli.benchmark.arms import ARMS
from tnet_cli.benchmark.measure import measure
from tnet_cli.benchmark.run import BenchRequest, run_bench
from tnet_cli.cli.bench import HEADINGS, print_tables
from tnet_cli.inference.every_cell import tissue_cells
from tnet_cli.inference.prepare import prepare
from tnet_cli.model.config import TNetConfig
from tnet_cli.modelfile.modelfile import load_model
from tnet_cli.places import Place
from tnet_cli.slide.opening import open_slide

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def untrained_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights that sees 128 px at a time: the counts below are those of its large cells."""
    config = TNetConfig.slide(("no", "yes")).model_copy(update={"locations": (2, 3, 4), "base_px": 128})
    return save_random(tmp_path_factory.mktemp("models"), config, seed=3, name="untrained")


@pytest.fixture(scope="module")
def benched(tmp_path_factory, drawn_slide, untrained_model):
    """Two slides measured: their paths, the report, what was told of progress, and the plot."""
    slides = [str(drawn_slide(seed=5, side_px=side)) for side in (1500, 2300)]
    plot = tmp_path_factory.mktemp("bench") / "plots" / "scaling.png"
    request = BenchRequest(
        slides=[Place(slide) for slide in slides],
        model=str(untrained_model),
        budgets=(12, 40),
        stop_at=1.0,
        rounds=1,
        device="cpu",
        plot=plot,
    )
    told: list[tuple[int, int]] = []
    report = run_bench(request, lambda done, total: told.append((done, total)), measured_by=measure)
    return slides, report, told, plot


def rows_of(report, number=0):
    return {(row["arm"], row["budget"]): row for row in report.record["slides"][number]["rows"]}


def test_every_arm_is_a_row(benched):
    slides, report, told, _ = benched
    assert [each["slide"] for each in report.record["slides"]] == slides
    attended = [(arm, budget) for budget in (12, 40) for arm in ("tnet", "decode", "forward")]
    assert list(rows_of(report)) == [*attended, ("early", 40), ("random", 40), ("every-tile", None)]
    assert {arm for arm, _ in rows_of(report)} == set(ARMS)
    assert told == [(done, 18) for done in range(1, 19)]


@pytest.mark.parametrize("number", [0, 1])
def test_counts_are_those_of_the_slide(benched, untrained_model, number):
    slides, report, _, _ = benched
    rows, network = rows_of(report, number), load_model(untrained_model).card.network
    with open_slide(slides[number]) as slide:
        preparation = prepare(slide, network)
        cells, positions = tissue_cells(preparation, network)
    roots = len(preparation.roots)
    assert len(set(cells)) == len(cells) == len(positions)
    assert rows["every-tile", None]["forward_passes"] == rows["every-tile", None]["locations"] == len(cells)
    tnet, decode, forward = (rows[arm, 12] for arm in ("tnet", "decode", "forward"))
    # A cell of a small slide may have less tissue below it than locations.
    assert 10 <= tnet["locations"] <= 12
    assert tnet["forward_passes"] == forward["forward_passes"] == tnet["locations"] + roots
    assert decode["forward_passes"] == forward["tiles_decoded"] == 0
    # The traversal has also read the thumbnail.
    assert 0 < decode["tiles_decoded"] <= tnet["tiles_decoded"]
    assert 0 < decode["pixels_read"] <= tnet["pixels_read"]
    assert rows["every-tile", None]["tiles_decoded"] >= len(cells)
    assert tnet["prediction"] == forward["prediction"]
    assert tnet["probability"] == pytest.approx(forward["probability"], abs=1e-5)
    assert 0 < tnet["traversal_seconds"] < tnet["seconds"]
    assert tnet["times_faster_than_every_tile"] == rows["every-tile", None]["seconds"] / tnet["seconds"]
    assert 0 < tnet["to_floor"] == min(decode["traversal_over"], forward["traversal_over"])
    assert rows["random", 40]["to_floor"] is None


@pytest.mark.parametrize("number", [0, 1])
def test_the_row_that_may_end_early_does(benched, number):
    rows = rows_of(benched[1], number)
    early = rows["early", 40]
    # With so lax a rule at the first look that may end it: the third or fourth, eight locations after the last, and
    # before the first of them one where no more cells are open.
    assert 16 <= early["locations"] <= 33
    assert early["forward_passes"] > early["locations"]
    assert early["prediction"] is not None
    assert early["times_faster_than_every_tile"] == rows["every-tile", None]["seconds"] / early["seconds"]


def test_the_plot_is_a_picture_that_says_who_made_it(benched):
    with Image.open(benched[3]) as picture:
        assert picture.format == "PNG"
        assert picture.info["Software"] == "tnet"
        assert picture.width > 1600


def test_the_table_names_what_was_asked(benched, capsys):
    slides, report, _, _ = benched
    print_tables(report)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{slides[0]}: 1500 px a side, 0.0022 gigapixels; untrained"
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    of_a_slide = ["tnet, 12", "decode, 12", "forward, 12", "tnet, 40", "decode, 40", "forward, 40", "early, 40"]
    of_a_slide += ["random, 40", "every-tile"]
    assert tuple(cells[0]) == HEADINGS
    assert [line[0] for line in cells[2:11]] == of_a_slide
    assert [line[0] for line in cells[13:]] == of_a_slide
    assert len({len(line) for line in lines[2:13]}) == 1
    row = rows_of(report)["every-tile", None]
    assert cells[10][1] == f"{row['seconds']:.2f}"
    assert cells[10][4:6] == [str(row["forward_passes"]), str(row["tiles_decoded"])]
    assert lines[-1].startswith("every-tile: ")
