"""The location module: how likely each cell of a region is worth a closer look."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tnet_cli.model.config import TNetConfig


class Location(nn.Module):
    """Scores the cells of an attention grid from the extractor's map.

    1 x 1 convolutions, a squeeze-and-excitation over the cells for context, the cells' own coordinates, and one logit
    a cell. Source: arXiv:2102.10212, Sec. 3, location module. The softmax over unit-norm logits (``l2``) is that of the
    authors' models; it bounds every probability, so slide models use a plain one.

    Beyond the paper, ``sigmoid`` gives each cell a probability of its own, that there is something in it, in place of
    its share of its region's: a softmax among the cells of one grid cannot say that there is nothing in any of them.
    It drops channels of the map while it learns, since regions that teach are few. A distilled model's
    (``config.response``) has two such outputs a cell: the highest and the mean of a teacher's responses in it.
    """

    coordinates: Tensor

    def __init__(self, config: TNetConfig, channels: int) -> None:
        super().__init__()
        self.softmax = config.location_softmax
        self.dropped = config.dropout if self.softmax == "sigmoid" else 0.0
        self.init = nn.Conv2d(channels, channels, 1)
        self.squeeze = nn.Conv2d(channels, channels // 2, 1)
        self.excite = nn.Conv2d(channels // 2, channels, 1)
        self.row_scaling = nn.Parameter(torch.tensor([1.0, 0.0]))
        self.column_scaling = nn.Parameter(torch.tensor([1.0, 0.0]))
        self.final = nn.Conv2d(channels + 2, channels, 1)
        self.score = nn.Conv2d(channels, 2 if config.response else 1, 1)
        if self.softmax == "temperature":
            self.log_temperature = nn.Parameter(torch.zeros(()))
        self.register_buffer("coordinates", torch.linspace(-1, 1, config.grid), persistent=False)

    def forward(self, location_features: Tensor, allowed: Tensor) -> Tensor:
        """Return the log-probability of each cell among the allowed ones; with a sigmoid of each by itself.

        Args:
            location_features: (N, C, n, n) float32.
            allowed: (N, G) bool; False where the cell must not be attended.

        Returns:
            (N, G) float32, row-major; -inf where not allowed, and everywhere in a row with nothing allowed.
        """
        if self.softmax == "sigmoid":
            seen = functional.dropout2d(location_features, self.dropped, self.training)
            return functional.logsigmoid(self.scores(seen)[:, 0]).masked_fill(~allowed, -torch.inf)
        return masked_log_softmax(self._scaled(self.scores(location_features)[:, 0]), allowed)

    def respond(self, location_features: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is predicted of a teacher's responses in each cell, both (N, G) float32.

        Args: as of ``forward``.

        Returns:
            The logarithm of the highest response, -inf where not allowed, and the mean response, 0 where not allowed.
        """
        top, mean = self.scores(location_features).unbind(dim=1)
        return functional.logsigmoid(top).masked_fill(~allowed, -torch.inf), torch.sigmoid(mean) * allowed

    def scores(self, location_features: Tensor) -> Tensor:
        """Return the raw outputs, (N, 1, G) float32; of a distilled model (N, 2, G): logits of highest and mean."""
        cells = functional.silu(self.init(location_features))
        context = functional.silu(self.squeeze(cells.mean(dim=(2, 3), keepdim=True)))
        cells = cells * torch.sigmoid(self.excite(context))
        number, _, n, _ = cells.shape
        rows = (self.row_scaling[0] * self.coordinates + self.row_scaling[1]).view(1, 1, n, 1).expand(number, 1, n, n)
        columns = (self.column_scaling[0] * self.coordinates + self.column_scaling[1]).view(1, 1, 1, n)
        placed = torch.cat([cells, rows, columns.expand(number, 1, n, n)], dim=1)
        scores: Tensor = self.score(functional.silu(self.final(placed)))
        return scores.flatten(2)  # (N, outputs, G)

    def _scaled(self, logits: Tensor) -> Tensor:
        match self.softmax:
            case "plain" | "sigmoid":
                return logits
            case "temperature":
                return logits * torch.exp(-self.log_temperature)
            case "l2":
                norm = logits.norm(dim=1, keepdim=True)
                # All-zero logits have no direction: they stay zero, so that every cell is as likely.
                return logits / torch.where(norm > 0, norm, torch.ones_like(norm))


def masked_log_softmax(logits: Tensor, allowed: Tensor) -> Tensor:
    """Return the log-softmax over the allowed entries of each row, -inf elsewhere, without NaN in value or gradient.

    Args:
        logits: (N, G) float.
        allowed: (N, G) bool; a row may have none.
    """
    least = torch.finfo(logits.dtype).min
    log_probs = torch.log_softmax(logits.masked_fill(~allowed, least), dim=1)
    return log_probs.masked_fill(~allowed, float("-inf"))


def mix_uniform(cell_log_probs: Tensor, allowed: Tensor, share: float) -> Tensor:
    """Mix a uniform distribution over the allowed cells into each grid's.

    What is drawn from the mixture has the mixture's log-probabilities, so that REINFORCE stays exact for it.

    Args:
        cell_log_probs: (N, G), -inf where not allowed, as is what is returned.
        share: Of the uniform distribution, in [0, 1).
    """
    if share == 0:
        return cell_log_probs
    count = allowed.sum(dim=1, keepdim=True).clamp(min=1)
    uniform = math.log(share) - count.to(cell_log_probs.dtype).log()
    own = cell_log_probs.masked_fill(~allowed, 0.0) + math.log1p(-share)
    return torch.logaddexp(own, uniform.expand_as(own)).masked_fill(~allowed, -torch.inf)


def mean_entropy(cell_log_probs: Tensor, allowed: Tensor) -> Tensor:
    """Return the mean entropy, in nats, of the distributions over the cells of those grids that leave a choice.

    Args:
        cell_log_probs: (N, G), -inf where not allowed; the mean is zero where no grid leaves a choice.
    """
    chosen_from = allowed.sum(dim=1) > 1
    finite = cell_log_probs.masked_fill(~allowed, 0.0)
    entropy = -(finite.exp() * finite).masked_fill(~allowed, 0.0).sum(dim=1)
    return (entropy * chosen_from).sum() / chosen_from.sum().clamp(min=1)
