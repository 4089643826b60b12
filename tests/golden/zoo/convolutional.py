"""Convolutional networks."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from .base import CHANNELS, JOINTS, Network


class CnnBatchNorm(nn.Module):
    """Convolutions without bias, each followed by batch norm and ReLU."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(CHANNELS, width, kernel_size=5, padding=2, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Conv1d(width, width, kernel_size=3, padding="same"),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Conv1d(width, JOINTS, kernel_size=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class CnnPose(nn.Module):
    """Strided convolutions, max and average pools, adaptive pooling, and one pose per window."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(CHANNELS, width, kernel_size=3, stride=2, padding=1),
            nn.BatchNorm1d(width, affine=False),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(width, 2 * width, kernel_size=3, padding=1),
            nn.ReLU6(),
            nn.AvgPool1d(3, stride=1, padding=1),
        )
        self.average = nn.AdaptiveAvgPool1d(2)
        self.maximum = nn.AdaptiveMaxPool1d(1)
        self.head = nn.Linear(3 * 2 * width, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.head(torch.cat([self.average(x).flatten(1), self.maximum(x).flatten(1)], dim=1))


class EegNet(nn.Module):
    """EEGNet in 2-d: temporal, depthwise spatial and separable convolutions; output rate T / 4."""

    def __init__(self, filters: int = 4, depth: int = 2) -> None:
        super().__init__()
        wide = filters * depth
        self.temporal = nn.Conv2d(1, filters, (1, 9), padding=(0, 4), bias=False)
        self.norm1 = nn.BatchNorm2d(filters)
        self.spatial = nn.Conv2d(filters, wide, (CHANNELS, 1), groups=filters, bias=False)
        self.norm2 = nn.BatchNorm2d(wide)
        self.depthwise = nn.Conv2d(wide, wide, (1, 5), padding=(0, 2), groups=wide, bias=False)
        self.pointwise = nn.Conv2d(wide, wide, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(wide)
        self.head = nn.Conv1d(wide, JOINTS, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.temporal(x.unsqueeze(1)))
        x = F.avg_pool2d(F.elu(self.norm2(self.spatial(x))), (1, 2))
        x = F.avg_pool2d(F.elu(self.norm3(self.pointwise(self.depthwise(x)))), (1, 2))
        return self.head(x.squeeze(2))


TCN_DILATIONS = (1, 2, 4)


class TcnCropped(nn.Module):
    """Valid dilated causal convolutions with cropped residual skips; the output lacks the context."""

    def __init__(self, width: int = 10) -> None:
        super().__init__()
        self.embed = nn.Conv1d(CHANNELS, width, 1)
        self.convs = nn.ModuleList(nn.Conv1d(width, width, 3, dilation=d) for d in TCN_DILATIONS)
        self.head = nn.Conv1d(width, JOINTS, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for conv in self.convs:
            y = F.relu(conv(x))
            x = x[..., -y.shape[-1] :] + y
        return self.head(x)


class TcnWeightNorm(nn.Module):
    """Bai's TCN: weight-normed dilated convolutions, padded on both sides and chomped to be causal."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        sizes = [CHANNELS, width, width]
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv1d(a, b, 3, padding=2 * 2**i, dilation=2**i)) for i, (a, b) in enumerate(pairwise(sizes))
        )
        self.skips = nn.ModuleList(nn.Conv1d(a, b, 1) if a != b else nn.Identity() for a, b in pairwise(sizes))
        self.head = weight_norm(nn.Linear(width, JOINTS))

    def forward(self, x: Tensor) -> Tensor:
        for i, (conv, skip) in enumerate(zip(self.convs, self.skips, strict=True)):
            x = F.relu(F.relu(conv(x)[..., : -2 * 2**i]) + skip(x))
        return self.head(x.transpose(1, 2)).transpose(1, 2)


