#!/usr/bin/env python3
"""Networks of the usual kinds and sizes, none of them one of this project's presets: what `compare-gpu --models` and
`compare-step --models` train on both sides.

    zoo.py FOLDER [NAMES]     writes NAME.onnx for each (all if none is named), as docs/exported-models.md tells users to

Each takes EMG [batch, 2000, 16] and gives joint angles [batch, 2000, 20].
"""

import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROWS, CHANNELS, JOINTS = 2000, 16, 20


def resized(x: Tensor) -> Tensor:
    """[batch, channels, steps] at the window's rate, rows first."""
    return F.interpolate(x, size=ROWS, mode="linear", align_corners=False).transpose(1, 2)


class Residual(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(width_in, width, 7, stride, 3, bias=False), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Conv1d(width, width, 7, 1, 3, bias=False), nn.BatchNorm1d(width),
        )  # fmt: skip
        changes = stride > 1 or width_in != width
        self.skip = nn.Conv1d(width_in, width, 1, stride, bias=False) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


class ResNet(nn.Module):
    """15 convolutions of 7 taps, 64 to 512 wide, in residual blocks with batch normalization."""

    def __init__(self):
        super().__init__()
        widths = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
        self.stem = nn.Sequential(nn.Conv1d(CHANNELS, 64, 7, 2, 3, bias=False), nn.BatchNorm1d(64), nn.ReLU())
        self.blocks = nn.Sequential(*(Residual(*block) for block in widths))
        self.head = nn.Conv1d(512, JOINTS, 1)

    def forward(self, emg: Tensor) -> Tensor:
        return resized(self.head(self.blocks(self.stem(emg.transpose(1, 2)))))


class UNet(nn.Module):
    """14 convolutions of 9 taps with batch normalization, down by pooling and up by transposed convolutions."""

    def __init__(self):
        super().__init__()
        widths = [32, 64, 128, 256]
        self.down = nn.ModuleList(self.pair(i, o) for i, o in zip([CHANNELS, *widths], widths))
        self.up = nn.ModuleList(nn.ConvTranspose1d(o, i, 2, 2) for i, o in zip(widths, widths[1:]))
        self.merge = nn.ModuleList(self.pair(2 * width, width) for width in widths[:-1])
        self.head = nn.Conv1d(widths[0], JOINTS, 1)

    @staticmethod
    def pair(width_in: int, width: int) -> nn.Module:
        block = [nn.Conv1d(width_in, width, 9, padding=4), nn.BatchNorm1d(width), nn.ReLU()]
        return nn.Sequential(*block, nn.Conv1d(width, width, 9, padding=4), nn.BatchNorm1d(width), nn.ReLU())

    def forward(self, emg: Tensor) -> Tensor:
        x, kept = emg.transpose(1, 2), []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else F.max_pool1d(x, 2))
            kept.append(x)
        for i in reversed(range(3)):
            x = self.merge[i](torch.cat([self.up[i](x), kept[i]], 1))
        return self.head(x).transpose(1, 2)


class Causal(nn.Module):
    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.pad = 4 * dilation
        self.conv, self.dropout = nn.Conv1d(width, width, 5, dilation=dilation), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(F.gelu(self.conv(F.pad(x, (self.pad, 0)))))


class Tcn(nn.Module):
    """8 dilated causal convolutions 128 wide, with GELU and dropout."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv1d(CHANNELS, 128, 1), nn.Conv1d(128, JOINTS, 1)
        self.blocks = nn.Sequential(*(Causal(128, 2**i) for i in range(8)))

    def forward(self, emg: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(emg.transpose(1, 2)))).transpose(1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.depthwise, self.norm = nn.Conv1d(width, width, 15, padding=7, groups=width), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).transpose(1, 2))
        return x + self.narrow(F.gelu(self.wide(y))).transpose(1, 2)


class ConvNeXt(nn.Module):
    """8 blocks 128 wide of depthwise convolutions of 15 taps, layer normalization and GELU."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv1d(CHANNELS, 128, 4, 4), nn.Conv1d(128, JOINTS, 1)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(128) for _ in range(8)))

    def forward(self, emg: Tensor) -> Tensor:
        return resized(self.head(self.blocks(self.stem(emg.transpose(1, 2)))))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.norm, self.after = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        batch, steps, width = x.shape
        split = self.qkv(self.norm(x)).reshape(batch, steps, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, steps, width)
        x = x + self.dropout(self.out(y))
        return x + self.dropout(self.narrow(F.gelu(self.wide(self.after(x)))))


