"""Whether features look like those a model was calibrated on: a Gaussian with a few main directions.

Source: the Mahalanobis distance of features as a measure of foreign input is from Lee et al., "A Simple Unified
Framework for Detecting Out-of-Distribution Samples", NeurIPS 2018, Sec. 2.1; the covariance is that of probabilistic
principal components, Tipping and Bishop, 1999, Sec. 3: free along the main directions, the same along all others.
"""

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

MOST_DIRECTIONS = 160
FEATURES_A_DIRECTION = 8
"""Least number of features for each main direction."""

LEAST_VARIANCE = 1e-8


@dataclass(frozen=True, slots=True, eq=False)
class FeatureDomain:
    """The Gaussian; r main directions of D.

    Attributes:
        mean: float32 (D,).
        directions: float32 (r, D), each of unit length divided by the standard deviation along it.
        rest: float32 (), standard deviation along every other direction.
    """

    mean: Tensor
    directions: Tensor
    rest: Tensor
    _wide: tuple[Tensor, Tensor, Tensor, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Prepare in float64 what every distance needs: mean, directions, their squared lengths, the other variance."""
        directions = self.directions.double()
        wide = self.mean.double(), directions, directions.square().sum(dim=1), self.rest.double().square()
        object.__setattr__(self, "_wide", wide)

    @classmethod
    def fit(cls, features: Tensor) -> Self:
        """Fit mean and covariance to features (N, D).

        Raises:
            ValueError: there are fewer than two.
        """
        if len(features) < 2:
            raise ValueError(f"a covariance needs at least two features, not {len(features)}")
        wide = features.double()
        mean = wide.mean(dim=0)
        _, spread, axes = torch.linalg.svd(wide - mean, full_matrices=False)
        variances = spread.square() / (len(wide) - 1)
        length = wide.shape[1]
        # A direction learnt from few features fits them alone; one at least is left to the rest.
        count = min(MOST_DIRECTIONS, length - 1, len(wide) // FEATURES_A_DIRECTION)
        rest = (variances[count:].sum() / (length - count)).clamp(min=LEAST_VARIANCE)
        deviations = variances[:count].clamp(min=float(rest)).sqrt()
        return cls(mean=mean.float(), directions=(axes[:count] / deviations[:, None]).float(), rest=rest.sqrt().float())

    def distances(self, features: Tensor) -> Tensor:
        """Return the Mahalanobis distance of each of the features (N, D) over the square root of D, float64 (N,).

        It is about one for features of the Gaussian's own kind.
        """
        mean, directions, squared_lengths, rest_variance = self._wide
        away = features.double() - mean
        along = (away @ directions.T).square()  # (N, r), in variances
        inside = (along / squared_lengths).sum(dim=1)
        outside = (away.square().sum(dim=1) - inside).clamp(min=0) / rest_variance
        return ((along.sum(dim=1) + outside) / features.shape[1]).sqrt()

    def state(self) -> dict[str, Tensor]:
        """Return its tensors by name, as a model file holds them."""
        return {"mean": self.mean, "directions": self.directions, "rest": self.rest}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], length: int) -> Self:
        """Make it of its tensors, as ``state`` gives them, for a network whose features are so long.

        Raises:
            ValueError: they are not those of a Gaussian over such features.
        """
        if set(state) != {"mean", "directions", "rest"}:
            raise ValueError(f"expected mean, directions and rest, found {', '.join(sorted(state)) or 'nothing'}")
        mean, directions, rest = (state[name].float() for name in ("mean", "directions", "rest"))
        if mean.shape != (length,) or directions.shape[1:] != (length,) or rest.shape != ():
            raise ValueError(f"its shapes are not those of features of length {length}")
        return cls(mean=mean, directions=directions, rest=rest)
