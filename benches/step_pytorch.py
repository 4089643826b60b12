#!/usr/bin/env python3
"""Time and memory of training steps in PyTorch, on one batch already in memory.

    step_pytorch.py [--network tds_lstm] [--batch 64] [--window ROWS] [--threads 2] [--steps 5] [--warmup 2]
                    [--device cpu] [--precision tf32] [--mode eager] [--store STORE [--stride 1000] [--workers 4]]

The networks are those of tests/golden and of zoo.py. On CUDA, `--mode` is eager, compile (torch.compile of the encoder; the decoder's
loop over 250 steps takes it too long) or captured (the whole step as one CUDA graph), and `--precision` tf32, fp32,
bf16 or fp16 (autocast). A step is forward, loss, backward, clipping to a global norm of 1
where the preset clips, and AdamW (Adam for emg2pose's networks). With `--store`, each step takes its own batch of
windows of the store's rows, shuffled, from a DataLoader over numpy.memmap. Prints one line of JSON.

It is meant as a strong peer, so each choice was the fastest of those tried: convolutions on channels-last tensors (in
make_golden.py), LSTM cells rather than nn.LSTM called a step at a time, and fused optimizers.
"""

import argparse
import json
import resource
from statistics import median
from time import perf_counter

from collections.abc import Iterator
from pathlib import Path

import make_published
import torch
import zoo
from data_peers import MappedWindows
from make_golden import TdsModel, left_context, masked_loss, model_config
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

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
    if name in zoo.NETWORKS:
        return zoo.network(name), 0, zoo.ROWS
    if name.startswith("tds_"):
        decoder = {"decoder_type": "mlp"} if name == "tds_mlp" else {}
        config = model_config(dropout=0.1, **decoder)
        return CellModel(config), left_context(config), 2000
    if name == "lstm":
        return make_published.PlainLstm(128, 2, True), 0, 2000
    model = make_published.CASES[name][0]()
    return model, model.CONTEXT, WINDOWS.get(name, 11_790)


def batches(arguments: argparse.Namespace, window: int) -> Iterator[dict[str, Tensor]]:
    """Shuffled batches without end of EMG and angles, whole windows, in page-locked memory for CUDA."""
    windows = MappedWindows(arguments.store, window, arguments.stride)
    loader = DataLoader(
        windows, arguments.batch, shuffle=True, drop_last=True, num_workers=arguments.workers, prefetch_factor=2,
        persistent_workers=True, pin_memory=arguments.device == "cuda",
    )  # fmt: skip
    while True:
        yield from loader


def main() -> None:
    parser = argparse.ArgumentParser(description="Times training steps.")
    parser.add_argument("--network", default="tds_lstm")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--window", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="tf32")
    parser.add_argument("--mode", default="eager")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--stride", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=4)
    arguments = parser.parse_args()
    program = perf_counter()
    cuda = arguments.device == "cuda"

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model, context, window = network(arguments.network)
    window = arguments.window or window
    if cuda:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = arguments.precision != "fp32"
        model = model.cuda()
        if arguments.mode == "compile" and arguments.network in zoo.NETWORKS:
            model = torch.compile(model)
        elif arguments.mode == "compile":
            model.encoder = torch.compile(model.encoder)
    own = arguments.network.startswith("tds_") or arguments.network == "lstm" or arguments.network in zoo.NETWORKS
    published = not own
    if published:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True, capturable=cuda)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01, fused=True, capturable=cuda)
    clips = arguments.network not in ("regression_vemg2pose", "neuropose")
    rows = window - context
    emg = torch.randn(arguments.batch, window, 16)
    target = torch.randn(arguments.batch, rows, JOINTS)
    mask = (torch.rand(arguments.batch, rows) < 0.9).float()
    emg, target, mask = (x.to(arguments.device) for x in (emg, target, mask))
    loss_settings = {"loss_type": "mae" if published else "mse+mae", "mae_weight": 0.5}
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(arguments.precision)
    scale = 1024.0 if arguments.precision == "fp16" else 1.0

    def work() -> None:
        optimizer.zero_grad(set_to_none=arguments.mode != "captured")
        with torch.autocast(arguments.device, dtype, enabled=dtype is not None):
            prediction = model(emg) if arguments.network in zoo.NETWORKS else model(emg, target[:, 0])
        (masked_loss(prediction.float(), target, mask, loss_settings) * scale).backward()
        if scale != 1.0:
            for parameter in model.parameters():
                parameter.grad.div_(scale)
        if clips:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    run = work
    if cuda and arguments.mode == "captured":
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        run = graph.replay

    loaded = batches(arguments, window) if arguments.store else None

    def load() -> None:
        """Copies the next batch to where steps take it from; rows whose angles are all 0 do not count."""
        batch = next(loaded)
        emg.copy_(batch["emg"], non_blocking=True)
        target.copy_(batch["joint_angles"][:, context:], non_blocking=True)
        mask.copy_((target != 0).any(-1))

    def step() -> float:
        """Takes one step; returns its milliseconds."""
        start = perf_counter()
        if loaded:
            load()
        run()
        if cuda:
            torch.cuda.synchronize()
        return (perf_counter() - start) * 1e3

    times, tenth = [], None
    for number in range(1, arguments.warmup + arguments.steps + 1):
        times.append(step())
        if number == 10:
            tenth = perf_counter() - program
    times = times[arguments.warmup :]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rate = 1e3 * arguments.batch * len(times) / sum(times)
    found = {"ms_per_step": median(times), "steps": times, "peak_mib": peak, "seconds_to_step_10": tenth}
    print(json.dumps(found | {"windows_per_second": rate}))


if __name__ == "__main__":
    main()
