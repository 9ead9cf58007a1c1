"""TNet: the five modules of the paper, wired together.

Axes: S slides, N regions of a processing level, K features of a slide, G cells of a grid, D features, C classes.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tnet_cli.model.classification import Classification
from tnet_cli.model.config import TNetConfig
from tnet_cli.model.feature import FeatureExtraction, FeatureExtractionByLevel
from tnet_cli.model.location import Location, masked_log_softmax
from tnet_cli.model.position import Position
from tnet_cli.model.traversal import Look
from tnet_cli.model.weighting import EqualWeighting, FeatureWeighting


@dataclass(frozen=True, slots=True, eq=False)
class ClassifierOutput:
    """What the network says of slides.

    Attributes:
        logits: (S, C).
        weights: For each slide (K,): share of each feature; sums to one.
        location_logits: For each slide (K, C): logits of each feature on its own.
        combined: (S, D): the features the logits come from.
    """

    logits: Tensor
    weights: tuple[Tensor, ...]
    location_logits: tuple[Tensor, ...]
    combined: Tensor


class TNet(nn.Module):
    """The Traversal Network.

    Source: arXiv:2102.10212, Sec. 3 and Fig. 2. One network is shared by all processing levels, unless they have
    encoders of their own; what drives it from one to the next is ``tnet_cli.model.traversal``.

    A distilled network has no classifier: its features are those of the coarse encoders as they are and, at the finest
    processing level, its teacher's probabilities, of which ``inference.verdict`` makes an answer.

    Raises:
        ValueError: the backbone cannot be built.
    """

    def __init__(self, config: TNetConfig) -> None:
        super().__init__()
        self.config = config
        self.feature: FeatureExtraction | FeatureExtractionByLevel
        if config.encoders:
            self.feature = FeatureExtractionByLevel(config)
            channels = {str(n): each for n, each in enumerate(self.feature.map_channels) if each is not None}
            self.locations = nn.ModuleDict({number: Location(config, each) for number, each in channels.items()})
        else:
            self.feature = FeatureExtraction(config)
            self.location = Location(config, self.feature.map_channels or 0)
        if not config.is_distilled:
            self._build_classifier(config, self.feature.feature_length)
        self.to(memory_format=torch.channels_last)

    def _build_classifier(self, config: TNetConfig, length: int) -> None:
        self.position = Position(config, length)
        self.weighting = FeatureWeighting(length) if config.weighting else EqualWeighting()
        self.classification = Classification(length, len(config.class_names), config.dropout)

    def look(
        self,
        patches: Tensor,
        positions: Tensor,
        allowed: Tensor | None = None,
        *,
        detach_location: bool = True,
        through: Collection[int] = (),
    ) -> Look:
        """Look at regions: features (N, D) and, when ``allowed`` is given, log-probabilities (N, G).

        Args:
            patches: (N, 3, H, W), uint8 or float in [0, 1].
            positions: (N, 3) int64: y, x, scale.
            allowed: (N, G) bool: cells that may be attended next; None to leave the location module out. At the finest
                processing level, where nothing lies below, all allowed cells are alike.
            detach_location: Keep the location module's gradients out of the extractor, as the paper does.
            through: Numbers of encoders that compute though none of the patches is theirs, as where they exchange the
                statistics of their batches with those of other processes.

        Raises:
            ValueError: patches of a distilled model are of several encoders.
        """
        numbers = self._encoders_of(positions)
        wanted = sorted({*numbers, *through})
        if len(wanted) == 1:
            return self._look(wanted[0], patches, positions, allowed, detach_location=detach_location)
        if self.config.is_distilled:
            raise ValueError("patches of several encoders cannot be looked at in one batch of a distilled model")
        rows = {number: [row for row, each in enumerate(numbers) if each == number] for number in wanted}
        looks = [
            self._look(
                number,
                patches[mine],
                positions[mine],
                None if allowed is None else allowed[mine],
                detach_location=detach_location,
            )
            for number, mine in rows.items()
        ]
        return joined_looks(list(rows.values()), looks)

    def _look(
        self, number: int, patches: Tensor, positions: Tensor, allowed: Tensor | None, *, detach_location: bool
    ) -> Look:
        """Look with one encoder."""
        processing_level = self.config.encoders[number].processing_levels[0] if number else 0
        vectors, location_features = self.feature(patches, processing_level)
        return self._found(number, vectors, location_features, positions, allowed, detach_location=detach_location)

    def look_at_encoded(
        self,
        processing_level: int,
        vectors: Tensor,
        location_features: Tensor | None,
        positions: Tensor,
        allowed: Tensor | None = None,
        *,
        detach_location: bool = True,
    ) -> Look:
        """Look at regions of one processing level of which an encoder of its own has seen the patches.

        Args:
            vectors: (N, D), as ``FeatureExtractionByLevel.encode`` gives them.
            location_features: (N, C, n, n), likewise; None where there are no maps.
            positions: As of ``look``, and so are the other arguments and the result.

        Raises:
            TypeError: one encoder serves all processing levels.
        """
        if not isinstance(self.feature, FeatureExtractionByLevel):
            raise TypeError("one encoder serves all processing levels")
        number, projected = (
            self.config.encoder_number(processing_level),
            self.feature.project(vectors, processing_level),
        )
        return self._found(number, projected, location_features, positions, allowed, detach_location=detach_location)

    def _found(
        self,
        number: int,
        vectors: Tensor,
        location_features: Tensor | None,
        positions: Tensor,
        allowed: Tensor | None,
        *,
        detach_location: bool,
    ) -> Look:
        """Make of vectors and maps what was seen."""
        features = vectors if self.config.is_distilled else self.position(vectors, positions)
        if allowed is None:
            return Look(features=features, cell_log_probs=None)
        if location_features is None:
            alike = masked_log_softmax(features.new_zeros(allowed.shape), allowed)
            return Look(features=features, cell_log_probs=alike)
        location = self._location(number)
        seen = location_features.detach() if detach_location else location_features
        if self.config.response:
            tops, means = location.respond(seen, allowed)
            return Look(features=features, cell_log_probs=tops, cell_means=means)
        return Look(features=features, cell_log_probs=location(seen, allowed))

    def response_logits(self, patches: Tensor, positions: Tensor) -> Tensor:
        """Return the logits of the highest and the mean response of the teacher in each cell, (N, 2, G) float32.

        Args: as of ``look``, all of one encoder; gradients reach the extractor.
        """
        number = self._encoders_of(positions)[0]
        _, location_features = self.feature(patches, self.config.encoders[number].processing_levels[0])
        if location_features is None:
            raise ValueError("responses are predicted where there is a processing level below")
        return self._location(number).scores(location_features)

    def _location(self, number: int) -> Location:
        found = self.locations[str(number)] if self.config.encoders else self.location
        if not isinstance(found, Location):
            raise TypeError(f"the location module of encoder {number} is a {type(found).__name__}")
        return found

    def _encoders_of(self, positions: Tensor) -> list[int]:
        if len(self.config.encoders) < 2:
            return [0]
        return [self.config.encoder_number(scale) for scale in positions[:, 2].tolist()]

    def classify(
        self,
        features: Sequence[Tensor],
        rngs: Sequence[np.random.Generator] | None = None,
        *,
        closest: Sequence[np.ndarray] | None = None,
    ) -> ClassifierOutput:
        """Classify slides from the features (K, D) of everything that was looked at, all processing levels together.

        Args:
            rngs: While training, the source of each slide's dropout, which then does not depend on the others.
            closest: For each slide bool (K,): which features are of the closest processing level that was reached, as
                ``Traversal.closest`` tells; needed where they alone make the verdict (``TNetConfig.verdict_from``).

        Raises:
            ValueError: ``closest`` is needed and not given.
        """
        if self.config.verdict_from == "closest":
            if closest is None:
                raise ValueError("this model judges by what it looked at closest: classify must be told which that is")
            weights = tuple(self._weights_of(each, which) for each, which in zip(features, closest, strict=True))
        else:
            weights = tuple(self.weighting(each) for each in features)
        combined = torch.stack([share @ each for share, each in zip(weights, features, strict=True)])  # (S, D)
        if rngs is None:
            logits, location_logits = self.classification(combined), [self.classification(each) for each in features]
        else:
            drawn = [
                self.classification.draw_kept(len(each) + 1, rng).to(each.device)
                for each, rng in zip(features, rngs, strict=True)
            ]
            logits = self.classification(combined, torch.stack([kept[0] for kept in drawn]))
            location_logits = [
                self.classification(*pair) for pair in zip(features, (k[1:] for k in drawn), strict=True)
            ]
        return ClassifierOutput(logits, weights, tuple(location_logits), combined)

    def _weights_of(self, features: Tensor, counted: np.ndarray) -> Tensor:
        """Return weights (K,) of features (K, D): of those that count as of a slide of these alone, else zero."""
        rows = torch.from_numpy(np.flatnonzero(counted)).to(features.device)
        weights: Tensor = self.weighting(features[rows])
        return weights.new_zeros(len(features)).index_copy(0, rows, weights)


def joined_looks(rows: Sequence[Sequence[int]], looks: Sequence[Look]) -> Look:
    """Put together what was seen of the parts of a batch, none of it of a distilled network.

    Args:
        rows: Of each part in the batch.
        looks: What was seen of it.
    """
    log_probs = [look.cell_log_probs for look in looks if look.cell_log_probs is not None]
    order = [row for mine in rows for row in mine]
    back = torch.tensor(order, dtype=torch.int64, device=looks[0].features.device).argsort()
    return Look(
        features=torch.cat([look.features for look in looks])[back],
        cell_log_probs=torch.cat(log_probs)[back] if log_probs else None,
    )
