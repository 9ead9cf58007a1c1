"""The megapixel benchmark: its images, its arms, and that its training can be interrupted."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.megapixel_mnist import loop as loop_module
from benchmarks.megapixel_mnist.__main__ import main
from benchmarks.megapixel_mnist.arms import (
    BASE_PX,
    Attending,
    attending_network,
    budget_locations,
    processing_levels,
    read_region,
    tnet_config,
    traverse_all,
    whole,
)
from benchmarks.megapixel_mnist.canvas import FRAGMENT_PX, Canvas, Digits, cut_fragments, load_digits, make_canvas
from benchmarks.megapixel_mnist.loop import Loop, Stage
from benchmarks.megapixel_mnist.measure import Arm, classifier, multiply_adds, prepare
from benchmarks.megapixel_mnist.recipe import make_network
from benchmarks.megapixel_mnist.training import Series, ink_box, learn_whole, position_of_digit, region_with_digit
from tnet_cli.geometry import AttentionGrid, Region
from tnet_cli.model.choice import TopK
from tnet_cli.model.tnet import TNet

REPOSITORY = Path(__file__).parents[2]
MNIST = REPOSITORY.parent / "shared" / "data" / "mnist.npz"


@pytest.fixture(scope="module")
def digits() -> Digits:
    """Forty digits of one's own: bright frames of 20 px with a bar for each class, so every side of each has ink."""
    images = np.zeros((40, 28, 28), np.uint8)
    labels = np.arange(40) % 10
    images[:, 4:24, 4:24] = 200
    images[:, 6:22, 6:22] = 0
    for image, label in zip(images, labels, strict=True):
        image[6 + label, 6:22] = 255
    return Digits(images, labels)


def test_an_image_is_the_same_each_time_and_unlike_the_next(digits: Digits) -> None:
    first, again, other = (make_canvas(digits, 300, seed=7, number=number) for number in (3, 3, 4))
    assert (first.pixels == again.pixels).all()
    assert (first.label, first.box) == (again.label, again.box)
    assert (first.pixels != other.pixels).any()


def test_the_digit_is_whole_where_its_box_says(digits: Digits) -> None:
    for number in range(30):
        canvas = make_canvas(digits, 200, seed=1, number=number)
        box = canvas.box
        cut = canvas.pixels[box.y : box.bottom, box.x : box.right]
        of_label = digits.images[digits.labels == canvas.label]
        assert whole(canvas).contains(box)
        assert (cut == of_label).all(axis=(1, 2)).any()


def test_each_digit_is_shown_once_before_any_is_shown_again(digits: Digits) -> None:
    labels = [make_canvas(digits, 60, seed=2, number=number).label for number in range(len(digits.labels))]
    assert sorted(labels) == sorted(digits.labels)


def test_there_are_fragments_all_over_the_image(digits: Digits) -> None:
    canvas = make_canvas(digits, 800, seed=1, number=0)
    quarters = canvas.pixels.reshape(2, 400, 2, 400).sum(axis=(1, 3), dtype=np.int64)
    one_digit = digits.images[0].sum(dtype=np.int64)
    assert (quarters > one_digit / 2).all()


@pytest.mark.skipif(not MNIST.exists(), reason=f"needs {MNIST}")
def test_no_fragment_holds_a_whole_digit_of_mnist() -> None:
    real = load_digits(MNIST, "test")
    ink = real.images > 0
    heights, widths = ink.any(axis=2).sum(axis=1), ink.any(axis=1).sum(axis=1)
    assert np.maximum(heights, widths).min() > FRAGMENT_PX
    fragments = cut_fragments(real, 500, np.random.default_rng(0))
    assert fragments.shape == (500, FRAGMENT_PX, FRAGMENT_PX)
    assert fragments.any(axis=(1, 2)).mean() > 0.5


@pytest.mark.skipif(not MNIST.exists(), reason=f"needs {MNIST}")
def test_train_and_test_digits_are_mnists_own_parts() -> None:
    train, test = load_digits(MNIST, "train"), load_digits(MNIST, "test")
    assert (len(train.labels), len(test.labels)) == (60_000, 10_000)
    assert len(np.unique(train.labels)) == len(np.unique(test.labels)) == 10


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, train_images=np.zeros((3, 28, 28), np.uint8))
    with pytest.raises(ValueError, match="train_labels"):
        load_digits(path, "train")


@pytest.mark.parametrize(("side", "levels"), [(896, 2), (1792, 3), (3584, 3)])
def test_the_finest_cells_have_the_images_own_pixels(side: int, levels: int) -> None:
    config = tnet_config(side)
    assert processing_levels(side) == config.processing_levels == levels
    region = Region(0, 0, side, side)
    for _ in range(levels - 1):
        region = AttentionGrid(config.grid, config.cell_fraction).cells(region)[9]
    assert abs(region.width - BASE_PX) <= 1


def test_hardly_a_digit_is_cut_by_all_cells(digits: Digits) -> None:
    config = tnet_config(896)
    cells = AttentionGrid(config.grid, config.cell_fraction).cells(Region(0, 0, 896, 896))
    canvases = [make_canvas(digits, 896, seed=3, number=number) for number in range(60)]
    held = [any(cell.contains(ink_box(canvas)) for cell in cells) for canvas in canvases]
    assert np.mean(held) > 0.9


def test_a_small_view_keeps_the_mean_of_the_pixels(digits: Digits) -> None:
    canvas = make_canvas(digits, 896, seed=1, number=0)
    seen = read_region(canvas.pixels, whole(canvas), BASE_PX)
    expected = canvas.pixels.reshape(128, 7, 128, 7).mean(axis=(1, 3)) / 255
    np.testing.assert_allclose(seen.numpy(), expected, atol=1e-5)


