"""Labelled slides made ready for training, and what their annotations teach of any region."""

import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from pydantic import TypeAdapter

from tnet_cli.errors import DISTRIBUTION, ManifestError, SlideError
from tnet_cli.geometry import AttentionGrid, Region, Size
from tnet_cli.inference.engine import LookFunction, drive
from tnet_cli.inference.prepare import Preparation, Scale, prepare
from tnet_cli.inference.traversal_job import ReadFunction, TraversalJob, TraversalResult, traversal_job
from tnet_cli.inputs.annotation import read_annotation
from tnet_cli.inputs.fingerprint import Fingerprint, content_of, fingerprint_of
from tnet_cli.inputs.inputs import SlideInput
from tnet_cli.inputs.options import TraversalOptions
from tnet_cli.learning.kept import KeptReads, key_of
from tnet_cli.learning.settings import TrainingSettings
from tnet_cli.model.choice import LocationSampler
from tnet_cli.model.config import TNetConfig
from tnet_cli.places import redacted
from tnet_cli.slide.opening import open_slide
from tnet_cli.slide.slide import Slide
from tnet_cli.tissue.roots import Root
from tnet_cli.tissue.tissue import TissueMask

NO_LABEL = -1

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class PackedMask:
    """A mask in a hundredth of its memory, without the table that makes it quick: slides are held by the thousand.

    Attributes:
        bits: Of the pixels row by row, packed by zlib.
        shape: (H, W), thumbnail pixels.
    """

    bits: bytes
    shape: tuple[int, int]
    slide_size: Size

    @classmethod
    def of(cls, mask: TissueMask) -> Self:
        """Pack a mask."""
        height, width = mask.mask.shape
        return cls(zlib.compress(np.packbits(mask.mask).tobytes(), level=1), (height, width), mask.slide_size)

    def unpacked(self) -> TissueMask:
        """Return the mask, to be held no longer than it is used."""
        packed = np.frombuffer(zlib.decompress(self.bits), np.uint8)
        bits = np.unpackbits(packed, count=math.prod(self.shape))
        return TissueMask(bits.reshape(self.shape).view(np.bool_), self.slide_size)


@dataclass(frozen=True, slots=True)
class TrainingSlide:
    """One labelled slide. Its file is opened for each read, so thousands of them need no open handles.

    Attributes:
        entry: Where it is, and its mpp from the manifest.
        label: Index of its class.
        scale: How the model's processing levels fall on it.
        roots: Boxes of processing level 0; at least one.
        annotated: Where its lesions are, or None when nobody drew any.
        identity: What makes it another slide to learn from, wherever it lies (``slide_identity``).
        doubts: Sentences about what its reader doubted of what was read so far.
        read_as: Digest of what was read of it; None where nobody can tell whether it changes.
        fingerprint: Its file's when it was prepared; None likewise.
    """

    entry: SlideInput
    label: int
    scale: Scale
    roots: tuple[Root, ...]
    tissue: PackedMask
    annotated: PackedMask | None
    identity: str = ""
    read_as: str | None = None
    fingerprint: Fingerprint | None = None
    doubts: set[str] = field(default_factory=set)

    @property
    def preparation(self) -> Preparation:
        """What a traversal needs; there is no thumbnail."""
        return Preparation(self.scale, np.zeros((0, 0, 3), np.uint8), self.tissue.unpacked(), self.roots)

    @property
    def root_regions(self) -> tuple[Region, ...]:
        """The roots' boxes, level-0 pixels."""
        return tuple(root.region for root in self.roots)

    def down_to(self, processing_levels: int | None) -> "TrainingSlide":
        """Return the slide with traversals that end at this many processing levels, or where it ends by itself."""
        if processing_levels is None or processing_levels >= self.scale.processing_levels:
            return self
        last = max(processing_levels, self.scale.start + 1)
        return replace(self, scale=replace(self.scale, processing_levels=last))

    def open(self) -> Slide:
        """Open the file."""
        return open_slide(self.entry.path, mpp=self.entry.mpp)

    @contextmanager
    def opened(self) -> Iterator[Slide]:
        """Open the file for all that is to be read of it; what its reader doubted of that is noted at the end."""
        with self.open() as handle:
            yield handle
            self.doubts.update(doubts_of(handle))

    def read(self, regions: Sequence[Region], base_px: int) -> list[np.ndarray]:
        """Read regions as patches uint8 (base_px, base_px, 3), in order."""
        with self.opened() as handle:
            return [handle.read(region, base_px, base_px) for region in regions]

    def job(
        self,
        handle: Slide,
        config: TNetConfig,
        locations: tuple[int, ...],
        sampler: LocationSampler,
        read: ReadFunction | None = None,
    ) -> TraversalJob:
        """Return what the engine needs to traverse the slide.

        Args:
            handle: The open file; to stay so until the traversal has ended.
            locations: Attended at each processing level after the first; the model's own when empty.
            read: In place of the file's own reading.

        Raises:
            ValueError: the slide has no roots.
        """
        options = TraversalOptions(locations=locations or None)
        job = traversal_job(handle, self.preparation, config, options, sampler, read=read)
        if job is None:
            raise ValueError(f"{self.entry.path}: a slide without roots cannot be traversed")
        return job

    def traverse(
        self,
        look: LookFunction,
        config: TNetConfig,
        locations: tuple[int, ...],
        sampler: LocationSampler,
        *,
        batch_size: int,
        readers: int,
        served: Callable[[TraversalJob, Slide], TraversalJob] = lambda job, _handle: job,
    ) -> TraversalResult:
        """Open and traverse the slide by itself; arguments as of ``job`` and of the engine.

        Args:
            served: Makes of the job the one that the engine is given; the slide is open.

        Raises:
            SlideError: it cannot be read.
        """
        with self.opened() as handle:
            job = served(self.job(handle, config, locations, sampler), handle)
            ((_, ended),) = drive([job], look, batch_size=batch_size, readers=readers)
        if not isinstance(ended, TraversalResult):
            raise ended
        return ended


