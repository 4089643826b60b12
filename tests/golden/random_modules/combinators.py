"""Combinators: modules around one or two parts, which a maker draws."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import attention, convolutions, functions, recurrence, rows, weights
from .base import ROWS, Formula, Layer, Rng, matrix, normal

LAYERS: dict[str, Layer] = {
    **weights.LAYERS,
    **convolutions.LAYERS,
    **recurrence.LAYERS,
    **attention.LAYERS,
    **functions.LAYERS,
    **rows.LAYERS,
}
WIDTHS = (3, 8)
DEPTH = 2  # combinators inside combinators


class Maker:
    """Draws the parts of one module."""

    def __init__(self, rng: Rng, due: list[str]) -> None:
        self.rng = rng
        self.due = due
        self.names: list[str] = []
        self.depth = 0

    def width(self) -> int:
        """A random width."""
        return self.rng.randint(*WIDTHS)

    def layer(self, d_in: int, d_out: int) -> nn.Module:
        """A layer that is still due, or else a random one."""
        name = self.due.pop() if self.due else self.rng.choice(list(LAYERS))
        self.names.append(name)
        layer = LAYERS[name]
        if not layer.keeps or d_in == d_out:
            return layer.build(self.rng, d_in, d_out)
        self.names.append("linear")
        if self.rng.random() < 0.3:
            return nn.Sequential(nn.Linear(d_in, d_out), layer.build(self.rng, d_out, d_out))
        return nn.Sequential(layer.build(self.rng, d_in, d_in), nn.Linear(d_in, d_out))

    def part(self, d_in: int, d_out: int) -> nn.Module:
        """A layer, or at times a combinator."""
        if self.depth == DEPTH or self.rng.random() < (0.35 if self.depth == 0 else 0.8):
            return self.layer(d_in, d_out)
        name = self.rng.choice(list(COMBINATORS))
        self.names.append(name)
        self.depth += 1
        module = COMBINATORS[name](self, d_in, d_out)
        self.depth -= 1
        return module


def residual(maker: Maker, d_in: int, d_out: int) -> nn.Module:
    """x + f(x), and then to the width."""
    inner = Formula(lambda x, f: x + f(x), f=maker.part(d_in, d_in))
    return inner if d_in == d_out else nn.Sequential(inner, nn.Linear(d_in, d_out))


def residual_scaled(maker: Maker, d_in: int, d_out: int) -> nn.Module:
    """A projection of x, plus alpha times f(x)."""
    return Formula(
        lambda x, f, skip, alpha: skip(x) + alpha * f(x),
        f=maker.part(d_in, d_out),
        skip=nn.Linear(d_in, d_out, bias=False),
        alpha=normal(1),
    )


def difference(maker: Maker, d_in: int, d_out: int) -> nn.Module:
    """f(x) - g(x) / 2."""
    return Formula(
        lambda x, f, g: torch.sub(f(x), g(x), alpha=0.5), f=maker.part(d_in, d_out), g=maker.part(d_in, d_out)
    )


def concat(maker: Maker, d_in: int, d_out: int) -> nn.Module:
    """[f(x), g(x)], and then to the width."""
    left, right = maker.rng.randint(3, 4), maker.rng.randint(3, 4)
    mix = nn.Identity() if left + right == d_out else nn.Linear(left + right, d_out)
    return Formula(
        lambda x, f, g, mix: mix(torch.cat([f(x), g(x)], dim=-1)),
        f=maker.part(d_in, left),
        g=maker.part(d_in, right),
        mix=mix,
    )


def gate(maker: Maker, d_in: int, d_out: int) -> nn.Module:
    """f(x) * sigmoid(g(x))."""
    return Formula(lambda x, f, g: f(x) * torch.sigmoid(g(x)), f=maker.part(d_in, d_out), g=maker.part(d_in, d_out))


def blend(maker: Maker, d_in: int, d_out: int) -> nn.Module:
    """A learned blend of f(x) and g(x)."""

    def forward(x: Tensor, f: nn.Module, g: nn.Module, share: Tensor) -> Tensor:
        share = torch.sigmoid(share)
        return share * f(x) + (1 - share) * g(x)

    return Formula(forward, f=maker.part(d_in, d_out), g=maker.part(d_in, d_out), share=normal(d_out))


def stack(maker: Maker, d_in: int, d_out: int) -> nn.Module:
    """The stack of f(x) and g(x), weighted by a softmax of two parameters."""

    def forward(x: Tensor, f: nn.Module, g: nn.Module, weights: Tensor) -> Tensor:
        return (torch.stack([f(x), g(x)], dim=-1) * weights.softmax(dim=0)).sum(dim=-1)

    return Formula(forward, f=maker.part(d_in, d_out), g=maker.part(d_in, d_out), weights=normal(2))


def greater(maker: Maker, d_in: int, d_out: int) -> nn.Module:
    """The greater of f(x) and g(x)."""
    return Formula(
        lambda x, f, g, bias: torch.maximum(f(x), g(x) + bias),
        f=maker.part(d_in, d_out),
        g=maker.part(d_in, d_out),
        bias=normal(d_out),
    )


def shared_twice(maker: Maker, d_in: int, d_out: int) -> nn.Module:
    """f(g(f(x))), and then to the width."""
    return Formula(
        lambda x, f, g, mix: mix(f(torch.tanh(g(f(x))))),
        f=maker.layer(d_in, d_in),
        g=maker.layer(d_in, d_in),
        mix=nn.Identity() if d_in == d_out else nn.Linear(d_in, d_out),
    )


def shared_branches(maker: Maker, d_in: int, d_out: int) -> nn.Module:
    """f(x) + f of x one row later."""
    return Formula(lambda x, f: f(x) + 0.5 * f(x.roll(-1, dims=1)), f=maker.layer(d_in, d_out))


def tied_linear(maker: Maker, d_in: int, d_out: int) -> nn.Module:
    """Two linear layers of one weight, around a layer."""
    before, after = nn.Linear(d_in, d_in), nn.Linear(d_in, d_in)
    after.weight = before.weight
    return nn.Sequential(before, maker.layer(d_in, d_in), after, nn.Tanh(), nn.Linear(d_in, d_out))


def tied_transpose(maker: Maker, d_in: int, d_out: int) -> nn.Module:
    """A weight used on the way in and, transposed, on the way out."""
    width = maker.width()

    def forward(x: Tensor, weight: Tensor, f: nn.Module, mix: nn.Module) -> Tensor:
        return mix(F.linear(f(F.linear(x, weight)), weight.t()))

    mix = nn.Linear(d_in, d_out, bias=False)
    return Formula(forward, weight=matrix(width, d_in), f=maker.layer(width, width), mix=mix)


def tied_convolution(maker: Maker, d_in: int, d_out: int) -> nn.Module:
    """A linear layer and a convolution of kernel 1 with one weight, on either side of a layer."""

    def forward(x: Tensor, linear: nn.Linear, f: nn.Module, mix: nn.Module) -> Tensor:
        y = torch.tanh(f(linear(x)))
        return mix(F.conv1d(y.transpose(1, 2), linear.weight.unsqueeze(-1)).transpose(1, 2))

    linear, mix = nn.Linear(d_in, d_in), nn.Linear(d_in, d_out)
    return Formula(forward, linear=linear, f=maker.layer(d_in, d_in), mix=mix)


def detach_branch(maker: Maker, d_in: int, d_out: int) -> nn.Module:
    """f(x) plus g(x), g untrained."""
    return Formula(lambda x, f, g: f(x) + g(x).detach(), f=maker.part(d_in, d_out), g=maker.part(d_in, d_out))


def detach_input(maker: Maker, d_in: int, d_out: int) -> nn.Module:
    """f(x) gated by g of the detached x."""
    return Formula(
        lambda x, f, g: f(x) * torch.sigmoid(g(x.detach())), f=maker.part(d_in, d_out), g=nn.Linear(d_in, d_out)
    )


def add_buffer(maker: Maker, d_in: int, d_out: int) -> nn.Module:
    """f(x) plus a constant."""
    shape = maker.rng.choice([(d_out,), (ROWS, d_out), (1, ROWS, 1)])
    return Formula(lambda x, f, constant: f(x) + constant, f=maker.part(d_in, d_out), constant=0.3 * torch.randn(shape))


def scale_by_parameter(maker: Maker, d_in: int, d_out: int) -> nn.Module:
    """f(x) times a parameter."""
    shape = maker.rng.choice([(), (d_out,), (1, d_out), (ROWS, d_out)])
    return Formula(lambda x, f, scale: f(x) * scale, f=maker.part(d_in, d_out), scale=normal(*shape, about=1.0))


def split_features(maker: Maker, d_in: int, d_out: int) -> nn.Module:
    """The features of f(x) in two parts, one changed by the other."""
    low = maker.rng.randint(1, d_out - 1)

    def forward(x: Tensor, f: nn.Module, mix: nn.Module) -> Tensor:
        a, b = torch.split(f(x), [low, d_out - low], dim=-1)
        return torch.cat([b + torch.tanh(mix(a)), a], dim=-1)

    return Formula(forward, f=maker.part(d_in, d_out), mix=nn.Linear(low, d_out - low))


def chunk_rows(maker: Maker, d_in: int, d_out: int) -> nn.Module:
    """The rows of f(x) in two halves, each with its own scale and put back the other way round."""

    def forward(x: Tensor, f: nn.Module, scales: Tensor) -> Tensor:
        early, late = torch.chunk(f(x), 2, dim=1)
        return torch.cat([late * scales[0], early * scales[1]], dim=1)

    return Formula(forward, f=maker.part(d_in, d_out), scales=normal(2, d_out, about=1.0))


def transposed(maker: Maker, d_in: int, d_out: int) -> nn.Module:
    """f(x) scaled and shifted as [B, D, T]."""

    def forward(x: Tensor, f: nn.Module, gain: Tensor, bias: Tensor) -> Tensor:
        return (f(x).permute(0, 2, 1) * gain + bias).permute(0, 2, 1)

    return Formula(
        forward, f=maker.part(d_in, d_out), gain=normal(d_out, 1, about=1.0), bias=normal(1, ROWS, scale=0.2)
    )


def flipped(maker: Maker, d_in: int, d_out: int) -> nn.Module:
    """f on the rows in reverse."""
    return Formula(lambda x, f: f(x.flip(1)).flip(1), f=maker.part(d_in, d_out))


def rolled(maker: Maker, d_in: int, d_out: int) -> nn.Module:
    """f on the rows rolled by 0, 1 or -1, rolled back."""
    shift = maker.rng.choice([-1, 0, 1])
    return Formula(lambda x, f: torch.roll(f(torch.roll(x, shift, dims=1)), -shift, dims=1), f=maker.part(d_in, d_out))


COMBINATORS: dict[str, Callable[[Maker, int, int], nn.Module]] = {
    "residual": residual,
    "residual_scaled": residual_scaled,
    "difference": difference,
    "concat": concat,
    "gate": gate,
    "blend": blend,
    "stack": stack,
    "greater": greater,
    "shared_twice": shared_twice,
    "shared_branches": shared_branches,
    "tied_linear": tied_linear,
    "tied_transpose": tied_transpose,
    "tied_convolution": tied_convolution,
    "detach_branch": detach_branch,
    "detach_input": detach_input,
    "add_buffer": add_buffer,
    "scale_by_parameter": scale_by_parameter,
    "split_features": split_features,
    "chunk_rows": chunk_rows,
    "transposed": transposed,
    "flipped": flipped,
    "rolled": rolled,
}
DETACHING = {"detach_branch", "detach_input"}
