"""Weights that are used more than once."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import CHANNELS, JOINTS, Network


class SharedModule(nn.Module):
    """One block used three times, in the way of a recurrent-depth (ALBERT-like) network."""

    def __init__(self, width: int = 10) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS, width)
        self.block = nn.Sequential(nn.Linear(width, 2 * width), nn.Tanh(), nn.Linear(2 * width, width))
        self.head = nn.Linear(width, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for _ in range(3):
            x = x + self.block(x)
        return self.head(x)


class TiedWeight(nn.Module):
    """Two convolutions with one weight and their own biases, and a third that started as their copy."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Conv1d(CHANNELS, width, 1)
        self.first = nn.Conv1d(width, width, 3, padding=1)
        self.second = nn.Conv1d(width, width, 3, padding=2, dilation=2)
        self.second.weight = self.first.weight
        self.third = nn.Conv1d(width, width, 3, padding=1)
        self.third.load_state_dict(self.first.state_dict())
        self.head = nn.Conv1d(width, JOINTS, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for conv in (self.first, self.second, self.third):
            x = x + torch.tanh(conv(x))
        return self.head(x)


class SharedLayerNorm(nn.Module):
    """One layer norm used three times, next to two of its own that start out equal to it."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.own = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.head = nn.Linear(width, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = x + F.relu(layer(self.norm(x)))
        for norm in self.own:
            x = x + torch.sin(norm(x))
        return self.head(x)


class SharedZeroBias(nn.Module):
    """One linear layer with zero bias used three times, beside separate layers whose biases are also zero."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS, width)
        self.shared = nn.Linear(width, width)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.head = nn.Linear(width, JOINTS)
        for layer in (self.embed, self.shared, self.first, self.second, self.head):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.shared(self.embed(x)))
        x = torch.tanh(self.shared(self.first(x)))
        x = torch.tanh(self.shared(self.second(x)))
        return self.head(x)


class TiedAutoencoder(nn.Module):
    """Bottleneck decoded by the transposed encoder weight, F.linear(z, w.t()), and read out by its residual."""

    def __init__(self, code: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(code, CHANNELS) / CHANNELS**0.5)
        self.encode_bias = nn.Parameter(torch.zeros(code))
        self.decode_bias = nn.Parameter(torch.zeros(CHANNELS))
        self.head = nn.Linear(code + CHANNELS, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        code = torch.tanh(F.linear(x, self.weight, self.encode_bias))
        rebuilt = F.linear(code, self.weight.t(), self.decode_bias)
        return self.head(torch.cat([code, (x - rebuilt).abs()], dim=-1))


class TiedTransposeConv(nn.Module):
    """A strided convolution and its transpose with the same weight."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.analysis = nn.Conv1d(CHANNELS, width, 4, stride=2, padding=1, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))
        self.head = nn.Conv1d(2 * CHANNELS, JOINTS, 1)

    def forward(self, x: Tensor) -> Tensor:
        code = F.softshrink(self.analysis(x) + self.bias[:, None], 0.1)
        rebuilt = F.conv_transpose1d(code, self.analysis.weight, stride=2, padding=1)
        return self.head(torch.cat([x, rebuilt], dim=1))


class SharedBatchNorm(nn.Module):
    """One batch norm used twice, behind different convolutions."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv1d(CHANNELS, width, 3, padding=1, bias=False)
        self.second = nn.Conv1d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Conv1d(width, JOINTS, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        return self.head(F.relu(self.norm(self.second(x))))


class Siamese(nn.Module):
    """One encoder on both halves of the window; the head sees both codes and their difference, for one pose."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv1d(CHANNELS, width, 5, stride=2), nn.GroupNorm(1, width), nn.GELU(), nn.Conv1d(width, width, 3)
        )
        self.head = nn.Bilinear(width, width, JOINTS)
        self.direct = nn.Linear(width, JOINTS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        early, late = x.chunk(2, dim=-1)
        a, b = self.encoder(early).mean(dim=-1), self.encoder(late).amax(dim=-1)
        return self.head(a, b) + self.direct(b - a)


class NeuralOde(nn.Module):
    """Two Runge-Kutta steps of shared dynamics with a learned step size."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS, width)
        self.dynamics = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
        self.log_step = nn.Parameter(torch.tensor(-1.0))
        self.head = nn.Linear(width, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        x, step = self.embed(x), self.log_step.exp()
        for _ in range(2):
            k1 = self.dynamics(x)
            k2 = self.dynamics(x + step / 2 * k1)
            k3 = self.dynamics(x + step / 2 * k2)
            k4 = self.dynamics(x + step * k3)
            x = x + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return self.head(x)


NETWORKS = {
    "shared_module": Network(SharedModule),
    "tied_weight": Network(TiedWeight, channels_first=True),
    "shared_layer_norm": Network(SharedLayerNorm),
    "shared_zero_bias": Network(SharedZeroBias),
    "tied_autoencoder": Network(TiedAutoencoder),
    "tied_transpose_conv": Network(TiedTransposeConv, channels_first=True),
    "shared_batch_norm": Network(SharedBatchNorm, channels_first=True),
    "siamese": Network(Siamese, channels_first=True),
    "neural_ode": Network(NeuralOde),
}
