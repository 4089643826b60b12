"""Mixtures of experts, and weights written by a network."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import CHANNELS, JOINTS, Network


class MoeSoft(nn.Module):
    """Soft mixture of experts held as stacked 3-axis parameters."""

    def __init__(self, experts: int = 3, hidden: int = 8) -> None:
        super().__init__()
        self.gate = nn.Linear(CHANNELS, experts)
        self.weight1 = nn.Parameter(torch.randn(experts, CHANNELS, hidden) / CHANNELS**0.5)
        self.bias1 = nn.Parameter(torch.zeros(experts, hidden))
        self.weight2 = nn.Parameter(torch.randn(experts, hidden, JOINTS) / hidden**0.5)
        self.bias2 = nn.Parameter(torch.zeros(experts, JOINTS))

    def forward(self, x: Tensor) -> Tensor:
        gates = self.gate(x).softmax(dim=-1)
        hidden = F.gelu(torch.einsum("btc,ech->bteh", x, self.weight1) + self.bias1)
        outputs = torch.einsum("bteh,ehj->btej", hidden, self.weight2) + self.bias2
        return torch.einsum("bte,btej->btj", gates, outputs)


class MoeTopk(nn.Module):
    """Top-two gating: softmax over the chosen logits, scattered back over four expert perceptrons."""

    def __init__(self, experts: int = 4, hidden: int = 6) -> None:
        super().__init__()
        self.gate = nn.Linear(CHANNELS, experts, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(CHANNELS, hidden), nn.ReLU(), nn.Linear(hidden, JOINTS)) for _ in range(experts)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits = self.gate(x)
        values, indices = logits.topk(2, dim=-1)
        gates = torch.zeros_like(logits).scatter(-1, indices, values.softmax(dim=-1))
        outputs = torch.stack([expert(x) for expert in self.experts], dim=-2)
        return (gates.unsqueeze(-1) * outputs).sum(dim=-2)


class Hypernetwork(nn.Module):
    """A small network writes the weights of a per-window linear map, applied by bmm."""

    def __init__(self, hidden: int = 6) -> None:
        super().__init__()
        self.hidden = hidden
        self.writer = nn.Linear(CHANNELS, CHANNELS * hidden)
        self.base = nn.Parameter(torch.randn(CHANNELS, hidden) / 2)
        self.head = nn.Linear(hidden, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.writer(x.abs().mean(dim=1)).view(x.shape[0], CHANNELS, self.hidden)
        return self.head(torch.tanh(torch.bmm(x, weights + self.base)))


NETWORKS = {
    "moe_soft": Network(MoeSoft),
    "moe_topk": Network(MoeTopk),
    "hypernetwork": Network(Hypernetwork),
}
