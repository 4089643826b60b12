"""State space models."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import CHANNELS, JOINTS, WINDOW, Network


class S4d(nn.Module):
    """S4D-Lin: a causal convolution whose kernel comes from complex poles kept as real pairs."""

    def __init__(self, width: int = 6, state: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS, width)
        self.log_step = nn.Parameter(torch.rand(width) * 2 - 3)
        self.log_decay = nn.Parameter(torch.full((width, state), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(state).float().repeat(width, 1))
        self.read = nn.Parameter(torch.randn(width, state, 2) * 0.5**0.5)
        self.skip = nn.Parameter(torch.ones(width))
        self.mix = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, JOINTS)

    def kernel(self, length: int) -> Tensor:
        step = self.log_step.exp()[:, None]
        real, imag = -self.log_decay.exp(), self.frequency
        decay, angle = real * step, imag * step
        # Zero-order hold: C (exp(dt A) - 1) / A, in real pairs.
        pole_real, pole_imag = decay.exp() * angle.cos() - 1, decay.exp() * angle.sin()
        square = real**2 + imag**2
        hold_real = (pole_real * real + pole_imag * imag) / square
        hold_imag = (pole_imag * real - pole_real * imag) / square
        read_real, read_imag = self.read.unbind(dim=-1)
        gain_real = read_real * hold_real - read_imag * hold_imag
        gain_imag = read_real * hold_imag + read_imag * hold_real
        time = torch.arange(length)
        envelope, phase = torch.exp(decay[..., None] * time), angle[..., None] * time
        return 2 * (envelope * (gain_real[..., None] * phase.cos() - gain_imag[..., None] * phase.sin())).sum(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        u = self.embed(x).transpose(1, 2)
        kernel = self.kernel(WINDOW).flip(-1).unsqueeze(1)
        y = F.conv1d(F.pad(u, (WINDOW - 1, 0)), kernel, groups=u.shape[1]) + self.skip[:, None] * u
        return self.head(F.glu(self.mix(F.gelu(y).transpose(1, 2)), dim=-1))


class SsmScan(nn.Module):
    """Mamba-like selective diagonal state space, its scan unrolled over ten steps; output rate T / 4."""

    def __init__(self, width: int = 6, state: int = 3) -> None:
        super().__init__()
        self.state = state
        self.front = nn.Conv1d(CHANNELS, 2 * width, 4, stride=4)
        self.select = nn.Linear(width, 2 * state, bias=False)
        self.step = nn.Linear(width, width)
        self.log_decay = nn.Parameter(torch.log(torch.arange(1, state + 1).float()).repeat(width, 1))
        self.skip = nn.Parameter(torch.ones(width))
        self.head = nn.Linear(width, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.front(x.transpose(1, 2)).transpose(1, 2).chunk(2, dim=-1)
        x = F.silu(x)
        step = F.softplus(self.step(x))
        write, read = self.select(x).split(self.state, dim=-1)
        decay = torch.exp(step.unsqueeze(-1) * -self.log_decay.exp())
        drive = (step * x).unsqueeze(-1) * write.unsqueeze(-2)
        h = torch.zeros_like(drive[:, 0])
        outputs = []
        for t in range(x.shape[1]):
            h = decay[:, t] * h + drive[:, t]
            outputs.append((h * read[:, t].unsqueeze(1)).sum(dim=-1))
        y = torch.stack(outputs, dim=1) + self.skip * x
        return self.head(y * F.silu(gate))


class SsmCumsum(nn.Module):
    """Diagonal state space with constant decay, solved by a cumulative sum of rescaled inputs."""

    time: Tensor

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.write = nn.Linear(CHANNELS, width)
        self.log_decay = nn.Parameter(torch.linspace(-5.0, -2.0, width))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, JOINTS)
        self.register_buffer("time", torch.arange(WINDOW).float().unsqueeze(-1))

    def forward(self, x: Tensor) -> Tensor:
        growth = self.time * self.log_decay.exp()
        state = torch.cumsum(self.write(x) * growth.exp(), dim=1) * (-growth).exp()
        return self.head(self.norm(state))


NETWORKS = {
    "s4d": Network(S4d),
    "ssm_scan": Network(SsmScan),
    "ssm_cumsum": Network(SsmCumsum),
}
