"""Drawing a design: any window of the slide at full resolution, the same whatever windows are drawn around it."""

import numpy as np
from PIL import Image

from tnet_cli.synth.design import Appearance, Focus, SlideDesign
from tnet_cli.synth.foci import BASE_EOSIN, BASE_HAEMATOXYLIN, calibrate
from tnet_cli.synth.patterns import Scatter, blotches, fibres, grain
from tnet_cli.synth.sprites import FULL, Gland, gland_bank, small_nuclei, spindle_nuclei, stamp_max

WINDOW_PX = 1024
"""Largest side of a window; the textures' periods are at least as long."""

STROMA_HAEMATOXYLIN = 14
GLAND_PITCH_UM = 165.0
EDGE_UM = 2.0
EDGE_OF_FOCUS_UM = 14.0


class Painter:
    """Draws windows of one slide."""

    def __init__(self, design: SlideDesign) -> None:
        self.design = design
        rng = np.random.default_rng([design.seed, 7])
        mpp = design.mpp
        self._small = small_nuclei(mpp, rng)
        self._calibration = calibrate(mpp)
        self._nuclei = self._calibration.banks(mpp, self._small, rng)
        self._spindles = spindle_nuclei(mpp, rng)
        self._glands = gland_bank(mpp, self._small, rng)
        direction = rng.uniform(0, np.pi)
        self._fibres = fibres(1024, direction, mpp, rng), fibres(1152, direction + rng.uniform(0.9, 1.8), mpp, rng)
        self._blend = blotches(1600, 380, mpp, rng)
        self._rough = blotches(1280, 30, mpp, rng)
        self._grain = grain(1088, design.appearance.noise, rng)
        self._colours = colour_table(design.appearance)

    @property
    def glass(self) -> tuple[int, int, int]:
        """The colour of empty glass in the picture."""
        red, green, blue = self._colours[0]
        return int(red), int(green), int(blue)

    def window(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Draw a window of level-0 pixels, at most ``WINDOW_PX`` wide and high, uint8 (height, width, 3)."""
        if self.design.is_glass(x, y, width, height):
            return np.broadcast_to(np.array(self.glass, np.uint8), (height, width, 3)).copy()
        haematoxylin, eosin = self._stroma(x, y, width, height)
        self._draw_glands_and_cells(haematoxylin, eosin, x, y)
        for focus in self.design.foci:
            self._draw_focus(focus, haematoxylin, eosin, x, y)
        section = self._section(x, y, width, height)
        haematoxylin = _scaled(haematoxylin, section)
        grained = eosin + self._grain.window(x, y, width, height).astype(np.int16) - 16
        eosin = _scaled(np.maximum(grained, 0), section)
        index = haematoxylin.astype(np.uint16) << 8
        index |= eosin
        return np.asarray(self._colours[index])

    def _stroma(self, x: int, y: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        share: np.ndarray = self._blend.window(x, y, width, height).astype(np.uint16)
        first, second = (texture.window(x, y, width, height) for texture in self._fibres)
        mixed: np.ndarray = first * share + second * (255 - share)
        eosin = (mixed >> 8).astype(np.uint8)
        return np.full((height, width), STROMA_HAEMATOXYLIN, np.uint8), eosin

    def _section(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return the relative thickness of the section, zero on glass, float32 (height, width)."""
        thickness = cut_map(self.design.thickness, self.design.map_um / self.design.mpp, x, y, width, height)
        depth = cut_map(self.design.depth_um, self.design.map_um / self.design.mpp, x, y, width, height)
        if float(depth.min()) > 3 * self.design.map_um:
            return thickness
        depth += (self._rough.window(x, y, width, height).astype(np.float32) - 128) / 10
        return thickness * np.clip(depth / EDGE_UM, 0, 1)

    def _at(self, values: np.ndarray, points_um: np.ndarray) -> np.ndarray:
        index = np.clip((points_um / self.design.map_um).astype(int), 0, values.shape[0] - 1)
        return np.asarray(values[index[:, 1], index[:, 0]])

    def _points(
        self, kind: int, pitch_um: float, jitter: float, frame: tuple[int, int, int, int], reach: float
    ) -> np.ndarray:
        mpp = self.design.mpp
        x, y, width, height = frame
        scatter = Scatter(self.design.seed, kind, pitch_um, jitter)
        return scatter.window(x * mpp - reach, y * mpp - reach, (x + width) * mpp + reach, (y + height) * mpp + reach)

    def _clear_of_foci(self, points: np.ndarray, margin_um: float) -> np.ndarray:
        clear = np.ones(len(points), dtype=bool)
        for focus in self.design.foci:
            dx, dy = points[:, 0] - focus.x_um, points[:, 1] - focus.y_um
            clear &= np.hypot(dx, dy) > focus.radius_at(np.arctan2(dy, dx)) + margin_um
        return clear

    def _draw_glands_and_cells(self, haematoxylin: np.ndarray, eosin: np.ndarray, x: int, y: int) -> None:
        height, width = eosin.shape
        frame, mpp = (x, y, width, height), self.design.mpp
        sites = self._points(1, GLAND_PITCH_UM, 0.3, frame, 110)
        kept = (self._at(self.design.mucosa, sites[:, :2]) > 0) & (self._at(self.design.depth_um, sites[:, :2]) > 90)
        sites = sites[kept & self._clear_of_foci(sites, 85)]
        cells = self._points(2, 24.0, 0.5, frame, 12)
        in_tissue = self._at(self.design.depth_um, cells[:, :2]) > -self.design.map_um
        cells = cells[in_tissue & self._clear_of_foci(cells, 3)]
        for px, py, number, _ in cells:
            bank = self._spindles if number < 0.62 else self._small
            pick = int(number * 1e6) % len(bank)
            stamp_max(haematoxylin, bank[pick], round(px / mpp) - x, round(py / mpp) - y)
        for px, py, number, turn in sites:
            gland = self._glands[int(number * len(self._glands))]
            _stamp_gland(haematoxylin, eosin, gland, round(px / mpp) - x, round(py / mpp) - y, int(turn * 8))

    def _draw_focus(self, focus: Focus, haematoxylin: np.ndarray, eosin: np.ndarray, x: int, y: int) -> None:
        mpp, reach = self.design.mpp, focus.reach_um + 20
        height, width = eosin.shape
        left, top = max(x * mpp, focus.x_um - reach), max(y * mpp, focus.y_um - reach)
        right, bottom = min((x + width) * mpp, focus.x_um + reach), min((y + height) * mpp, focus.y_um + reach)
        if left >= right or top >= bottom:
            return
        self._draw_ground(focus, haematoxylin, eosin, x, y)
        bank = self._nuclei[focus.nuclei]
        box_um = (left - 20, top - 20, right + 20, bottom + 20)
        points = self._calibration.points(focus.arrangement, focus.nuclei, self.design.seed, box_um)
        dx, dy = points[:, 0] - focus.x_um, points[:, 1] - focus.y_um
        inside = np.hypot(dx, dy) < focus.radius_at(np.arctan2(dy, dx))
        for px, py, number in points[inside]:
            stamp_max(haematoxylin, bank[int(number * len(bank))], round(px / mpp) - x, round(py / mpp) - y)

    def _draw_ground(self, focus: Focus, haematoxylin: np.ndarray, eosin: np.ndarray, x: int, y: int) -> None:
        """Replace the stroma inside the outline by what lies between a focus's nuclei, with a soft edge."""
        mpp = self.design.mpp
        height, width = eosin.shape
        reach = focus.reach_um + 20
        x0, x1 = max(0, int((focus.x_um - reach) / mpp) - x), min(width, int((focus.x_um + reach) / mpp) - x + 1)
        y0, y1 = max(0, int((focus.y_um - reach) / mpp) - y), min(height, int((focus.y_um + reach) / mpp) - y + 1)
        if x0 >= x1 or y0 >= y1:
            return
        share = focus.share((np.arange(x0, x1) + x) * mpp, (np.arange(y0, y1) + y) * mpp, EDGE_OF_FOCUS_UM)
        view = eosin[y0:y1, x0:x1]
        view[...] = view + share * (BASE_EOSIN + 0.25 * (view.astype(np.float32) - 88) - view)
        ground = haematoxylin[y0:y1, x0:x1]
        np.maximum(ground, (share * BASE_HAEMATOXYLIN).astype(np.uint8), out=ground)


def cut_map(values: np.ndarray, step: float, x: int, y: int, width: int, height: int) -> np.ndarray:
    """Cut a window of level-0 pixels out of a map of a slide, interpolated, float32 (height, width).

    Args:
        values: float32 map; its edge goes on beyond it.
        step: Level-0 pixels in a pixel of the map.
    """
    left, top = int(x / step) - 2, int(y / step) - 2
    rows = np.clip(np.arange(top, int((y + height) / step) + 4), 0, values.shape[0] - 1)
    columns = np.clip(np.arange(left, int((x + width) / step) + 4), 0, values.shape[1] - 1)
    box = (x / step - left, y / step - top, (x + width) / step - left, (y + height) / step - top)
    cut = Image.fromarray(np.ascontiguousarray(values[np.ix_(rows, columns)]))
    return np.array(cut.resize((width, height), Image.Resampling.BILINEAR, box=box))


def _stamp_gland(haematoxylin: np.ndarray, eosin: np.ndarray, gland: Gland, x: int, y: int, turn: int) -> None:
    """Put a gland in the place of the stroma, centred at x, y, turned or mirrored one of eight ways."""
    side = gland.solid.shape[0]
    left, top = x - side // 2, y - side // 2
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + side, eosin.shape[1]), min(top + side, eosin.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    cut = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
    solid, dark, pink = (
        np.rot90(layer if turn < 4 else layer[:, ::-1], turn % 4)[cut]
        for layer in (gland.solid, gland.haematoxylin, gland.eosin)
    )
    np.copyto(haematoxylin[y0:y1, x0:x1], dark, where=solid)
    np.copyto(eosin[y0:y1, x0:x1], pink, where=solid)


def _scaled(concentration: np.ndarray, section: np.ndarray) -> np.ndarray:
    return np.asarray(np.minimum(concentration * section, 255), dtype=np.uint8)


def colour_table(appearance: Appearance) -> np.ndarray:
    """Return the colour of every pair of concentrations, uint8 (65536, 3), indexed by haematoxylin * 256 + eosin.

    Light is absorbed by the law of Beer and Lambert; the scanner's response follows.
    """
    steps = np.arange(256) / FULL
    density = steps[:, None, None] * appearance.haematoxylin + steps[None, :, None] * appearance.eosin  # (256, 256, 3)
    passed = np.exp(-density) ** appearance.gamma
    colours = np.asarray(appearance.glass) * passed
    return np.asarray(np.clip(np.rint(colours), 0, 255), dtype=np.uint8).reshape(-1, 3)
