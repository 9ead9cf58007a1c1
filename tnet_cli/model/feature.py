"""The feature extraction module: a patch becomes one vector, and a map of what is where in it."""

from torch import Tensor, nn
from torch.nn import functional

from tnet_cli.model.config import TNetConfig
from tnet_cli.model.encoder import Encoder


class FeatureExtraction(Encoder):
    """One encoder, shared by all processing levels, as the paper has it.

    Source: arXiv:2102.10212, Sec. 3, feature extraction module.

    Raises:
        ValueError: the backbone cannot be built.
    """

    def __init__(self, config: TNetConfig) -> None:
        super().__init__(config.encoder_at(0))
        self.config = config

    def feature_length_at(self, processing_level: int) -> int:  # noqa: ARG002 (alike at each)
        """Return the length of the vectors of a processing level."""
        return self.feature_length

    def forward(self, patches: Tensor, processing_level: int = 0) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Extract features.

        Args:
            patches: (N, 3, H, W), uint8 or float in [0, 1]; resized to ``base_px`` when it is of another size.
            processing_level: Of the patches; all are alike.

        Returns:
            Vectors (N, D) float32 and location features (N, C, n, n) float32.

        Raises:
            ValueError: ``location_slice`` does not give n x n cells of this backbone's map.
        """
        vectors, maps = self.encode(patches)
        if maps is None:
            raise ValueError(f"backbone {self.config.backbone} has no map")
        return vectors, cells_of_map(maps, self.config)


class FeatureExtractionByLevel(nn.Module):
    """Encoders of their own for processing levels, brought to one length by linear projections.

    The vectors of a teacher, which are its probabilities, stay as they are, and so do those of the encoders above it.

    Attributes:
        feature_length: Of all vectors; of a distilled model those of the coarse encoders.
        map_channels: Of the maps of each encoder; None of one that has none.

    Raises:
        ValueError: an encoder cannot be built.
    """

    def __init__(self, config: TNetConfig) -> None:
        super().__init__()
        self.config = config
        last = config.processing_levels - 1
        # The finest view has no cells to locate.
        encoders = [Encoder(each, needs_map=each.processing_levels != (last,)) for each in config.encoders]
        self.encoders = nn.ModuleList(encoders)
        self.map_channels = [each.map_channels for each in encoders]
        lengths = [each.feature_length for each in encoders]
        # Where lengths differ, the others are brought to that of the finest.
        self.feature_length = lengths[0] if config.is_distilled else config.feature_length or lengths[-1]
        self.projections = nn.ModuleDict()
        if not config.is_distilled:
            for number, length in enumerate(lengths):
                if length != self.feature_length:
                    self.projections[str(number)] = nn.Linear(length, self.feature_length)

    @property
    def backbone(self) -> nn.Module:
        """The network of the first encoder, which the configuration's ``backbone`` names."""
        return self.encoder(0).backbone

    def feature_length_at(self, processing_level: int) -> int:
        """Return the length of the vectors of a processing level."""
        number = self.config.encoder_number(processing_level)
        return self.encoder(number).feature_length if self.config.is_distilled else self.feature_length

    def encoder(self, number: int) -> Encoder:
        """Return an encoder by its number."""
        found = self.encoders[number]
        if not isinstance(found, Encoder):
            raise TypeError(f"encoder {number} is a {type(found).__name__}")
        return found

    def forward(self, patches: Tensor, processing_level: int) -> tuple[Tensor, Tensor | None]:
        """Extract features of patches (N, 3, H, W) of one processing level, as ``FeatureExtraction`` does.

        Returns:
            Vectors (N, D) float32, and location features (N, C, n, n) float32 where the encoder has maps.
        """
        vectors, cells = self.encode(patches, processing_level)
        return self.project(vectors, processing_level), cells

    def encode(self, patches: Tensor, processing_level: int) -> tuple[Tensor, Tensor | None]:
        """Return what ``forward`` does, the vectors as the encoder gives them, of its own length."""
        vectors, maps = self.encoder(self.config.encoder_number(processing_level)).encode(patches)
        return vectors, None if maps is None else cells_of_map(maps, self.config)

    def project(self, vectors: Tensor, processing_level: int) -> Tensor:
        """Bring the vectors of a processing level's encoder to the length of all, (N, D)."""
        number = str(self.config.encoder_number(processing_level))
        projected: Tensor = self.projections[number](vectors) if number in self.projections else vectors
        return projected


def cells_of_map(maps: Tensor, config: TNetConfig) -> Tensor:
    """Bring maps (N, C, h, w) to the cells of the attention grid, (N, C, n, n).

    Raises:
        ValueError: ``location_slice`` does not give n x n cells of the map.
    """
    n = config.grid
    match config.location_pool:
        case "mean":
            return functional.adaptive_avg_pool2d(maps, n)
        case "max":
            return functional.adaptive_max_pool2d(maps, n)
        case "slice":
            first, step, *stop = config.location_slice or (0, 1)
            taken = slice(first, stop[0] if stop else None, step)
            cells = maps[:, :, taken, taken]
            if cells.shape[2:] != (n, n):
                raise ValueError(f"a slice of {first}::{step} gives {tuple(cells.shape[2:])} cells, not {n} x {n}")
            return cells