@dataclass(frozen=True)
class AnnotationTargets:
    """What annotations teach of regions of one slide. Holds its mask unpacked, so it is made when it is used.

    Attributes:
        settings: ``lesion_share``, ``normal_class`` and ``slide_labels_teach_patches`` of them.
    """

    slide: TrainingSlide
    config: TNetConfig
    settings: TrainingSettings

    @cached_property
    def _mask(self) -> TissueMask | None:
        return None if self.slide.annotated is None else self.slide.annotated.unpacked()

    def annotated_fractions(self, regions: Sequence[Region]) -> np.ndarray:
        """Return the share of each region that is annotated, float64 (N,); zero without annotations."""
        return np.zeros(len(regions)) if self._mask is None else self._mask.fractions(regions)

    def cells(self, region: Region, allowed: np.ndarray) -> np.ndarray:
        """Return the share of the region's annotated area that each allowed cell holds, float32 (G,)."""
        cells = AttentionGrid(self.config.grid, self.config.cell_fraction).cells(region)
        covered = self.annotated_fractions(cells) * allowed
        total = covered.sum()
        shares: np.ndarray = covered / total if total > 0 else np.zeros_like(covered)
        return shares.astype(np.float32)

    @property
    def know_places(self) -> bool:
        """Whether they say of every place what is there: where nothing is drawn, there is nothing."""
        return self.slide.annotated is not None or self._is_normal

    @property
    def _is_normal(self) -> bool:
        return self.config.class_names[self.slide.label] == self.settings.normal_class

    def label(self, region: Region) -> int:
        """Return the class of a finest region, or -1 where the annotations do not decide it."""
        if self.slide.annotated is None:
            # Nobody drew anything: only on a slide that is normal as a whole is every patch known to be.
            return self.slide.label if self._is_normal or self.settings.slide_labels_teach_patches else NO_LABEL
        covered = float(self.annotated_fractions([region])[0])
        if covered >= self.settings.lesion_share:
            return self.slide.label
        if covered > 0 or self.settings.normal_class is None:
            return NO_LABEL
        return self.config.class_names.index(self.settings.normal_class)

    def feature_label(self, region: Region, *, is_finest: bool) -> int:
        """Return the class of any region's own features: by annotation where there is one, else the slide's."""
        if self.slide.annotated is None or self.settings.normal_class is None:
            return self.slide.label
        if is_finest:
            return self.label(region)
        is_annotated = self.annotated_fractions([region])[0] > 0
        return self.slide.label if is_annotated else self.config.class_names.index(self.settings.normal_class)


