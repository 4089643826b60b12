#!/usr/bin/env python3
"""Time and memory of training steps in eager PyTorch on the CPU, on one batch already in memory.

    step_pytorch.py [--network tds_lstm] [--batch 64] [--window ROWS] [--threads 2] [--steps 5] [--warmup 2]

The networks are those of tests/golden, float32. A step is forward, loss, backward, clipping to a global norm of 1
where the preset clips, and AdamW (Adam for emg2pose's networks). Prints one line of JSON.

It is meant as a strong peer, so each choice was the fastest of those tried: convolutions on channels-last tensors (in
make_golden.py), LSTM cells rather than nn.LSTM called a step at a time, and fused optimizers.
"""

import argparse
import json
import resource
from statistics import median
from time import perf_counter

import make_published
import torch
from make_golden import TdsModel, left_context, masked_loss, model_config
from torch import Tensor, nn
from torch.nn import functional as F

JOINTS = 20


class CellDecoder(nn.Module):
    """LstmDecoder made of LSTM cells."""

    def __init__(self, input_width: int, hidden: int, layers: int, output: int, dropout: float):
        super().__init__()
        widths = [input_width] + [hidden] * (layers - 1)
        self.cells = nn.ModuleList(nn.LSTMCell(width, hidden) for width in widths)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden, output)

    def forward(self, x: Tensor, states):
        new_states = []
        for layer, cell in enumerate(self.cells):
            if layer > 0:
                x = self.dropout(x)
            x, memory = cell(x, states and states[layer])
            new_states.append((x, memory))
        return self.linear(F.leaky_relu(x, 0.01)), new_states


class CellModel(TdsModel):
    DECODERS = TdsModel.DECODERS | {"sequential_lstm": CellDecoder}


class DropConvolution(make_published.Convolution):
    """NeuroPose's convolution with the dropout that its preset trains with."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.05, self.training)


make_published.LstmDecoder = CellDecoder
make_published.Convolution = DropConvolution
WINDOWS = {"tracking_emg2pose": 5790, "regression_emg2pose": 5790, "neuropose": 4000}


def network(name: str) -> tuple[nn.Module, int, int]:
    """The network, its left context and its window."""
    if name.startswith("tds_"):
        decoder = {"decoder_type": "mlp"} if name == "tds_mlp" else {}
        config = model_config(dropout=0.1, **decoder)
        return CellModel(config), left_context(config), 2000
    if name == "lstm":
        return make_published.PlainLstm(128, 2, True), 0, 2000
    model = make_published.CASES[name][0]()
    return model, model.CONTEXT, WINDOWS.get(name, 11_790)


def main() -> None:
    parser = argparse.ArgumentParser(description="Times training steps.")
    parser.add_argument("--network", default="tds_lstm")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--window", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model, context, window = network(arguments.network)
    window = arguments.window or window
    published = not arguments.network.startswith("tds_") and arguments.network != "lstm"
    if published:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01, fused=True)
    clips = arguments.network not in ("regression_vemg2pose", "neuropose")
    rows = window - context
    emg = torch.randn(arguments.batch, window, 16)
    target = torch.randn(arguments.batch, rows, JOINTS)
    mask = (torch.rand(arguments.batch, rows) < 0.9).float()
    loss_settings = {"loss_type": "mae" if published else "mse+mae", "mae_weight": 0.5}

    def step() -> float:
        """Takes one step; returns its milliseconds."""
        start = perf_counter()
        optimizer.zero_grad()
        masked_loss(model(emg, target[:, 0]), target, mask, loss_settings).backward()
        if clips:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return (perf_counter() - start) * 1e3

    for _ in range(arguments.warmup):
        step()
    times = [step() for _ in range(arguments.steps)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"ms_per_step": median(times), "steps": times, "peak_mib": peak}))


if __name__ == "__main__":
    main()
