"""Random small PyTorch modules from a grammar: EMG [batch, 40 rows, 4 channels] in, angles [batch, 40 rows, 3] out.

`make(seed)` builds one module; `LAYERS` and `COMBINATORS` are what it is built from.
"""

import random

import torch
from torch import Tensor, nn

from .base import CHANNELS, JOINTS, ROWS, Formula, Rng
from .combinators import COMBINATORS, DETACHING, LAYERS, Maker

__all__ = ["CHANNELS", "COMBINATORS", "JOINTS", "LAYERS", "ROWS", "RandomModule", "make"]

PARAMETERS_AT_MOST = 1500
CYCLE = 60  # any 60 consecutive seeds use every layer
HEADS = ("linear", "linear", "linear_no_bias", "conv1d_kernel_1", "conv1d", "matmul_plus_bias")


class RandomModule(nn.Module):
    """A sequence of random pieces; `names` lists the layers and combinators in them, outermost first."""

    def __init__(self, pieces: list[nn.Module], names: list[str]) -> None:
        super().__init__()
        self.pieces = nn.Sequential(*pieces)
        self.names = tuple(names)
        self.uses_detach = not DETACHING.isdisjoint(names)

    def forward(self, emg: Tensor) -> Tensor:
        """Angles [batch, 40, 3] of EMG [batch, 40, 4]."""
        return self.pieces(emg)


def make(seed: int) -> RandomModule:
    """The module of a seed: always the same structure and the same initial weights."""
    rng = random.Random(seed)
    due = list(LAYERS)[seed % CYCLE :: CYCLE]
    rng.shuffle(due)
    with torch.random.fork_rng(devices=[]):
        while True:
            torch.manual_seed(seed)
            module = _draw(rng, list(due))
            trained = any(parameter.requires_grad for parameter in module.parameters())
            if trained and sum(parameter.numel() for parameter in module.parameters()) <= PARAMETERS_AT_MOST:
                _perturb(module)
                return module


def _draw(rng: Rng, due: list[str]) -> RandomModule:
    """A module of 2 to 6 pieces, or a few more while layers are due."""
    maker = Maker(rng, due)
    pieces: list[nn.Module] = []
    width, count = CHANNELS, rng.randint(1, 5)
    while len(pieces) < count or maker.due:
        following = width if rng.random() < 0.5 else maker.width()
        pieces.append(maker.part(width, following))
        width = following
        if rng.random() < 0.15:
            pieces.append(nn.Tanh())
    pieces.append(_head(maker, width))
    return RandomModule(pieces, maker.names)


def _head(maker: Maker, width: int) -> nn.Module:
    """The last piece, from a width to the joints."""
    if width > JOINTS and maker.rng.random() < 0.1:
        maker.names.append("crop")
        return Formula(lambda x: x[..., :JOINTS])
    name = maker.rng.choice(HEADS)
    maker.names.append(name)
    return LAYERS[name].build(maker.rng, width, JOINTS)


@torch.no_grad()
def _perturb(module: nn.Module) -> None:
    """Move what starts at zero or one off it, running statistics too."""
    for parameter in module.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            mean, variance = part.get_buffer("running_mean"), part.get_buffer("running_var")
            mean.add_(0.1 * torch.randn_like(mean))
            variance.mul_(0.75 + 0.5 * torch.rand_like(variance))