def load_training_slides(
    inputs: Sequence[SlideInput],
    config: TNetConfig,
    *,
    annotations: bool = True,
    readers: int = 1,
    on_bad: Callable[[SlideError], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    kept: KeptReads | None = None,
) -> list[TrainingSlide]:
    """Open and prepare every labelled slide, but for those that were prepared before.

    Args:
        annotations: Whether to read what pathologists have drawn.
        readers: Slides that are prepared at once.
        on_bad: Told of each slide that cannot be read, which is then left out; without it the first one is raised.
        on_note: Told of what the reader of a slide doubts, and of what is left out of annotations; in the order of the
            slides.
        kept: Slides as they were prepared, by what they were then.

    Raises:
        ManifestError: a slide has no label, or one that is not among the model's classes.
        SlideError: a slide cannot be read, or holds no tissue.
    """
    for entry in inputs:
        if entry.label not in config.class_names:
            raise ManifestError(
                f"{entry.shown_path}: label {entry.label!r} is not among the classes {', '.join(config.class_names)}"
            )
    store = KeptReads() if kept is None else kept
    tell = on_note or (lambda _text: None)

    def load(entry: SlideInput) -> tuple[TrainingSlide, list[str]]:
        annotation = entry.annotation if annotations else None
        fingerprint = fingerprint_of(entry.path)
        marks = [fingerprint, annotation and fingerprint_of(annotation)]
        key = key_of("slide", version(DISTRIBUTION), config.model_dump(mode="json"), entry.mpp, *marks)
        found = store.get(key) if fingerprint is not None else None
        arrays, about = found or _read_slide(entry, config, annotation)
        if found is None and fingerprint is not None:
            store.put(key, arrays, about)
        slide = TrainingSlide(
            entry=entry,
            label=config.class_names.index(entry.label or ""),
            scale=_SCALE.validate_python(about["scale"]),
            roots=_ROOTS.validate_python(about["roots"]),
            tissue=_mask_from(arrays["tissue"], about["tissue"]),
            annotated=_mask_from(arrays["annotated"], about["annotated"]) if "annotated" in arrays else None,
            identity=slide_identity(entry, annotations=annotations),
            read_as=key if fingerprint is not None else None,
            fingerprint=fingerprint,
        )
        return slide, about["notes"]

    slides = []
    for slide, notes in read_many(load, inputs, readers, on_bad):
        slides.append(slide)
        for sentence in notes:
            tell(sentence)
    return slides


def slide_identity(entry: SlideInput, *, annotations: bool = True) -> str:
    """Return what makes a slide another one to learn from: its content, label, scale as given, and annotation."""
    annotation = content_of(entry.annotation) if entry.annotation and annotations else None
    return json.dumps([content_of(entry.path), entry.label, entry.mpp, annotation])


_SCALE, _ROOTS = TypeAdapter(Scale), TypeAdapter(tuple[Root, ...])


def _read_slide(
    entry: SlideInput, config: TNetConfig, annotation: Path | None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what a training needs to know of a slide, as arrays and JSON values about them."""
    notes: list[str] = []
    with open_slide(entry.path, mpp=entry.mpp) as slide:
        prepared, origin, size = prepare(slide, config), (slide.bounds.x, slide.bounds.y), slide.size
        notes += doubts_of(slide)
    if not prepared.roots:
        raise SlideError(entry.path, "no tissue was found, so there is nothing to learn from it")
    masks = {"tissue": PackedMask.of(prepared.tissue)}
    if annotation is not None:
        drawn = read_annotation(annotation, size, origin=origin, on_note=notes.append)
        masks["annotated"] = PackedMask.of(drawn)
    arrays = {name: np.frombuffer(mask.bits, np.uint8) for name, mask in masks.items()}
    about = {name: [*mask.shape, mask.slide_size.width, mask.slide_size.height] for name, mask in masks.items()}
    scale, roots = _SCALE.dump_python(prepared.scale, mode="json"), _ROOTS.dump_python(prepared.roots, mode="json")
    return arrays, about | {"scale": scale, "roots": roots, "notes": notes}


def _mask_from(bits: np.ndarray, sides: Sequence[int]) -> PackedMask:
    height, width, slide_width, slide_height = sides
    return PackedMask(bits.tobytes(), (height, width), Size(slide_width, slide_height))


def doubts_of(slide: Slide) -> list[str]:
    """Return a sentence for each thing that a slide's reader had to assume or could not check so far."""
    wrong = "; what is learnt from it may be wrong"
    return [f"{redacted(slide.path)}: {each.sentence}{wrong * each.may_change_answer}" for each in slide.doubts]


def read_many(
    read: Callable[[Item], Result], items: Iterable[Item], readers: int, on_bad: Callable[[SlideError], None] | None
) -> Iterator[Result]:
    """Read slides in threads and yield what was read in order; ``on_bad`` as of ``load_training_slides``."""

    def attempt(item: Item) -> Result | SlideError:
        try:
            return read(item)
        except SlideError as error:
            return error

    pool = ThreadPoolExecutor(readers, thread_name_prefix="tnet-slides")
    try:
        for found in pool.map(attempt, items):
            if not isinstance(found, SlideError):
                yield found
            elif on_bad is None:
                raise found
            else:
                on_bad(found)
    finally:
        pool.shutdown(cancel_futures=True)
