#!/usr/bin/env python3
"""How long one training step of tds_lstm takes in eager PyTorch on the CPU.

    step_pytorch.py [--threads N] [--steps N] [--warmup N]

The model is make_golden.py's at the default configuration: batch 64 x 2000 samples, dropout
0.1 between the LSTM layers, float32. A step is forward, mse+mae loss, backward, clipping to
a global norm of 1 and AdamW, on one batch already in memory. Prints one line of JSON.

It is meant as a strong peer, so each choice was the fastest of those tried: convolutions on
channels-last tensors (in make_golden.py), LSTM cells rather than nn.LSTM called a step at a
time, and the fused AdamW.
"""

import argparse
import json
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from make_golden import TdsModel, left_context, masked_loss, model_config

BATCH, WINDOW = 64, 2000


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
    DECODERS = {"sequential_lstm": CellDecoder}


def main() -> None:
    parser = argparse.ArgumentParser(description="Times a training step of tds_lstm.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = model_config(dropout=0.1)
    model = CellModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01, fused=True)
    rows = WINDOW - left_context(config)
    emg = torch.randn(BATCH, WINDOW, config["input_size"])
    target = torch.randn(BATCH, rows, config["output_size"])
    mask = (torch.rand(BATCH, rows) < 0.9).float()
    loss_settings = {"loss_type": "mse+mae", "mae_weight": 0.5}

    def step() -> float:
        """Takes one step; returns its milliseconds."""
        start = perf_counter()
        optimizer.zero_grad()
        masked_loss(model(emg, target[:, 0]), target, mask, loss_settings).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return (perf_counter() - start) * 1e3

    for _ in range(arguments.warmup):
        step()
    times = [step() for _ in range(arguments.steps)]
    print(json.dumps({"ms_per_step": median(times), "steps": times}))


if __name__ == "__main__":
    main()
