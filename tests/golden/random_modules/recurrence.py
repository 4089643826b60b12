"""Recurrent layers, as modules and written out."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import ROWS, Formula, Layer, Rng, normal, same_width


def recurrent(rnn: nn.Module, then: nn.Module | None = None) -> nn.Module:
    """The outputs of a recurrent module, and then another layer."""
    return Formula(lambda x, rnn, then: then(rnn(x)[0]), rnn=rnn, then=then or nn.Identity())


def lstm_two_layers(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    return recurrent(nn.LSTM(d_in, 4, num_layers=2, batch_first=True), then=nn.Linear(4, d_out))


def gru_rows_first(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    rnn = nn.GRU(d_in, d_out, bias=False)
    return Formula(lambda x, rnn: rnn(x.transpose(0, 1))[0].transpose(0, 1), rnn=rnn)


def gru_bidirectional(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    return recurrent(nn.GRU(d_in, 3, batch_first=True, bidirectional=True), then=nn.Linear(6, d_out))


def gru_learned_state(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    def forward(x: Tensor, rnn: nn.Module, state: Tensor) -> Tensor:
        output: tuple[Tensor, Any] = rnn(x, state.expand(-1, x.shape[0], -1).contiguous())
        return output[0]

    return Formula(forward, rnn=nn.GRU(d_in, d_out, batch_first=True), state=normal(1, 1, d_out))


def lstm_last_state(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    def forward(x: Tensor, rnn: nn.Module, mix: nn.Module) -> Tensor:
        _, (hidden, cell) = rnn(x)
        return mix(x) * torch.sigmoid(hidden[-1] + cell[-1]).unsqueeze(1)

    return Formula(forward, rnn=nn.LSTM(d_in, d_out, batch_first=True), mix=nn.Linear(d_in, d_out))


def rnn_relu(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    return recurrent(nn.RNN(d_in, d_out, nonlinearity="relu", batch_first=True), then=nn.Tanh())


def three_steps(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    def forward(x: Tensor, enter: nn.Module, again: nn.Module) -> Tensor:
        state = x.new_zeros(x.shape[0], ROWS, d_out)
        for _ in range(3):
            state = torch.tanh(enter(x) + again(state))
        return state

    return Formula(forward, enter=nn.Linear(d_in, d_out), again=nn.Linear(d_out, d_out, bias=False))


def over_chunks(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    def forward(x: Tensor, enter: nn.Module, again: nn.Module, start: Tensor) -> Tensor:
        state, states = start.expand(x.shape[0], ROWS // 4, d_out), []
        for chunk in enter(x).chunk(4, dim=1):
            state = torch.tanh(chunk + again(state))
            states.append(state)
        return torch.cat(states, dim=1)

    return Formula(forward, enter=nn.Linear(d_in, d_out), again=nn.Linear(d_out, d_out), start=normal(d_out))


def gru_cell_chunks(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    def forward(x: Tensor, cell: nn.Module) -> Tensor:
        state, states = x.new_zeros(x.shape[0] * (ROWS // 4), d_out), []
        for chunk in x.split(ROWS // 4, dim=1):
            state = cell(chunk.reshape(-1, d_in), state)
            states.append(state.reshape(-1, ROWS // 4, d_out))
        return torch.cat(states, dim=1)

    return Formula(forward, cell=nn.GRUCell(d_in, d_out))


def moving_average(rng: Rng, width: int) -> nn.Module:
    def forward(x: Tensor, decay: Tensor) -> Tensor:
        keep = torch.sigmoid(decay)
        for step in (1, 2, 4):
            x = (1 - keep) * x + keep * F.pad(x[:, :-step], (0, 0, step, 0))
        return x

    return Formula(forward, decay=normal(width))


LAYERS = {
    "lstm": Layer(lambda rng, d_in, d_out: recurrent(nn.LSTM(d_in, d_out, batch_first=True))),
    "lstm_two_layers": Layer(lstm_two_layers),
    "lstm_last_state": Layer(lstm_last_state),
    "gru": Layer(lambda rng, d_in, d_out: recurrent(nn.GRU(d_in, d_out, batch_first=True))),
    "gru_rows_first": Layer(gru_rows_first),
    "gru_bidirectional": Layer(gru_bidirectional),
    "gru_learned_state": Layer(gru_learned_state),
    "gru_cell_chunks": Layer(gru_cell_chunks),
    "rnn_relu": Layer(rnn_relu),
    "recurrence_three_steps": Layer(three_steps),
    "recurrence_over_chunks": Layer(over_chunks),
    "moving_average": same_width(moving_average),
}
