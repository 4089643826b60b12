#!/usr/bin/env python3
"""Golden values for small tds_lstm and tds_mlp, from an independent PyTorch implementation.

    make_golden.py OUTDIR

writes OUTDIR/<case>.safetensors for each case in `CASES`. A file holds

    emg          [B, W, C]            rows as on disk, time-major
    target       [B, W - context, J]  radians, cropped at the left context
    mask         [B, W - context]     1 where the row is valid, 0 where it failed
    param.NAME                        the initial parameters
    grad.NAME                         gradients of the loss at those parameters
    prediction   [B, W - context, J]  the model's output at those parameters
    losses.OPT   [20]                 the loss before each of 20 steps of optimizer OPT on this batch

and, as metadata, `config` (keys of the `model` section) and `loss` (keys of the `training`
section), both JSON. A step clips the gradients to a global norm of 1, then updates the weights.
Inputs and parameters are exact float32 values, all arithmetic is float64, and results are
rounded to float32 when saved. Two runs write identical files.
"""

import json
import sys
from dataclasses import dataclass
from math import prod, tau
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def tds_stage(
    in_conv_kernel: int,
    in_conv_stride: int,
    num_blocks: int,
    channels: int,
    feature_width: int,
    kernel_width: int,
) -> dict[str, int]:
    return {
        "in_conv_kernel": in_conv_kernel,
        "in_conv_stride": in_conv_stride,
        "num_blocks": num_blocks,
        "channels": channels,
        "feature_width": feature_width,
        "kernel_width": kernel_width,
    }


DEFAULT_STAGES = [tds_stage(5, 2, 2, 8, 4, 21), tds_stage(5, 2, 2, 8, 8, 11)]


# The model. Between the encoder's layers, tensors are [batch, time, width].


class TdsBlock(nn.Module):
    """Convolution over time within each feature, then a per-step MLP, both residual."""

    def __init__(self, channels: int, feature_width: int, kernel_width: int):
        super().__init__()
        width = channels * feature_width
        self.grid = (channels, feature_width)
        self.conv = nn.Conv2d(channels, channels, (1, kernel_width))
        self.norm1 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        grid = x.unflatten(2, self.grid).permute(0, 2, 3, 1)
        y = self.conv(grid.contiguous(memory_format=torch.channels_last))  # faster
        y = y.permute(0, 3, 1, 2).flatten(2).relu()
        y = self.norm1(y + x[:, -y.shape[1] :])  # no padding: y ends where x ends
        return self.norm2(y + self.fc2(self.fc1(y).relu()))


