"""Convolutions over rows."""

from typing import Literal

from torch import nn
from torch.nn import functional as F

from .base import ROWS, Formula, Layer, Rng, channels_first, normal, same_width


def conv1d(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    kernel = rng.choice([3, 5])
    return channels_first(nn.Conv1d(d_in, d_out, kernel, padding=kernel // 2))


def grouped(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    inner = nn.Conv1d(6, 6, 3, padding=1, groups=rng.choice([2, 3]), bias=False)
    return channels_first(nn.Sequential(nn.Conv1d(d_in, 6, 1), inner, nn.Conv1d(6, d_out, 1)))


def dilated(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    dilation = rng.choice([2, 3, 4])
    return channels_first(nn.Conv1d(d_in, d_out, 3, padding=dilation, dilation=dilation))


def causal(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    return channels_first(Formula(lambda x, conv: conv(F.pad(x, (3, 0))), conv=nn.Conv1d(d_in, d_out, 4)))


def causal_chomp(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    conv = nn.Conv1d(d_in, d_out, 3, padding=4, dilation=2)
    return channels_first(Formula(lambda x, conv: conv(x)[:, :, :-4].contiguous(), conv=conv))


def stride_upsample(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    conv = nn.Conv1d(d_in, d_out, 3, stride=2, padding=1)
    return channels_first(nn.Sequential(conv, nn.Upsample(scale_factor=2.0, mode="nearest")))


def padding_mode(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    modes: list[Literal["reflect", "replicate", "circular"]] = ["reflect", "replicate", "circular"]
    return channels_first(nn.Conv1d(d_in, d_out, 3, padding=1, padding_mode=rng.choice(modes)))


def flipped_kernel(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    return channels_first(
        Formula(
            lambda x, kernel, bias: F.conv1d(x, kernel.flip(-1) * 0.5, bias, padding=1),
            kernel=normal(d_out, d_in, 3),
            bias=normal(d_out),
        )
    )


def transpose_stride(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    up = nn.ConvTranspose1d(d_in, d_out, 3, stride=2, padding=1, output_padding=1)
    return channels_first(nn.Sequential(nn.AvgPool1d(2), up))


def transpose_grouped(rng: Rng, width: int) -> nn.Module:
    return channels_first(nn.ConvTranspose1d(width, width, 3, padding=2, dilation=2, groups=width, bias=False))


def conv2d(rng: Rng, width: int) -> nn.Module:
    inner = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 1, (3, 1), padding=(1, 0)))
    return Formula(lambda x, inner: inner(x.unsqueeze(1)).squeeze(1), inner=inner)


def pixel_shuffle(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    return channels_first(
        Formula(
            lambda x, conv: F.pixel_shuffle(conv(x).unsqueeze(-1), 2).mean(dim=-1),
            conv=nn.Conv1d(d_in, 4 * d_out, 2, stride=2),
        )
    )


def space_to_depth(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    return Formula(
        lambda x, mix: mix(x.reshape(-1, ROWS // 2, 2 * d_in)).reshape(-1, ROWS, d_out),
        mix=nn.Linear(2 * d_in, 2 * d_out),
    )


def conv_batch_norm_relu(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    conv = nn.Conv1d(d_in, d_out, 3, padding=1, bias=rng.random() < 0.5)
    return channels_first(nn.Sequential(conv, nn.BatchNorm1d(d_out), nn.ReLU()))


LAYERS = {
    "conv1d": Layer(conv1d),
    "conv1d_kernel_1": Layer(lambda rng, d_in, d_out: channels_first(nn.Conv1d(d_in, d_out, 1))),
    "conv1d_same_even": Layer(lambda rng, d_in, d_out: channels_first(nn.Conv1d(d_in, d_out, 4, padding="same"))),
    "conv1d_depthwise": same_width(
        lambda rng, width: channels_first(nn.Conv1d(width, width, 5, padding=2, groups=width))
    ),
    "conv1d_grouped": Layer(grouped),
    "conv1d_dilated": Layer(dilated),
    "conv1d_causal": Layer(causal),
    "conv1d_causal_chomp": Layer(causal_chomp),
    "conv1d_stride_upsample": Layer(stride_upsample),
    "conv1d_padding_mode": Layer(padding_mode),
    "conv1d_flipped_kernel": Layer(flipped_kernel),
    "conv_transpose1d_stride": Layer(transpose_stride),
    "conv_transpose1d_grouped": same_width(transpose_grouped),
    "conv2d": same_width(conv2d),
    "pixel_shuffle": Layer(pixel_shuffle),
    "space_to_depth": Layer(space_to_depth),
    "conv_batch_norm_relu": Layer(conv_batch_norm_relu),
}
