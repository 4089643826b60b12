"""Spectra and learned filter banks."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import CHANNELS, JOINTS, WINDOW, Network


class DftMatrix(nn.Module):
    """Log power spectrum by cosine and sine buffer matrices, weighed by a learned filter bank, to one pose."""

    window: Tensor
    cos: Tensor
    sin: Tensor

    def __init__(self, bands: int = 5) -> None:
        super().__init__()
        angles = 2 * math.pi * torch.outer(torch.arange(WINDOW).float(), torch.arange(WINDOW // 2 + 1)) / WINDOW
        self.register_buffer("window", torch.hann_window(WINDOW))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        self.bank = nn.Parameter(torch.rand(WINDOW // 2 + 1, bands))
        self.head = nn.Linear(CHANNELS * bands, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.window
        power = (x @ self.cos) ** 2 + (x @ self.sin) ** 2
        return self.head(torch.log(power @ self.bank.abs() + 1e-3).flatten(1))


class SpectralGate(nn.Module):
    """GFNet-like: complex gates (real pairs) on the spectrum, forward and inverse transforms as buffers."""

    cos: Tensor
    sin: Tensor
    weight: Tensor

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        bins = WINDOW // 2 + 1
        angles = 2 * math.pi * torch.outer(torch.arange(bins).float(), torch.arange(WINDOW)) / WINDOW
        weight = torch.full((bins, 1), 2.0 / WINDOW)
        weight[0] = weight[-1] = 1.0 / WINDOW
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        self.register_buffer("weight", weight)
        self.embed = nn.Linear(CHANNELS, width)
        self.real = nn.Parameter(torch.ones(bins, width))
        self.imag = nn.Parameter(torch.zeros(bins, width))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        real, imag = self.cos @ x, -self.sin @ x
        real, imag = real * self.real - imag * self.imag, real * self.imag + imag * self.real
        y = self.cos.T @ (self.weight * real) - self.sin.T @ (self.weight * imag)
        return self.head(F.gelu(self.norm(x + y)))


class FftGate(nn.Module):
    """A real learned response a channel on the spectrum by torch.fft."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS, width)
        self.response = nn.Parameter(torch.ones(WINDOW // 2 + 1, width))
        self.head = nn.Linear(width, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        spectrum = torch.fft.rfft(x, dim=1) * self.response
        return self.head(x + torch.tanh(torch.fft.irfft(spectrum, n=WINDOW, dim=1)))


class SincNet(nn.Module):
    """Band-pass filters by torch.sinc of learned edges; the first band starts at zero, so its row is sinc(0)."""

    time: Tensor
    window: Tensor

    def __init__(self, bands: int = 5, taps: int = 15) -> None:
        super().__init__()
        self.low = nn.Parameter(torch.linspace(0.0, 0.3, bands).unsqueeze(1))
        self.width = nn.Parameter(torch.full((bands, 1), 0.1))
        self.register_buffer("time", torch.arange(taps).float() - taps // 2)
        self.register_buffer("window", torch.hamming_window(taps, periodic=False))
        self.mix = nn.Conv1d(CHANNELS * bands, 8, 1)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Conv1d(8, JOINTS, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = self.low + self.width
        kernel = 2 * high * torch.sinc(2 * high * self.time) - 2 * self.low * torch.sinc(2 * self.low * self.time)
        kernel = (kernel * self.window).unsqueeze(1)
        batch, channels, length = x.shape
        x = F.conv1d(x.reshape(batch * channels, 1, length), kernel, padding=kernel.shape[-1] // 2)
        return self.head(F.relu(self.norm(self.mix(x.reshape(batch, -1, length)))))


class SincWhere(nn.Module):
    """Low-pass filters without torch.sinc: sin(x) / x guarded inside and outside of torch.where."""

    time: Tensor

    def __init__(self, bands: int = 4, taps: int = 11) -> None:
        super().__init__()
        self.cutoff = nn.Parameter(torch.linspace(0.0, 0.4, bands).unsqueeze(1))
        self.register_buffer("time", torch.arange(taps).float() - taps // 2)
        self.head = nn.Conv1d(CHANNELS * bands, JOINTS, 1)

    def forward(self, x: Tensor) -> Tensor:
        phase = 2 * math.pi * self.cutoff * self.time
        zero = phase == 0
        safe = torch.where(zero, torch.ones_like(phase), phase)
        kernel = torch.where(zero, torch.ones_like(phase), safe.sin() / safe) * (0.1 + 2 * self.cutoff.abs())
        x = F.conv1d(x, kernel.unsqueeze(1).repeat(CHANNELS, 1, 1), padding="same", groups=CHANNELS)
        return self.head(x)


NETWORKS = {
    "dft_matrix": Network(DftMatrix, channels_first=True),
    "spectral_gate": Network(SpectralGate),
    "fft_gate": Network(FftGate),
    "sincnet": Network(SincNet, channels_first=True),
    "sinc_where": Network(SincWhere, channels_first=True),
}
