"""Gradients that need care: detach, no_grad, zeros under roots and norms, kinks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import CHANNELS, JOINTS, Network


class StopGradient(nn.Module):
    """A gate that reads the features without sending gradient back, and a normalization by a detached maximum."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS, width)
        self.gate = nn.Linear(width, width)
        self.head = nn.Linear(width, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.embed(x))
        x = x * torch.sigmoid(self.gate(x.detach()))
        x = x / (1e-3 + x.detach().abs().amax(dim=1, keepdim=True))
        return self.head(x)


class StraightThrough(nn.Module):
    """Quantized weights and activations, x + (round(x) - x).detach(), and binary hidden units."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS, width)
        self.hidden = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.tensor(8.0))
        self.head = nn.Linear(width, JOINTS)

    def quantize(self, x: Tensor) -> Tensor:
        x = x * self.scale
        return (x + (torch.round(x) - x).detach()) / self.scale

    def forward(self, x: Tensor) -> Tensor:
        x = self.quantize(torch.tanh(self.embed(x)))
        x = F.linear(x, self.quantize(self.hidden.weight), self.hidden.bias)
        soft = torch.sigmoid(x)
        return self.head((soft > 0.5).to(soft.dtype) - soft.detach() + soft)


class VectorQuantizer(nn.Module):
    """VQ-VAE lookup: nearest codes by argmin, straight-through to the encoder; the codes are read directly too."""

    def __init__(self, width: int = 4, codes: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Linear(CHANNELS, width)
        self.codebook = nn.Embedding(codes, width)
        self.head = nn.Linear(width, JOINTS)
        self.residual = nn.Linear(width, JOINTS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        z = self.encoder(x)
        weight = self.codebook.weight
        distance = z.square().sum(-1, keepdim=True) - 2 * z @ weight.t() + weight.square().sum(-1)
        code = self.codebook(distance.argmin(dim=-1))
        return self.head(z + (code - z).detach()) + self.residual(code)


class SpectralNorm(nn.Module):
    """Weight divided by its largest singular value: power iteration from a buffer, vectors without gradient."""

    start: Tensor

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS, width)
        self.weight = nn.Parameter(torch.randn(width, width))
        self.head = nn.Linear(width, JOINTS)
        self.register_buffer("start", F.normalize(torch.randn(width), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        u, weight = self.start, self.weight.detach()
        for _ in range(3):
            v = F.normalize(weight.t().mv(u), dim=0)
            u = F.normalize(weight.mv(v), dim=0)
        sigma = torch.dot(u, self.weight.mv(v))
        return self.head(torch.relu(F.linear(self.embed(x), self.weight / sigma)))


class DetachedParameter(nn.Module):
    """Parameters beside their own detach(): rows by a detached largest weight, a gain of exactly one with gradient."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, CHANNELS))
        self.gain = nn.Parameter(torch.rand(width) + 0.5)
        self.head = nn.Linear(width, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight / self.weight.detach().abs().amax(dim=1, keepdim=True)
        gain = self.gain / self.gain.detach()
        return self.head(gain * torch.tanh(F.linear(x, weight)))


class NoGrad(nn.Module):
    """Features divided by their own level over the window, which torch.no_grad() keeps out of the gradient."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS, width)
        self.head = nn.Linear(width, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            level = self.embed(x).abs().mean(dim=1, keepdim=True)
        return self.head(torch.tanh(self.embed(x) / (level + 0.1)))


class SafeSqrt(nn.Module):
    """Square root of rectified features, its argument replaced by one where it is zero."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS, width)
        self.head = nn.Linear(width, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        power = F.relu(self.embed(x))
        positive = power > 0
        root = torch.where(positive, torch.where(positive, power, 1.0).sqrt(), 0.0)
        return self.head(root)


class ZeroNorm(nn.Module):
    """Norms over few rectified features (often all zero), F.normalize of them, and a zero-initialized offset's norm."""

    def __init__(self, groups: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS, 2 * groups)
        self.offset = nn.Parameter(torch.zeros(groups))
        self.head = nn.Linear(3 * groups, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        pairs = F.relu(self.embed(x)).unflatten(-1, (-1, 2))
        length = pairs.norm(dim=-1)
        direction = F.normalize(pairs, dim=-1).flatten(-2)
        length = length * (1 + self.offset.norm()) + self.offset
        return self.head(torch.cat([length, direction], dim=-1))


class WhereClamp(nn.Module):
    """Dead zone by torch.where, clamps, absolute values, minimum and maximum against learned bounds."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.full((CHANNELS,), 0.3))
        self.embed = nn.Linear(CHANNELS, width)
        self.floor = nn.Parameter(torch.full((width,), -0.5))
        self.ceiling = nn.Parameter(torch.ones(width))
        self.head = nn.Linear(width, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        threshold = self.threshold.abs()
        x = torch.where(x.abs() > threshold, x - threshold * x.sign(), 0.01 * x)
        x = self.embed(x.clamp(-2.0, 2.0))
        x = torch.minimum(torch.maximum(x, self.floor), self.ceiling)
        return self.head(x).clamp(min=-1.5).clamp(max=1.5)


NETWORKS = {
    "stop_gradient": Network(StopGradient, note="detach"),
    "straight_through": Network(StraightThrough, note="detach"),
    "vector_quantizer": Network(VectorQuantizer, note="detach"),
    "spectral_norm": Network(SpectralNorm, note="detach"),
    "detached_parameter": Network(DetachedParameter, note="detach"),
    "no_grad": Network(NoGrad, note="no_grad"),
    "safe_sqrt": Network(SafeSqrt),
    "zero_norm": Network(ZeroNorm),
    "where_clamp": Network(WhereClamp),
}
