"""How a run computes, and whom it tells."""

import torch
from torch import nn

from tnet_cli.learning.state import Precision


def test_mixed_precision_is_of_cuda_alone():
    plain = Precision(torch.device("cpu"), mixed=True)
    assert plain.dtype is None
    with plain.autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float32
