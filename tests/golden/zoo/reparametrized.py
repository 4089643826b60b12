"""Weights computed from other parameters: normalized, low-rank, frozen, positive, splines."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from .base import CHANNELS, JOINTS, Network


class NormalizedWeight(nn.Module):
    """Manual w / w.norm(), a weight-norm parametrization, and a cosine head with a learned temperature."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, CHANNELS))
        self.gain = nn.Parameter(torch.ones(width))
        self.hidden = weight_norm(nn.Linear(width, width))
        self.prototypes = nn.Parameter(torch.randn(JOINTS, width))
        self.temperature = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight / self.weight.norm(dim=1, keepdim=True)
        x = torch.tanh(self.gain * F.linear(x, weight))
        x = F.gelu(self.hidden(x))
        cosine = F.linear(F.normalize(x, dim=-1), F.normalize(self.prototypes, dim=-1))
        return self.temperature.exp() * cosine


class WeightStandardized(nn.Module):
    """Convolution with standardized weights (mean zero, variance one a filter), group norm and centered ReLU."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv1d(CHANNELS, width, 3, padding=1)
        self.conv = nn.Conv1d(width, width, 5, padding=2)
        self.norm = nn.GroupNorm(2, width)
        self.head = nn.Conv1d(width, JOINTS, 1)

    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(self.conv.weight, dim=(1, 2), keepdim=True, correction=0)
        weight = (self.conv.weight - mean) * torch.rsqrt(var + 1e-5)
        x = F.conv1d(F.relu(self.stem(x)), weight, self.conv.bias, padding=2)
        return self.head(F.relu(self.norm(x)))


class PositiveWeight(nn.Module):
    """Muscle-like: softplus filters on the rectified signal, a cumulative-softmax ladder of thresholds."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.filters = nn.Parameter(torch.randn(width, CHANNELS, 5))
        self.steps = nn.Parameter(torch.zeros(width))
        self.head = nn.Conv1d(width, JOINTS, 1)

    def forward(self, x: Tensor) -> Tensor:
        envelope = F.conv1d(x.abs(), F.softplus(self.filters) / 10, padding="same")
        thresholds = self.steps.softmax(dim=0).cumsum(dim=0).view(1, -1, 1)
        return self.head(torch.minimum(F.relu(envelope - thresholds), envelope.new_tensor(2.0)))


class Lora(nn.Module):
    """Frozen pretrained layers with trained low-rank updates."""

    def __init__(self, hidden: int = 12, rank: int = 2) -> None:
        super().__init__()
        self.first = nn.Linear(CHANNELS, hidden)
        self.second = nn.Linear(hidden, JOINTS)
        for parameter in (*self.first.parameters(), *self.second.parameters()):
            parameter.requires_grad = False
        self.a1 = nn.Parameter(torch.randn(rank, CHANNELS) / CHANNELS**0.5)
        self.b1 = nn.Parameter(torch.zeros(hidden, rank))
        self.a2 = nn.Parameter(torch.randn(rank, hidden) / hidden**0.5)
        self.b2 = nn.Parameter(torch.zeros(JOINTS, rank))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x) + 2.0 * (x @ self.a1.T @ self.b1.T))
        return F.linear(x, self.second.weight + 2.0 * self.b2 @ self.a2, self.second.bias)


class FrozenStem(nn.Module):
    """A frozen convolution and batch norm (affine parts frozen, running averages not) below a trained head."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(CHANNELS, width, 5, padding=2), nn.BatchNorm1d(width), nn.ReLU())
        self.stem.requires_grad_(False)
        self.head = nn.Sequential(nn.Conv1d(width, width, 3, padding=1), nn.ReLU(), nn.Conv1d(width, JOINTS, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x))


class SplineLinear(nn.Module):
    """KAN layer: a cubic B-spline a pair of features, plus a SiLU base; coefficients [out, in, basis]."""

    knots: Tensor

    def __init__(self, inputs: int, outputs: int, intervals: int = 4, order: int = 3) -> None:
        super().__init__()
        self.order = order
        self.base = nn.Linear(inputs, outputs, bias=False)
        self.coefficients = nn.Parameter(0.1 * torch.randn(outputs, inputs, intervals + order))
        step = 4 / intervals
        self.register_buffer("knots", torch.arange(-order, intervals + order + 1) * step - 2)

    def basis(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(-1)
        knots = self.knots
        basis = ((x >= knots[:-1]) & (x < knots[1:])).to(x.dtype)
        for k in range(1, self.order + 1):
            left = (x - knots[: -k - 1]) / (knots[k:-1] - knots[: -k - 1])
            right = (knots[k + 1 :] - x) / (knots[k + 1 :] - knots[1:-k])
            basis = left * basis[..., :-1] + right * basis[..., 1:]
        return basis

    def forward(self, x: Tensor) -> Tensor:
        return self.base(F.silu(x)) + torch.einsum("btik,oik->bto", self.basis(x), self.coefficients)


class KanSpline(nn.Module):
    """Two KAN layers with cubic B-splines by the Cox-de Boor recursion."""

    def __init__(self, hidden: int = 5) -> None:
        super().__init__()
        self.layers = nn.Sequential(SplineLinear(CHANNELS, hidden), SplineLinear(hidden, JOINTS))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class KanRbf(nn.Module):
    """FastKAN: layer norm, Gaussian bumps at buffered centers with learned widths, and an einsum."""

    centers: Tensor

    def __init__(self, hidden: int = 6, bumps: int = 5) -> None:
        super().__init__()
        sizes = [CHANNELS, hidden, JOINTS]
        self.norms = nn.ModuleList(nn.LayerNorm(size) for size in sizes[:-1])
        self.widths = nn.ParameterList(nn.Parameter(torch.ones(size, 1)) for size in sizes[:-1])
        self.coefficients = nn.ParameterList(
            nn.Parameter(torch.randn(a, b, bumps) / (a * bumps) ** 0.5) for a, b in pairwise(sizes)
        )
        self.register_buffer("centers", torch.linspace(-2, 2, bumps))

    def forward(self, x: Tensor) -> Tensor:
        for norm, width, coefficients in zip(self.norms, self.widths, self.coefficients, strict=True):
            bumps = torch.exp(-(((norm(x).unsqueeze(-1) - self.centers) / width) ** 2))
            x = torch.einsum("...ik,iok->...o", bumps, coefficients)
        return x


NETWORKS = {
    "normalized_weight": Network(NormalizedWeight),
    "weight_standardized": Network(WeightStandardized, channels_first=True),
    "positive_weight": Network(PositiveWeight, channels_first=True),
    "lora": Network(Lora),
    "frozen_stem": Network(FrozenStem, channels_first=True),
    "kan_spline": Network(KanSpline),
    "kan_rbf": Network(KanRbf),
}
