"""What the layers of the grammar are made of."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ROWS = 40
CHANNELS = 4
JOINTS = 3

Rng = random.Random
Part = nn.Module | nn.Parameter | Tensor


@dataclass(frozen=True)
class Layer:
    """A layer of the grammar, built from input and output widths; one that `keeps` its width needs them equal."""

    build: Callable[[Rng, int, int], nn.Module]
    keeps: bool = False


class Formula(nn.Module):
    """fn(x, **parts), where a part is a parameter, a submodule or, as a plain tensor, a buffer."""

    def __init__(self, fn: Callable[..., Tensor], **parts: Part) -> None:
        super().__init__()
        self.fn = fn
        self.part_names = tuple(parts)
        for name, part in parts.items():
            if isinstance(part, nn.Module | nn.Parameter):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x, **{name: getattr(self, name) for name in self.part_names})


def same_width(build: Callable[[Rng, int], nn.Module]) -> Layer:
    """A layer that keeps its width."""
    return Layer(lambda rng, d_in, d_out: build(rng, d_in), keeps=True)


def function(fn: Callable[[Tensor], Tensor]) -> Layer:
    """A layer without parameters that keeps its width."""
    return same_width(lambda rng, width: Formula(fn))


def channels_first(module: nn.Module) -> nn.Module:
    """A module of [B, D, T] tensors, applied to [B, T, D]."""
    return Formula(lambda x, inner: inner(x.transpose(1, 2)).transpose(1, 2), inner=module)


def normal(*shape: int, scale: float = 0.5, about: float = 0.0) -> nn.Parameter:
    """A parameter with normal values."""
    return nn.Parameter(about + scale * torch.randn(shape))


def matrix(d_out: int, d_in: int) -> nn.Parameter:
    """A weight like that of a linear layer."""
    return normal(d_out, d_in, scale=1 / math.sqrt(d_in))