class Transformer(nn.Module):
    """6 layers 256 wide of 8 heads over 250 tokens, scaled dot product attention, dropout."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv1d(CHANNELS, 256, 8, 8), nn.Linear(256, JOINTS)
        self.place = nn.Parameter(0.02 * torch.randn(1, ROWS // 8, 256))
        self.blocks = nn.Sequential(*(Attention(256, 8) for _ in range(6)))

    def forward(self, emg: Tensor) -> Tensor:
        x = self.stem(emg.transpose(1, 2)).transpose(1, 2) + self.place
        return resized(self.head(self.blocks(x)).transpose(1, 2))


class Recurrent(nn.Module):
    """Two strided convolutions, then a bidirectional GRU or LSTM of 2 x 256 over 100 steps."""

    def __init__(self, kind: type[nn.Module]):
        super().__init__()
        self.first, self.second = nn.Conv1d(CHANNELS, 64, 9, 4, 4), nn.Conv1d(64, 128, 9, 5, 4)
        self.layers = kind(128, 256, 1, batch_first=True, bidirectional=True)
        self.head = nn.Linear(512, JOINTS)

    def forward(self, emg: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.first(emg.transpose(1, 2)))))
        return resized(self.head(self.layers(x.transpose(1, 2))[0]).transpose(1, 2))


class Separable(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int):
        super().__init__()
        self.depthwise = nn.Conv1d(width_in, width_in, 9, stride, 4, groups=width_in, bias=False)
        self.pointwise = nn.Conv1d(width_in, width, 1, bias=False)
        self.norms = nn.ModuleList([nn.GroupNorm(8, width_in), nn.GroupNorm(8, width)])
        self.squeeze, self.excite = nn.Conv1d(width, width // 4, 1), nn.Conv1d(width // 4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norms[1](self.pointwise(F.silu(self.norms[0](self.depthwise(x))))))
        return x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean(2, keepdim=True)))))


class MobileNet(nn.Module):
    """8 depthwise separable convolutions 64 to 256 wide with group normalization, SiLU, squeeze and excitation."""

    def __init__(self):
        super().__init__()
        widths = [(64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 128, 1), (128, 256, 2), *[(256, 256, 1)] * 3]
        self.stem = nn.Conv1d(CHANNELS, 64, 9, 2, 4)
        self.blocks = nn.Sequential(*(Separable(*block) for block in widths))
        self.head = nn.Conv1d(256, JOINTS, 1)

    def forward(self, emg: Tensor) -> Tensor:
        return resized(self.head(self.blocks(self.stem(emg.transpose(1, 2)))))


NETWORKS = {
    "resnet": ResNet,
    "unet": UNet,
    "tcn": Tcn,
    "convnext": ConvNeXt,
    "transformer": Transformer,
    "gru": lambda: Recurrent(nn.GRU),
    "lstm2": lambda: Recurrent(nn.LSTM),
    "mobilenet": MobileNet,
}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]().train()


def export(name: str, path: Path) -> None:
    """In training mode, as TorchScript's exporter writes it, which needs no other package."""
    warnings.filterwarnings("ignore")
    torch.onnx.export(
        network(name), (torch.zeros(2, ROWS, CHANNELS),), str(path), dynamo=False, input_names=["emg"],
        dynamic_axes={"emg": {0: "batch"}}, training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False,
    )  # fmt: skip


def main() -> None:
    folder, *names = sys.argv[1:]
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names or NETWORKS:
        export(name, Path(folder) / f"{name}.onnx")


if __name__ == "__main__":
    main()