def test_what_lies_beyond_the_image_is_black(digits: Digits) -> None:
    canvas = make_canvas(digits, 200, seed=1, number=0)
    seen = read_region(canvas.pixels, Region(-1, 150, 128, 128), 128).numpy()
    assert not seen[:, 0].any()
    assert not seen[50:].any()
    np.testing.assert_allclose(seen[:50, 1:], canvas.pixels[150:, :127] / 255, atol=1e-6)


@pytest.mark.parametrize("side", [896, 1792])
def test_the_warm_up_shows_the_digit_at_every_processing_level(digits: Digits, side: int) -> None:
    config, rng = tnet_config(side), np.random.default_rng(0)
    for number in range(20):
        canvas = make_canvas(digits, side, seed=5, number=number)
        for level in range(config.processing_levels):
            region = region_with_digit(canvas, config, level, rng)
            assert whole(canvas).contains(region)
            assert region.contains(ink_box(canvas))
            y, x, scale = position_of_digit(canvas, config, level)
            assert scale == level
            assert max(y, x) < config.grid**level


def test_fewer_pixels_cost_less_and_the_gap_widens_with_the_image(digits: Digits) -> None:
    costs = {}
    for side in (896, 1792):
        canvas = make_canvas(digits, side, seed=1, number=0)
        for arm in (Arm("full"), Arm("shrunk"), Arm("tnet", 1), Arm("tnet", 4), Arm("random", 4)):
            torch.manual_seed(0)
            network = prepare(make_network(arm.network, side))
            costs[side, arm.name] = multiply_adds(classifier(arm, network, side), canvas)
    for side in (896, 1792):
        of = {name: cost for (at, name), cost in costs.items() if at == side}
        assert of["shrunk"] < of["tnet-1"] < of["tnet-4"] < of["full"]
        assert of["random-4"] == of["tnet-4"]
    assert costs[896, "full"] > 2.5 * costs[896, "tnet-4"]
    assert costs[1792, "full"] / costs[1792, "tnet-4"] > 1.5 * costs[896, "full"] / costs[896, "tnet-4"]


def test_every_arm_has_the_same_weights_to_learn() -> None:
    shapes = [
        {name: tuple(value.shape) for name, value in make_network(kind, 896).state_dict().items()}
        for kind in ("tnet", "shrunk", "full")
    ]
    assert shapes[0] == shapes[1] == shapes[2]


def test_as_many_locations_are_attended_as_the_budget_says(digits: Digits) -> None:
    canvas = make_canvas(digits, 1792, seed=1, number=0)
    network = prepare(attending_network(1792))
    with torch.inference_mode():
        (traversal,) = traverse_all(network, [canvas], Attending(budget_locations(1792, 3), TopK()))
    assert [len(record.regions) for record in traversal.levels] == [1, 3, 3]


def test_an_interrupted_stage_ends_as_an_uninterrupted_one(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, saved = Stage("short", 4, 4, 1e-3), tmp_path / "unfinished.pt"
    series = Series(digits, 32, 0, stage.batch)

    def started() -> TNet:
        torch.manual_seed(0)
        network = make_network("shrunk", 896)
        # Dropout draws from the global generator, whose state is not kept.
        network.classification.dropout = 0.0
        return network

    uninterrupted = started()
    learn_whole(uninterrupted, series, Loop(uninterrupted, stage))

    monkeypatch.setattr(loop_module, "SAVE_EVERY_S", 0.0)
    interrupted = started()
    with pytest.raises(KeyboardInterrupt):
        learn_whole(interrupted, Interrupted(digits, 32, 0, stage.batch), Loop(interrupted, stage, saved))
    resumed = started()
    loop = Loop(resumed, stage, saved)
    assert loop.step == 2
    learn_whole(resumed, series, loop)
    for name, value in uninterrupted.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value)


class Interrupted(Series):
    """Images that run out at the third step."""

    def at(self, step: int) -> list[Canvas]:
        if step == 2:
            raise KeyboardInterrupt
        return super().at(step)


@pytest.fixture
def benchmark(digits: Digits, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """The command with small images and hardly any training; it runs here and not in a process of its own."""
    mnist = tmp_path / "mnist.npz"
    parts = {f"{part}_{what}": getattr(digits, what) for part in ("train", "test") for what in ("images", "labels")}
    np.savez(mnist, **parts)
    command = ["megapixel_mnist", "--mnist", str(mnist), "--work", str(tmp_path / "w"), "--side", "256"]
    command += ["--effort", "0.001", "--images", "20", "--rounds", "1", "--budgets", "1"]
    monkeypatch.chdir(REPOSITORY)
    threads = torch.get_num_threads()

    def run(*what: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", [*command, *what])
        main()
        said = capsys.readouterr()
        return said.out, said.err

    yield run
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_one_command_trains_measures_and_does_nothing_twice(benchmark) -> None:
    said, _ = benchmark()
    document = json.loads(said[: said.rindex("\n}\n") + 3])
    assert list(document["arms"]) == ["full", "shrunk", "tnet-1", "random-1"]
    for row in document["arms"].values():
        low, high = row["interval_95"]
        assert low <= row["accuracy"] <= high
        assert row["images"] == 20
        assert min(row["seconds"], row["multiply_adds"]) > 0
    for name in ("full", "shrunk", "tnet-1"):
        assert document["arms"][name]["peak_mb"] > document["process_without_network_mb"] > 0
    assert "| (c) TNet, 1 at full resolution | 0." in said
    _, done_again = benchmark("accuracy")
    assert "of CPU" not in done_again
