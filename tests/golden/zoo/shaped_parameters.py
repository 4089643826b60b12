"""Parameters that are reshaped, gated or unused before they meet the signal."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import CHANNELS, JOINTS, WINDOW, Network


class ReshapedParameters(nn.Module):
    """Parameters that first meet unsqueeze, squeeze, reshape, permute or einsum before they touch the signal."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.pointwise = nn.Conv1d(CHANNELS, width, 1)
        self.positions = nn.Parameter(0.1 * torch.randn(WINDOW, width))
        self.square = nn.Parameter(torch.randn(width, width) / width**0.5)
        self.flat = nn.Parameter(torch.randn(width * width) / width**0.5)
        self.stacked = nn.Parameter(torch.randn(2, width, width // 2) / width**0.5)
        self.column = nn.Parameter(torch.ones(width, 1, 1))
        self.left = nn.Parameter(torch.randn(JOINTS, 4) / 2)
        self.right = nn.Parameter(torch.randn(4, width) / width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        width = self.positions.shape[1]
        x = F.linear(x, self.pointwise.weight.squeeze(-1), self.pointwise.bias)
        x = torch.tanh(x + self.positions.unsqueeze(0))
        x = torch.relu(x @ self.square.unsqueeze(0))
        x = x + torch.tanh(x @ self.flat.reshape(width, width).t())
        x = x + F.linear(x, self.stacked.permute(0, 2, 1).reshape(width, width))
        x = x * self.column.squeeze().view(1, 1, -1)
        return F.linear(x, torch.einsum("jk,kd->jd", self.left, self.right))


class GatedParameters(nn.Module):
    """Highway layers, channel gates of sigmoid(parameter), ReZero scalars and a clamped learned exponent."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.channel_gate = nn.Parameter(torch.zeros(CHANNELS))
        self.exponent = nn.Parameter(torch.tensor([0.5]))
        self.embed = nn.Linear(CHANNELS, width)
        self.transform = nn.Linear(width, width)
        self.carry = nn.Linear(width, width)
        nn.init.constant_(self.carry.bias, -2.0)
        self.branches = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.alphas = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in range(2))
        self.head = nn.Linear(width, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.channel_gate) * x
        x = torch.sign(x) * (x.abs() + 1e-3).pow(self.exponent.clamp(0.1, 1.0))
        x = self.embed(x)
        gate = torch.sigmoid(self.carry(x))
        x = gate * torch.relu(self.transform(x)) + (1 - gate) * x
        for alpha, branch in zip(self.alphas, self.branches, strict=True):
            x = x + alpha * F.mish(branch(x))
        return self.head(x)


class ScalarParameter(nn.Module):
    """Learnable 0-dim parameters: a mix of two branches, a slope inside tanh and a shift of the angles."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.smooth = nn.Linear(CHANNELS, width)
        self.rectified = nn.Linear(CHANNELS, width)
        self.mix = nn.Parameter(torch.tensor(0.5))
        self.slope = nn.Parameter(torch.tensor(1.5))
        self.shift = nn.Parameter(torch.tensor(0.1))
        self.head = nn.Linear(width, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        smooth, rectified = torch.tanh(self.slope * self.smooth(x)), torch.relu(self.rectified(x))
        return self.head(self.mix * smooth + (1 - self.mix) * rectified) - self.shift


class UnusedParameter(nn.Module):
    """A parameter and a layer that never meet the output, and a head of which half is cut off."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS, width)
        self.spare = nn.Parameter(torch.randn(3))
        self.auxiliary = nn.Linear(width, 2)
        self.head = nn.Linear(width, 2 * JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.embed(x))
        return self.head(x)[..., :JOINTS]


NETWORKS = {
    "reshaped_parameters": Network(ReshapedParameters),
    "gated_parameters": Network(GatedParameters),
    "scalar_parameter": Network(ScalarParameter),
    "unused_parameter": Network(UnusedParameter),
}
