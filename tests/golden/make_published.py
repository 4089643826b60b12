#!/usr/bin/env python3
"""Golden values for emg2pose's published networks, NeuroPose, the plain LSTM and tds_lstm, at full size.

    make_published.py OUTDIR

The networks are too large to keep their parameters in a file, so parameters and data are drawn by `noise`, a hash
that the tests compute as well: element i of tensor number n is noise(n, i). OUTDIR/<case>.safetensors holds

    losses       [20]   the loss before each of 20 steps of Adam on this batch
    grad.NAME    [<=32] evenly spaced elements of the gradient at the initial parameters
    buffer.NAME  [<=8]  the first running statistics after one forward pass
    evaluated    [1]    the loss by them, in evaluation mode, at the initial parameters
    most.NAME    [1]    the gradient's greatest magnitude
    float32.NAME [1]    how far PyTorch's own gradient in float32 is from it: a bias before a batch normalization has
                        the gradient zero, of which only rounding is left

and, as metadata, `config` (keys of the `model` section), `batch`, `window`, `context` and `clip`. The loss is the
mean absolute error. Inputs and parameters are exact float32 values, arithmetic is float64. Two runs write identical
files.
"""

import json
import sys
from collections import OrderedDict
from math import prod
from pathlib import Path

import numpy
import torch
from make_golden import (
    LstmDecoder, MlpDecoder, TdsModel, TdsStage, left_context, masked_loss, model_config, rollout_steps, save,
    tds_stage,
)
from torch import Tensor, nn
from torch.nn import functional as F

JOINTS = 20


def noise(number: int, shape: tuple[int, ...]) -> Tensor:
    """Numbers in [-0.5, 0.5) with 24 bits: SplitMix64 (Steele, Lea and Flood 2014) of number x 2^32 + element."""
    with numpy.errstate(over="ignore"):
        z = numpy.arange(prod(shape), dtype=numpy.uint64) + numpy.uint64(number << 32)
        z = (z + numpy.uint64(1)) * numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z = z ^ (z >> numpy.uint64(31))
    unit = (z >> numpy.uint64(40)).astype(numpy.float32) / numpy.float32(1 << 24) - numpy.float32(0.5)
    return torch.from_numpy(unit.reshape(shape))


class Published(nn.Module):
    """Encoder, resampling, decoder, resampling, as in emg2pose/networks.py and lightning.py."""

    STAGES = [
        tds_stage(11, 5, 0, 16, 16, 1),
        tds_stage(5, 2, 0, 16, 16, 1),
        tds_stage(17, 4, 2, 16, 16, 9),
        tds_stage(9, 2, 2, 16, 16, 5),
    ]
    CONTEXT = 1790

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        stages = [TdsStage(16 if i == 0 else 256, stage) for i, stage in enumerate(self.STAGES)]
        named = [(str(i), stage) for i, stage in enumerate(stages)] + [("linear", nn.Linear(256, 64))]
        self.encoder = nn.Sequential(OrderedDict(named))
        outputs = 2 * JOINTS if kind == "regression_vemg2pose" else JOINTS
        decoder = LstmDecoder if kind.endswith("_vemg2pose") else MlpDecoder
        self.decoder = decoder(64 + JOINTS, 512, 2, outputs, 0.0)

    def forward(self, emg: Tensor, first_pose: Tensor) -> Tensor:
        rows = emg.shape[1] - self.CONTEXT
        steps = rollout_steps({"rollout_freq": 50, "original_sampling_rate": 2000}, rows)
        features = self.encoder(emg).transpose(1, 2)
        features = F.interpolate(features, steps, mode="linear", align_corners=True)
        pose = first_pose if self.kind.startswith("tracking") else torch.zeros_like(first_pose)
        poses, state = [], None
        for step, x in enumerate(features.unbind(2)):
            output, state = self.decoder(torch.cat((x, pose), dim=1), state)
            output = 0.01 * output
            match self.kind:
                case "tracking_vemg2pose":
                    pose = pose + output
                case "regression_vemg2pose":
                    position, velocity = output.split(JOINTS, dim=1)
                    pose = position if step < 12 else pose + velocity
                case _:
                    pose = output
            poses.append(pose)
        return F.interpolate(torch.stack(poses, 2), rows, mode="linear", align_corners=False).transpose(1, 2)


class Convolution(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, (3, 2), padding="same")
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()


class Neuropose(nn.Module):
    CONTEXT = 0

    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleList([Convolution(1, 32), Convolution(32, 128), Convolution(128, 256)])
        self.blocks = nn.ModuleList(nn.ModuleList(Convolution(256, 256) for _ in range(3)) for _ in range(5))
        self.decoder = nn.ModuleList([Convolution(256, 128), Convolution(128, 32), Convolution(32, 1)])
        self.linear = nn.Linear(32, JOINTS)

    def forward(self, emg: Tensor, _: Tensor) -> Tensor:
        x = emg.unsqueeze(1)
        for layer, pool in zip(self.encoder, [(10, 2), (8, 2), (4, 4)]):
            x = F.max_pool2d(layer(x), pool)
        for block in self.blocks:
            y = x
            for layer in block:
                y = layer(y)
            x = x + y
        for layer, factor in zip(self.decoder, [(10, 4), (8, 4), (4, 2)]):
            x = F.interpolate(layer(x), scale_factor=factor, mode="nearest")
        y = self.linear(x.transpose(1, 2).flatten(2)).transpose(1, 2)
        return F.interpolate(y, emg.shape[1], mode="linear", align_corners=False).transpose(1, 2)