class WaveNet(nn.Module):
    """Gated tanh / sigmoid dilated convolutions, left padded, with summed skips."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv1d(CHANNELS, width, 1)
        self.gated = nn.ModuleList(nn.Conv1d(width, 2 * width, 2, dilation=2**i) for i in range(4))
        self.residual = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(4))
        self.skip = nn.ModuleList(nn.Conv1d(width, width, 1, bias=False) for _ in range(4))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, JOINTS, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        skips = []
        for i, (gated, residual, skip) in enumerate(zip(self.gated, self.residual, self.skip, strict=True)):
            value, gate = gated(F.pad(x, (2**i, 0))).split(x.shape[1], dim=1)
            y = torch.tanh(value) * torch.sigmoid(gate)
            skips.append(skip(y))
            x = x + residual(y)
        return self.head(torch.stack(skips).sum(dim=0))


class ResidualBlock1d(nn.Module):
    """The basic block of a ResNet, in one dimension."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm1d(outputs)
        self.conv2 = nn.Conv1d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm1d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv1d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm1d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet-1d with projected shortcuts; the second norm of each block starts at zero; output rate T / 2."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        blocks = [ResidualBlock1d(CHANNELS, width), ResidualBlock1d(width, 2 * width, stride=2)]
        for block in blocks:
            nn.init.zeros_(block.norm2.weight)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Conv1d(2 * width, JOINTS, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x))


