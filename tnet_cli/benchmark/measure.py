"""Measures one arm on one slide, in this process."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from tnet_cli.benchmark.arms import FLOOR, ArmRequest, Measurement
from tnet_cli.errors import SlideError
from tnet_cli.inference.classify import look_with
from tnet_cli.inference.device import choose_device
from tnet_cli.inference.engine import drive
from tnet_cli.inference.every_cell import every_cell_job
from tnet_cli.inference.prepare import Preparation, prepare
from tnet_cli.inference.stopping import probabilities_of, stopping_rule
from tnet_cli.inference.traversal_job import TraversalJob, TraversalResult
from tnet_cli.inference.verdict import job_of, judged
from tnet_cli.metrics.predictions import softmax
from tnet_cli.model.choice import RandomChoice, TopK
from tnet_cli.model.normalisation import fold_normalisation
from tnet_cli.model.traversal import Traversal
from tnet_cli.modelfile.modelfile import load_model
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.slide import Slide

SEED = 0
"""Of the random locations."""


def measure(request: ArmRequest) -> Measurement:
    """Measure an arm as often as asked, and return the run of the median wall time; its memory is not measured.

    Raises:
        SlideError: the slide cannot be read, or shows no tissue.
        UsageError: the budget does not fit the model.
        ModelFileError: the model cannot be used.
    """
    bench = _Bench(request)
    once: dict[str, Callable[[], Measurement]] = {
        "tnet": bench.attend,
        "early": bench.attend,
        "random": bench.attend,
        "every-tile": bench.look_at_every_cell,
        "decode": bench.decode,
        "forward": bench.pass_forward,
    }
    runs: list[Measurement] = []
    for _ in range(request.rounds):
        # Side by side, so that whatever else the machine does meets both.
        traversal_seconds = bench.attend().traversal_seconds if request.arm in FLOOR else None
        run = once[request.arm]()
        over = None if traversal_seconds is None else traversal_seconds / run.seconds
        runs.append(replace(run, traversal_over=over))
    median = sorted(runs, key=lambda run: run.seconds)[(len(runs) - 1) // 2]
    ratios = [run.traversal_over for run in runs if run.traversal_over is not None]
    return replace(median, traversal_over=float(np.median(ratios)) if ratios else None)


@dataclass(slots=True)
class _Watch:
    """Wall and processor time of a block, in seconds; zero until it has ended."""

    wall: float = 0.0
    cpu: float = 0.0
    _from: tuple[float, float] = field(default=(0.0, 0.0))

    def __enter__(self) -> "_Watch":
        self._from = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._from[0], time.process_time() - self._from[1]


class _Bench:
    """A model made ready, and a slide to use it on. The first, unmeasured traversal warms up everything."""

    def __init__(self, request: ArmRequest) -> None:
        self.request = request
        self.device = choose_device(request.device)
        self.model = load_model(request.model)
        self.config = self.model.card.network
        self.network = self.model.network.to(self.device).eval()
        fold_normalisation(self.network)
        self.look = look_with(self.network, self.device)
        with self._open() as slide:
            self.preparation = prepare(slide, self.config)
            warm = self._drive(self._job(slide, self.preparation))
        self.traversal = warm.traversal
        self.patches = [np.stack(some) for some in warm.patches] if request.arm in FLOOR else []

    def attend(self) -> Measurement:
        """Traverse the slide, by attention or by chance, to the end or until the answer stands still."""
        with _Watch() as watch, self._open() as slide:
            preparation = prepare(slide, self.config)
            with _Watch() as after_preparing:
                traversal = self._drive(self._job(slide, preparation)).traversal
                probabilities = self._answer(traversal, preparation)
        seen = _regions_seen(traversal)
        return self._measured(watch, slide, traversal.location_count, seen, probabilities, after_preparing)

    def look_at_every_cell(self) -> Measurement:
        """Look at all tissue at the finest resolution; the answer is the mean over the cells, or the model's rule."""
        with _Watch() as watch, self._open() as slide:
            preparation = prepare(slide, self.config)
            with _Watch() as after_preparing:
                traversal = self._drive(every_cell_job(slide, preparation, self.config)).traversal
                (record,) = traversal.levels
                if self.model.card.verdict is not None:
                    probabilities = self._answer(traversal, preparation)
                else:
                    with torch.inference_mode():
                        logits = self.network.classification(record.features).float().cpu().numpy()
                    probabilities = softmax(logits, self.model.card.temperature, self.model.card.bias).mean(axis=0)
        cells = len(record.regions)
        return self._measured(watch, slide, cells, cells, probabilities, after_preparing)

    def decode(self) -> Measurement:
        """Read what was attended, in as many threads as the engine has, and do nothing with it."""
        sides_px = [self.config.input_px(record.processing_level) for record in self.traversal.levels]
        wanted = [
            (region, side_px)
            for record, side_px in zip(self.traversal.levels, sides_px, strict=True)
            for region in record.regions
        ]
        with self._open() as slide, ThreadPoolExecutor(self.request.readers) as threads:
            with _Watch() as watch:
                for _ in threads.map(lambda each: slide.read(each[0], each[1], each[1]), wanted):
                    pass
            return self._measured(watch, slide, self.traversal.location_count, 0)

    def pass_forward(self) -> Measurement:
        """Send what was attended through the network, processing level by processing level, and classify."""
        traversal = self.traversal
        with _Watch() as watch:
            for record, pixels in zip(traversal.levels, self.patches, strict=True):
                patches = torch.from_numpy(pixels).permute(0, 3, 1, 2)
                for start in range(0, len(patches), self.request.batch_size):
                    some = slice(start, start + self.request.batch_size)
                    allowed = None if record.allowed is None else record.allowed[some]
                    self.look(patches[some], record.positions[some], allowed)
            probabilities = self._answer(traversal, self.preparation)
        with self._open() as slide:
            return self._measured(watch, slide, traversal.location_count, _regions_seen(traversal), probabilities)

    def _open(self) -> Slide:
        return open_slide(self.request.slide, mpp=self.request.traversal.mpp)

    def _job(self, slide: Slide, preparation: Preparation) -> TraversalJob:
        options = self.request.traversal
        sampler = RandomChoice(np.random.default_rng(SEED)) if self.request.arm == "random" else TopK()
        stopping = stopping_rule(options.stop_at, self.network, self.model.card)
        job = job_of(slide, preparation, self.model.card, options, sampler, stopping=stopping)
        if job is None:
            raise SlideError(self.request.slide, "shows no tissue, so there is nothing to measure")
        return job

    def _drive(self, job: TraversalJob) -> TraversalResult:
        """Send one job through the engine.

        Raises:
            SlideError: a region cannot be read.
        """
        request = self.request
        ((_, ended),) = drive([job], self.look, batch_size=request.batch_size, readers=request.readers)
        if isinstance(ended, BaseException):
            raise ended
        return ended

    def _answer(self, traversal: Traversal, preparation: Preparation) -> np.ndarray:
        card = self.model.card
        if card.verdict is not None:
            said = judged(str(self.request.slide), card.verdict, preparation, traversal, self.config)
            return softmax(said.logits, card.temperature, card.bias)
        features = torch.cat([record.features for record in traversal.levels])
        return probabilities_of(features, traversal.closest, self.network, card)

    def _measured(
        self,
        watch: _Watch,
        slide: Slide,
        locations: int,
        forward_passes: int,
        probabilities: np.ndarray | None = None,
        traversal: _Watch | None = None,
    ) -> Measurement:
        prediction = probability = None
        if probabilities is not None:
            called = int(np.argmax(probabilities))
            prediction, probability = self.config.class_names[called], float(probabilities[called])
        return Measurement(
            arm=self.request.arm,
            budget=self.request.traversal.budget,
            side_px=slide.size.area**0.5,
            seconds=watch.wall,
            traversal_seconds=None if traversal is None else traversal.wall,
            cpu_seconds=watch.cpu,
            locations=locations,
            forward_passes=forward_passes,
            tiles_decoded=slide.tiles_read,
            pixels_read=slide.pixels_read,
            fraction_read=slide.pixels_read / slide.size.area,
            bytes_read=slide.bytes_read,
            prediction=prediction,
            probability=probability,
        )


def _regions_seen(traversal: Traversal) -> int:
    return sum(len(record.regions) for record in traversal.levels)