class PlainLstm(nn.Module):
    CONTEXT = 0

    def __init__(self, hidden: int, layers: int, bidirectional: bool):
        super().__init__()
        self.lstm = nn.LSTM(16, hidden, layers, bidirectional=bidirectional)
        self.linear = nn.Linear(hidden * (1 + bidirectional), JOINTS)

    def forward(self, emg: Tensor, _: Tensor) -> Tensor:
        rows = emg.shape[1]
        steps = rollout_steps({"rollout_freq": 50, "original_sampling_rate": 2000}, rows)
        x = F.interpolate(emg.transpose(1, 2), steps, mode="linear", align_corners=True)
        y = self.linear(self.lstm(x.permute(2, 0, 1))[0]).permute(1, 2, 0)
        return F.interpolate(y, rows, mode="linear", align_corners=False).transpose(1, 2)


class Tds(TdsModel):
    """tds_lstm with its default sizes."""

    CONTEXT = left_context(model_config())

    def __init__(self):
        super().__init__(model_config())


TDS_KINDS = ["tracking_vemg2pose", "regression_vemg2pose", "tracking_emg2pose", "regression_emg2pose"]
# Name: network, keys of the model section beside `type` and `dropout`, batch, window.
CASES = {kind: (lambda kind=kind: Published(kind), {}, 2, 2590) for kind in TDS_KINDS} | {
    "neuropose": (Neuropose, {}, 4, 1600),
    "tds_lstm": (Tds, {}, 2, 500),
    "lstm": (lambda: PlainLstm(64, 2, True), {"hidden_size": 64}, 3, 1200),
    "lstm_forward": (lambda: PlainLstm(48, 3, False), {"hidden_size": 48, "num_layers": 3, "bidirectional": False}, 3, 800),
}


def draw_parameters(model: nn.Module) -> None:
    """Uniform within PyTorch's usual bounds; scales of norms around 1."""
    with torch.no_grad():
        for number, (name, parameter) in enumerate(model.named_parameters()):
            values = noise(number, tuple(parameter.shape))
            if parameter.dim() > 1:
                bound = numpy.float32(2 / prod(parameter.shape[1:]) ** 0.5)
                parameter.copy_(values * torch.tensor(bound))
            else:
                is_scale = "norm" in name and name.endswith("weight")
                parameter.copy_(values * torch.tensor(numpy.float32(0.2)) + float(is_scale))


def float32_gradients(name: str, emg: Tensor, target: Tensor, mask: Tensor) -> dict[str, Tensor]:
    model = CASES[name][0]()
    draw_parameters(model)
    prediction = model.train()(emg.float(), target[:, 0].float())
    masked_loss(prediction, target.float(), mask.float(), {"loss_type": "mae"}).backward()
    return {name: parameter.grad.double() for name, parameter in model.named_parameters()}


def compute(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    make, keys, batch, window = CASES[name]
    model = make()
    draw_parameters(model)
    model.double().train()
    rows = window - model.CONTEXT
    emg = (noise(1000, (batch, window, 16)) * 2).double()
    target = noise(1001, (batch, rows, JOINTS)).double()
    mask = (noise(1002, (batch, rows)) > -0.4).double()
    clip = 0.0 if name in ("regression_vemg2pose", "neuropose") else 1.0
    float32 = float32_gradients(name, emg, target, mask)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    tensors, losses = {}, []
    for step in range(20):
        loss = masked_loss(model(emg, target[:, 0]), target, mask, {"loss_type": "mae"})
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            for buffer_name, buffer in model.named_buffers():
                if buffer.dim() == 1:
                    tensors[f"buffer.{buffer_name}"] = buffer[:8].clone()
            with torch.no_grad():
                evaluated = masked_loss(model.eval()(emg, target[:, 0]), target, mask, {"loss_type": "mae"})
            tensors["evaluated"] = evaluated.reshape(1)
            model.train()
            for parameter_name, parameter in model.named_parameters():
                flat = parameter.grad.flatten()
                count = min(32, flat.numel())
                tensors[f"grad.{parameter_name}"] = flat[[i * flat.numel() // count for i in range(count)]].clone()
                tensors[f"most.{parameter_name}"] = flat.abs().max().reshape(1)
                off = (float32[parameter_name].flatten() - flat).abs().max()
                tensors[f"float32.{parameter_name}"] = off.reshape(1)
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    tensors["losses"] = torch.tensor(losses)
    kind = name.removesuffix("_forward")
    config = {"type": kind, "dropout": 0.0} | keys
    numbers = {"batch": batch, "window": window, "context": model.CONTEXT, "clip": clip}
    order = [name for name, _ in model.named_parameters()]
    metadata = {key: json.dumps(value) for key, value in (numbers | {"config": config, "order": order}).items()}
    return tensors, metadata


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: make_published.py OUTDIR")
    torch.set_num_threads(2)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in CASES:
        save(folder / f"{name}.safetensors", *compute(name))


if __name__ == "__main__":
    main()
