"""Rows and features moved, picked, pooled and resized."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import ROWS, Formula, Layer, Rng, channels_first, function, normal, same_width


def embedding_positions(rng: Rng, width: int) -> nn.Module:
    positions = torch.arange(ROWS) // 4
    return Formula(lambda x, table, positions: x + table(positions), table=nn.Embedding(10, width), positions=positions)


def position_table(rng: Rng, width: int) -> nn.Module:
    return Formula(lambda x, table: x + table[:, : x.shape[1]], table=normal(1, ROWS + 5, width, scale=0.3))


def gather_features(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    def forward(x: Tensor, index: Tensor, gain: Tensor) -> Tensor:
        return torch.gather(x, 2, index.expand(x.shape[0], ROWS, -1)) * gain

    index = torch.tensor([rng.randrange(d_in) for _ in range(d_out)])
    return Formula(forward, index=index, gain=normal(d_out, about=1.0))


def index_select_features(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    index = torch.tensor([rng.randrange(d_in) for _ in range(d_out)])
    return Formula(lambda x, index: x.index_select(-1, index), index=index)


def index_rows(rng: Rng, width: int) -> nn.Module:
    index = torch.tensor([rng.randrange(ROWS) for _ in range(ROWS)])
    return Formula(lambda x, index: x + 0.5 * x[:, index], index=index)


def index_parameter(rng: Rng, width: int) -> nn.Module:
    index = torch.tensor([rng.randrange(5) for _ in range(ROWS)])
    return Formula(lambda x, gains, index: x * gains[index], gains=normal(5, width, about=1.0), index=index)


def roll(rng: Rng, width: int) -> nn.Module:
    shift = rng.choice([-1, 0, 1])
    return Formula(lambda x, gain: x + gain * torch.roll(x, shift, dims=1), gain=normal(1))


def pad_taps(rng: Rng, width: int) -> nn.Module:
    mode = rng.choice(["reflect", "replicate", "constant"])

    def forward(x: Tensor, taps: Tensor) -> Tensor:
        padded = F.pad(x, (2, 2), mode=mode)
        return torch.stack([taps[i] * padded[:, :, i : i + ROWS] for i in range(5)]).sum(dim=0)

    return channels_first(Formula(forward, taps=normal(5)))


def unfold_windows(rng: Rng, width: int) -> nn.Module:
    return Formula(
        lambda x, window: F.pad((x.unfold(1, 3, 1) * window).sum(dim=-1), (0, 0, 1, 1)),
        window=normal(3),
    )


def avg_pool(rng: Rng, width: int) -> nn.Module:
    return channels_first(nn.AvgPool1d(3, stride=1, padding=1, count_include_pad=rng.random() < 0.5))


def max_pool_upsample(rng: Rng, width: int) -> nn.Module:
    return channels_first(nn.Sequential(nn.MaxPool1d(2), nn.Upsample(scale_factor=2)))


def adaptive_pool_interpolate(rng: Rng, width: int) -> nn.Module:
    size = rng.choice([5, 8, 10])
    return channels_first(
        Formula(lambda x: F.interpolate(F.adaptive_avg_pool1d(x, size), size=ROWS, mode="linear", align_corners=False))
    )


def interpolate_linear(rng: Rng, width: int) -> nn.Module:
    corners = rng.random() < 0.5
    return channels_first(
        Formula(lambda x: F.interpolate(x[:, :, ::2], scale_factor=2.0, mode="linear", align_corners=corners))
    )


def time_blocks(rng: Rng, width: int) -> nn.Module:
    def forward(x: Tensor, gains: Tensor) -> Tensor:
        return (x.view(-1, 8, 5, width) * gains.view(1, 1, 5, 1) + gains.mean()).flatten(1, 2)

    return Formula(forward, gains=normal(5, about=1.0))


def repeat_parameter(rng: Rng, width: int) -> nn.Module:
    return Formula(lambda x, gains: x * gains.repeat(ROWS // 4, 1), gains=normal(4, width, about=1.0))


LAYERS = {
    "embedding_positions": same_width(embedding_positions),
    "position_table": same_width(position_table),
    "gather_features": Layer(gather_features),
    "index_select_features": Layer(index_select_features),
    "index_rows": same_width(index_rows),
    "index_parameter": same_width(index_parameter),
    "roll": same_width(roll),
    "flip_features": function(lambda x: x.flip(-1)),
    "difference_of_rows": function(lambda x: torch.cat([x[:, :1], x[:, 1:] - x[:, :-1]], dim=1)),
    "every_other_row": function(lambda x: x[:, ::2].repeat_interleave(2, dim=1)),
    "pad_taps": same_width(pad_taps),
    "unfold_windows": same_width(unfold_windows),
    "max_pool": same_width(lambda rng, width: channels_first(nn.MaxPool1d(3, stride=1, padding=1))),
    "max_pool_upsample": same_width(max_pool_upsample),
    "avg_pool": same_width(avg_pool),
    "adaptive_pool_interpolate": same_width(adaptive_pool_interpolate),
    "interpolate_linear": same_width(interpolate_linear),
    "time_blocks": same_width(time_blocks),
    "repeat_parameter": same_width(repeat_parameter),
}