class UNet(nn.Module):
    """U-Net-1d: max-pooled encoder, transposed convolutions up, and concatenated skips."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.down1 = nn.Conv1d(CHANNELS, width, 3, padding=1)
        self.down2 = nn.Conv1d(width, 2 * width, 3, padding=1)
        self.bottom = nn.Conv1d(2 * width, 2 * width, 3, padding=1)
        self.up2 = nn.ConvTranspose1d(2 * width, 2 * width, 2, stride=2)
        self.merge2 = nn.Conv1d(4 * width, width, 3, padding=1)
        self.up1 = nn.ConvTranspose1d(width, width, 4, stride=2, padding=1)
        self.merge1 = nn.Conv1d(2 * width, width, 3, padding=1)
        self.head = nn.Conv1d(width, JOINTS, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.down1(x))
        b = F.relu(self.down2(F.max_pool1d(a, 2)))
        c = F.relu(self.bottom(F.max_pool1d(b, 2)))
        b = F.relu(self.merge2(torch.cat([self.up2(c), b], dim=1)))
        a = F.relu(self.merge1(torch.cat([self.up1(b), a], dim=1)))
        return self.head(a)


class UNetUpsample(nn.Module):
    """Decoder by linear and nearest upsampling, with group norm and additive skips."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv1d(CHANNELS, width, 3, padding=1), nn.GroupNorm(2, width), nn.SiLU())
        self.down2 = nn.Sequential(nn.Conv1d(width, width, 3, stride=2, padding=1), nn.GroupNorm(4, width), nn.SiLU())
        self.down3 = nn.Sequential(nn.Conv1d(width, width, 3, stride=2, padding=1), nn.GroupNorm(1, width), nn.SiLU())
        self.linear = nn.Upsample(scale_factor=2, mode="linear", align_corners=False)
        self.head = nn.Conv1d(width, JOINTS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(a)
        b = b + self.linear(self.down3(b))
        return self.head(a + F.interpolate(b, scale_factor=2, mode="nearest"))


class SqueezeExcite(nn.Module):
    """Instance-normed convolutions gated by squeeze and excitation, with a gate of sigmoid(parameter)."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv1d(CHANNELS, width, 5, padding=2, padding_mode="replicate")
        self.norm = nn.InstanceNorm1d(width, affine=True)
        self.pool = nn.AdaptiveAvgPool1d(1)
        self.excite = nn.Sequential(
            nn.Conv1d(width, width // 4, 1), nn.SiLU(), nn.Conv1d(width // 4, width, 1), nn.Sigmoid()
        )
        self.mix = nn.Conv1d(width, width, 3, padding=1, padding_mode="reflect")
        self.gate = nn.Parameter(torch.zeros(width, 1))
        self.head = nn.Conv1d(width, JOINTS, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = x * self.excite(self.pool(x))
        gate = torch.sigmoid(self.gate)
        return self.head(gate * x + (1 - gate) * self.mix(x))


class ConvNeXt(nn.Module):
    """ConvNeXt-1d: depthwise convolution, layer norm over channels, pointwise MLP and layer scale."""

    def __init__(self, width: int = 8, depth: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv1d(CHANNELS, width, 3, padding=1)
        self.depthwise = nn.ModuleList(nn.Conv1d(width, width, 7, padding=3, groups=width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(depth))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width)) for _ in range(depth)
        )
        self.scales = nn.ParameterList(nn.Parameter(torch.full((width,), 1e-2)) for _ in range(depth))
        self.head = nn.Conv1d(width, JOINTS, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for conv, norm, mlp, scale in zip(self.depthwise, self.norms, self.mlps, self.scales, strict=True):
            y = scale * mlp(norm(conv(x).permute(0, 2, 1)))
            x = x + y.permute(0, 2, 1)
        return self.head(x)


class PixelShuffle(nn.Module):
    """Strided encoder and sub-pixel decoder: nn.PixelShuffle on [B, C, H, W] and its 1-d form by reshape."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.encode = nn.Conv1d(CHANNELS, width, 8, stride=4, padding=2)
        self.expand = nn.Conv1d(width, 2 * width, 3, padding=1)
        self.image = nn.Conv2d(width, 4 * JOINTS, (1, 3), padding=(0, 1))
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.encode(x))
        y = self.expand(x)
        batch, channels, length = y.shape
        y = y.reshape(batch, channels // 2, 2, length).transpose(2, 3).reshape(batch, channels // 2, 2 * length)
        return self.shuffle(self.image(y.unsqueeze(2))).mean(dim=2)


class InputNormalized(nn.Module):
    """Windows standardized a channel (instance norm), reflected padding, and a high-pass filter buffer."""

    highpass: Tensor

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.standardize = nn.InstanceNorm1d(CHANNELS)
        self.register_buffer("highpass", torch.tensor([-0.25, 0.5, -0.25]).expand(CHANNELS, 1, 3).clone())
        self.conv = nn.Conv1d(CHANNELS, width, 5)
        self.norm = nn.InstanceNorm1d(width, affine=True)
        self.head = nn.Conv1d(width, JOINTS, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv1d(self.standardize(x), self.highpass, padding=1, groups=CHANNELS)
        return self.head(F.gelu(self.norm(self.conv(F.pad(x, (2, 2), mode="reflect")))))


class TopkPool(nn.Module):
    """The five largest activations in time, the least and log-sum-exp, to one pose."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv1d(CHANNELS, width, 5)
        self.head = nn.Linear(6 * width, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        top = x.topk(5, dim=-1).values
        pooled = [top[..., :3].flatten(1), top[..., 4], x.min(dim=-1).values, x.logsumexp(dim=-1)]
        return self.head(torch.cat(pooled, dim=1))


NETWORKS = {
    "cnn_batch_norm": Network(CnnBatchNorm, channels_first=True),
    "cnn_pose": Network(CnnPose, channels_first=True),
    "eegnet": Network(EegNet, channels_first=True),
    "tcn_cropped": Network(TcnCropped, channels_first=True, context=2 * sum(TCN_DILATIONS)),
    "tcn_weight_norm": Network(TcnWeightNorm, channels_first=True),
    "wavenet": Network(WaveNet, channels_first=True),
    "resnet": Network(ResNet, channels_first=True),
    "unet": Network(UNet, channels_first=True),
    "unet_upsample": Network(UNetUpsample, channels_first=True),
    "squeeze_excite": Network(SqueezeExcite, channels_first=True),
    "convnext": Network(ConvNeXt, channels_first=True),
    "pixel_shuffle": Network(PixelShuffle, channels_first=True),
    "input_normalized": Network(InputNormalized, channels_first=True),
    "topk_pool": Network(TopkPool, channels_first=True),
}