class TdsStage(nn.Module):
    """Strided convolution to channels x feature_width, then TDS blocks."""

    def __init__(self, input_width: int, stage: dict):
        super().__init__()
        width = stage_width(stage)
        self.conv = nn.Conv1d(input_width, width, stage["in_conv_kernel"], stage["in_conv_stride"])
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.Sequential(
            *(
                TdsBlock(stage["channels"], stage["feature_width"], stage["kernel_width"])
                for _ in range(stage["num_blocks"])
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x.transpose(1, 2)).transpose(1, 2).contiguous()
        return self.blocks(self.norm(y.relu()))


class LstmDecoder(nn.Module):
    """One step of the recurrent decoder; the state starts as None, which means zeros."""

    def __init__(self, input_width: int, hidden: int, layers: int, output: int, dropout: float):
        super().__init__()
        self.lstm = nn.LSTM(input_width, hidden, layers, dropout=dropout)
        self.linear = nn.Linear(hidden, output)

    def forward(self, x: Tensor, state):
        y, state = self.lstm(x.unsqueeze(0), state)
        return self.linear(F.leaky_relu(y.squeeze(0), 0.01)), state


class MlpLayer(nn.Module):
    def __init__(self, input_width: int, hidden: int, dropout: float):
        super().__init__()
        self.linear = nn.Linear(input_width, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(F.leaky_relu(self.norm(self.linear(x)), 0.01))


class MlpDecoder(nn.Module):
    """One step of the stateless decoder, called like LstmDecoder."""

    def __init__(self, input_width: int, hidden: int, layers: int, output: int, dropout: float):
        super().__init__()
        widths = [input_width] + [hidden] * (layers - 1)
        self.layers = nn.Sequential(*(MlpLayer(width, hidden, dropout) for width in widths))
        self.linear = nn.Linear(hidden, output)

    def forward(self, x: Tensor, state):
        return self.linear(self.layers(x)), state


class TdsModel(nn.Module):
    """A TDS encoder, resampled to the rollout rate, and a decoder that rolls the pose out."""

    DECODERS = {"sequential_lstm": LstmDecoder, "mlp": MlpDecoder}

    def __init__(self, config: dict):
        super().__init__()
        self.config = config
        stages = config["tds_stages"]
        widths = [config["input_size"]] + [stage_width(stage) for stage in stages]
        self.encoder = nn.Sequential(
            *(TdsStage(width, stage) for width, stage in zip(widths, stages, strict=False))
        )
        pose_width = config["output_size"]
        self.decoder = self.DECODERS[config["decoder_type"]](
            widths[-1] + pose_width * config["decoder_state_condition"],
            config["decoder_hidden_size"],
            config["decoder_num_layers"],
            pose_width,
            config["dropout"],
        )

    def forward(self, emg: Tensor, first_pose: Tensor) -> Tensor:
        """Poses [B, W - context, J]; first_pose [B, J] is used where initial_pose is true."""
        rows = emg.shape[1] - left_context(self.config)
        features = F.interpolate(
            self.encoder(emg).transpose(1, 2),
            rollout_steps(self.config, rows),
            mode="linear",
            align_corners=True,
        )
        pose = first_pose if self.config["initial_pose"] else torch.zeros_like(first_pose)
        poses = self.roll_out(features.permute(2, 0, 1), pose)
        return F.interpolate(poses, rows, mode="linear", align_corners=False).transpose(1, 2)

    def roll_out(self, features: Tensor, pose: Tensor) -> Tensor:
        """Decodes features [n, B, width] one step at a time into poses [B, J, n]."""
        poses, state = [], None
        for x in features.unbind():
            if self.config["decoder_state_condition"]:
                x = torch.cat((x, pose), dim=1)
            output, state = self.decoder(x, state)
            pose = pose + output if self.config["predict_velocity"] else output
            poses.append(pose)
        return torch.stack(poses, dim=2)


def stage_width(stage: dict) -> int:
    return stage["channels"] * stage["feature_width"]


def left_context(config: dict) -> int:
    """Input rows before the first one that the valid convolutions leave an output for."""
    context, stride = 0, 1
    for stage in config["tds_stages"]:
        context += (stage["in_conv_kernel"] - 1) * stride
        stride *= stage["in_conv_stride"]
        context += stage["num_blocks"] * (stage["kernel_width"] - 1) * stride
    return context


def rollout_steps(config: dict, rows: int) -> int:
    """Decoder steps for that many output rows; Python rounds half to even."""
    return max(1, round(rows * config["rollout_freq"] / config["original_sampling_rate"]))


def masked_loss(prediction: Tensor, target: Tensor, mask: Tensor, settings: dict) -> Tensor:
    weights = mask.unsqueeze(2).expand_as(target)
    error = prediction - target

    def mean(elements: Tensor) -> Tensor:
        return (weights * elements).sum() / weights.sum().clamp(min=1)

    match settings["loss_type"]:
        case "mse":
            return mean(error.square())
        case "mae":
            return mean(error.abs())
        case "mse+mae":
            return mean(error.square()) + settings["mae_weight"] * mean(error.abs())
        case unknown:
            raise ValueError(f"loss_type {unknown!r}: expected mse, mae or mse+mae")


# The cases.


@dataclass(frozen=True)
class Case:
    seed: int
    batch: int
    window: int
    loss_type: str
    config: dict

    @property
    def loss_settings(self) -> dict:
        return {"loss_type": self.loss_type, "mae_weight": 0.5}


def model_config(**changes) -> dict:
    """The `model` section: its defaults, without dropout, and with these changes."""
    defaults = {
        "type": "tds_lstm",
        "input_size": 16,
        "output_size": 20,
        "tds_stages": DEFAULT_STAGES,
        "decoder_type": "sequential_lstm",
        "decoder_hidden_size": 128,
        "decoder_num_layers": 2,
        "decoder_state_condition": True,
        "rollout_freq": 50,
        "original_sampling_rate": 2000,
        "predict_velocity": False,
        "initial_pose": False,
        "dropout": 0.0,
    }
    return defaults | changes


CASES = {
    "lstm_velocity": Case(
        seed=2,
        batch=3,
        window=61,
        loss_type="mse",
        config=model_config(
            input_size=8,
            output_size=5,
            tds_stages=[tds_stage(5, 2, 1, 4, 3, 7)],
            decoder_hidden_size=12,
            rollout_freq=30,
            original_sampling_rate=200,
            predict_velocity=True,
            initial_pose=True,
        ),
    ),
    # More decoder steps than encoder outputs: the features are stretched.
    "lstm_unconditioned": Case(
        seed=3,
        batch=3,
        window=48,
        loss_type="mae",
        config=model_config(
            input_size=6,
            output_size=4,
            tds_stages=[tds_stage(3, 3, 2, 2, 5, 4)],
            decoder_hidden_size=10,
            decoder_num_layers=1,
            decoder_state_condition=False,
            rollout_freq=50,
            original_sampling_rate=100,
        ),
    ),
    # 34 rows at a quarter of the rate are 8.5 steps, which rounds to 8.
    "mlp": Case(
        seed=4,
        batch=4,
        window=66,
        loss_type="mse+mae",
        config=model_config(
            type="tds_mlp",
            input_size=8,
            output_size=5,
            tds_stages=[tds_stage(5, 2, 1, 4, 3, 5), tds_stage(3, 2, 2, 3, 5, 3)],
            decoder_type="mlp",
            decoder_hidden_size=16,
            rollout_freq=50,
            original_sampling_rate=200,
        ),
    ),
    "mlp_velocity": Case(
        seed=5,
        batch=3,
        window=64,
        loss_type="mse+mae",
        config=model_config(
            type="tds_mlp",
            input_size=7,
            output_size=6,
            tds_stages=[tds_stage(4, 2, 1, 5, 2, 6)],
            decoder_type="mlp",
            decoder_hidden_size=14,
            decoder_num_layers=3,
            decoder_state_condition=False,
            rollout_freq=25,
            original_sampling_rate=200,
            predict_velocity=True,
        ),
    ),
}


def randomize(model: nn.Module, generator: torch.Generator) -> None:
    """Draws every parameter, so that no scale is 1 and no bias is 0."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise / prod(parameter.shape[1:]) ** 0.5)
            else:
                is_scale = "norm" in name and name.endswith("weight")
                parameter.copy_(0.1 * noise + float(is_scale))


def smooth_angles(batch: int, rows: int, joints: int, generator: torch.Generator) -> Tensor:
    """Sums of three slow sines with their own amplitudes, rates and phases."""
    time = torch.linspace(0, 1, rows).reshape(1, rows, 1, 1)
    amplitude, rate, phase = torch.rand(3, batch, 1, joints, 3, generator=generator)
    return (0.5 * amplitude * torch.sin(tau * (3 * rate * time + phase))).sum(3)


def failing_mask(batch: int, rows: int, generator: torch.Generator) -> Tensor:
    """Two failed stretches an example; the first row, a true initial pose, stays valid."""
    mask = torch.ones(batch, rows)
    for example in mask:
        for start in torch.randint(1, rows, (2,), generator=generator).tolist():
            length = int(torch.randint(1, rows // 4, (), generator=generator))
            example[start : start + length] = 0
    return mask


OPTIMIZERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-3, weight_decay=0.01),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=0.01),
}


def compute(case: Case) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(case.seed)
    config = case.config
    rows = case.window - left_context(config)
    joints = config["output_size"]

    model = TdsModel(config)
    randomize(model, generator)
    model.double()
    emg = torch.randn(case.batch, case.window, config["input_size"], generator=generator).double()
    target = smooth_angles(case.batch, rows, joints, generator).double()
    mask = failing_mask(case.batch, rows, generator).double()

    tensors = {"emg": emg, "target": target, "mask": mask}
    start = {name: value.clone() for name, value in model.state_dict().items()}
    for name, make in OPTIMIZERS.items():
        model.load_state_dict(start)
        optimizer = make(model.parameters())
        losses = []
        for step in range(20):
            prediction = model(emg, target[:, 0])
            loss = masked_loss(prediction, target, mask, case.loss_settings)
            optimizer.zero_grad()
            loss.backward()
            losses.append(loss.item())
            if step == 0:
                tensors["prediction"] = prediction.detach()
                for parameter_name, parameter in model.named_parameters():
                    tensors[f"param.{parameter_name}"] = parameter.detach().clone()
                    tensors[f"grad.{parameter_name}"] = parameter.grad.clone()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        tensors[f"losses.{name}"] = torch.tensor(losses)
    return tensors


def save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes float32 safetensors by hand: the library does not keep the metadata's order."""
    header, blobs, offset = {"__metadata__": metadata}, [], 0
    for name, tensor in sorted(tensors.items()):
        blob = tensor.numpy().astype("<f4").tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(blob)],
        }
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: make_golden.py OUTDIR")
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, case in CASES.items():
        metadata = {
            "config": json.dumps(case.config),
            "loss": json.dumps(case.loss_settings),
        }
        save(folder / f"{name}.safetensors", compute(case), metadata)


if __name__ == "__main__":
    main()
