"""Graphs over electrodes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import CHANNELS, JOINTS, Network


class GraphFixed(nn.Module):
    """Graph convolutions over the electrode ring, its normalized adjacency a buffer."""

    adjacency: Tensor

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        ring = torch.eye(CHANNELS) + torch.eye(CHANNELS).roll(1, 0) + torch.eye(CHANNELS).roll(-1, 0)
        scale = ring.sum(dim=1).rsqrt()
        self.register_buffer("adjacency", scale[:, None] * ring * scale[None, :])
        self.temporal = nn.Conv1d(1, width, 5, padding=2)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width, bias=False)
        self.head = nn.Linear(CHANNELS * width, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, channels = x.shape
        nodes = self.temporal(x.transpose(1, 2).reshape(batch * channels, 1, length))
        nodes = nodes.reshape(batch, channels, -1, length).permute(0, 3, 1, 2)
        nodes = F.relu(self.adjacency @ self.first(nodes))
        nodes = nodes + F.relu(torch.einsum("nm,btmf->btnf", self.adjacency, self.second(nodes)))
        return self.head(nodes.flatten(2))


class GraphLearned(nn.Module):
    """Adaptive adjacency softmax(relu(E1 @ E2.T)) and one graph attention step (GAT) from channels to joints."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.source = nn.Parameter(torch.randn(CHANNELS, 3))
        self.target = nn.Parameter(torch.randn(CHANNELS, 3))
        self.lift = nn.Parameter(torch.randn(CHANNELS, width))
        self.mix = nn.Linear(width, width)
        self.attend_left = nn.Linear(width, 1, bias=False)
        self.attend_right = nn.Linear(width, 1, bias=False)
        self.head = nn.Linear(width, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        nodes = x.unsqueeze(-1) * self.lift
        adjacency = F.softmax(F.relu(self.source @ self.target.T), dim=1)
        nodes = F.elu(self.mix(torch.matmul(adjacency, nodes)))
        scores = F.leaky_relu(self.attend_left(nodes) + self.attend_right(nodes).transpose(-1, -2), 0.2)
        return self.head((scores.softmax(dim=-1) @ nodes).mean(dim=-2))


class Roll(nn.Module):
    """Ring convolution over electrodes by x.roll of minus one, zero and one, and a roll in time."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.shifts = nn.ModuleList(nn.Linear(CHANNELS, width, bias=shift == 0) for shift in (-1, 0, 1))
        self.head = nn.Linear(width, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        y = sum(layer(x.roll(shift, dims=-1)) for shift, layer in zip((-1, 0, 1), self.shifts, strict=True))
        y = torch.relu(y)
        return self.head(y + 0.5 * y.roll(1, dims=1) + 0.25 * y.roll((0, 2), dims=(2, 1)))


class ChannelEmbedding(nn.Module):
    """nn.Embedding looked up by a buffer of electrode numbers (one repeated), bias first met by a slice."""

    electrodes: Tensor

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CHANNELS, width)
        self.register_buffer("electrodes", torch.tensor([0, 1, 2, 2]))
        self.biases = nn.Parameter(torch.zeros(2, width))
        self.mix = nn.Linear(width, width)
        self.head = nn.Linear(width, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.unsqueeze(-1) * self.embedding(self.electrodes) + self.biases[0]
        x = torch.relu(self.mix(tokens)).sum(dim=2) + self.biases[1]
        return self.head(x)


NETWORKS = {
    "graph_fixed": Network(GraphFixed),
    "graph_learned": Network(GraphLearned),
    "roll": Network(Roll),
    "channel_embedding": Network(ChannelEmbedding),
}
