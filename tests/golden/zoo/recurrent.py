"""Recurrent networks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import CHANNELS, JOINTS, Network


class Lstm(nn.Module):
    """Unidirectional LSTM and a linear head."""

    def __init__(self, hidden: int = 10) -> None:
        super().__init__()
        self.lstm = nn.LSTM(CHANNELS, hidden, batch_first=True)
        self.head = nn.Linear(hidden, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        return self.head(y)


class LstmBi2(nn.Module):
    """Two bidirectional LSTM layers on layer-normed features."""

    def __init__(self, hidden: int = 5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(CHANNELS)
        self.lstm = nn.LSTM(CHANNELS, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * hidden, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.norm(x))[0])


class LstmStates(nn.Module):
    """LSTM with learned initial states expanded over the batch; the last states give one pose."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.hidden = nn.Parameter(torch.zeros(1, 1, hidden))
        self.cell = nn.Parameter(torch.zeros(1, 1, hidden))
        self.lstm = nn.LSTM(CHANNELS, hidden, batch_first=True)
        self.head = nn.Linear(2 * hidden, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        h0 = self.hidden.expand(-1, x.shape[0], -1).contiguous()
        c0 = self.cell.expand(-1, x.shape[0], -1).contiguous()
        _, (h, c) = self.lstm(x, (h0, c0))
        return self.head(torch.cat([h[-1], c[-1]], dim=-1))


class Gru(nn.Module):
    """Convolutional front end at half rate and a two-layer GRU, time first."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.front = nn.Conv1d(CHANNELS, hidden, 4, stride=2, padding=1)
        self.gru = nn.GRU(hidden, hidden, num_layers=2)
        self.head = nn.Linear(hidden, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.gru(F.relu(self.front(x)).permute(2, 0, 1))
        return self.head(y).permute(1, 2, 0)


class GruBi(nn.Module):
    """Bidirectional GRU without biases, directions summed."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.gru = nn.GRU(CHANNELS, hidden, bias=False, bidirectional=True, batch_first=True)
        self.head = nn.Linear(hidden, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.gru(x)
        forward, backward = y.chunk(2, dim=-1)
        return self.head(forward + backward)


class Rnn(nn.Module):
    """Vanilla recurrent layers: tanh, then a bidirectional one with ReLU."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.tanh = nn.RNN(CHANNELS, hidden, batch_first=True)
        self.relu = nn.RNN(hidden, hidden, nonlinearity="relu", bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * hidden, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.tanh(x)[0])[0])


class MinimalGatedCell(nn.Module):
    """Hand-written minimal gated unit unrolled over eight pooled steps; output rate T / 5."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.forget = nn.Linear(CHANNELS + hidden, hidden)
        self.candidate = nn.Linear(CHANNELS + hidden, hidden)
        self.start = nn.Parameter(torch.zeros(hidden))
        self.head = nn.Linear(hidden, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool1d(x.transpose(1, 2), 5).transpose(1, 2)
        h = self.start.expand(x.shape[0], -1)
        outputs = []
        for step in x.unbind(dim=1):
            f = torch.sigmoid(self.forget(torch.cat([step, h], dim=-1)))
            h = (1 - f) * h + f * torch.tanh(self.candidate(torch.cat([step, f * h], dim=-1)))
            outputs.append(self.head(h))
        return torch.stack(outputs, dim=1)


class LstmCell(nn.Module):
    """nn.LSTMCell and nn.GRUCell stepped by hand over the last six samples, to one pose."""

    def __init__(self, hidden: int = 6) -> None:
        super().__init__()
        self.lstm = nn.LSTMCell(CHANNELS, hidden)
        self.gru = nn.GRUCell(hidden, hidden)
        self.head = nn.Linear(hidden, JOINTS)
        self.hidden_size = hidden

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], self.hidden_size)
        c = torch.zeros_like(h)
        g = torch.zeros_like(h)
        for t in range(-6, 0):
            h, c = self.lstm(x[:, t], (h, c))
            g = self.gru(h, g)
        return self.head(g)


class Reservoir(nn.Module):
    """Echo state network: the reservoir is buffers, only the readout and the leak are trained; output rate T / 4."""

    recurrent: Tensor
    inputs: Tensor

    def __init__(self, size: int = 16) -> None:
        super().__init__()
        recurrent = torch.randn(size, size)
        self.register_buffer("recurrent", 0.9 * recurrent / torch.linalg.matrix_norm(recurrent, 2))
        self.register_buffer("inputs", torch.rand(CHANNELS, size) - 0.5)
        self.leak = nn.Parameter(torch.zeros(1))
        self.readout = nn.Linear(size + CHANNELS, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        leak = torch.sigmoid(self.leak)
        h = x.new_zeros(x.shape[0], self.recurrent.shape[0])
        outputs = []
        for step in x[:, 3::4].unbind(dim=1):
            h = (1 - leak) * h + leak * torch.tanh(step @ self.inputs + h @ self.recurrent)
            outputs.append(self.readout(torch.cat([h, step], dim=-1)))
        return torch.stack(outputs, dim=1)


NETWORKS = {
    "lstm": Network(Lstm),
    "lstm_bi2": Network(LstmBi2),
    "lstm_states": Network(LstmStates),
    "gru": Network(Gru, channels_first=True),
    "gru_bi": Network(GruBi),
    "rnn": Network(Rnn),
    "minimal_gated_cell": Network(MinimalGatedCell),
    "lstm_cell": Network(LstmCell),
    "reservoir": Network(Reservoir),
}
