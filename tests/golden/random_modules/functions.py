"""Functions of one tensor, with and without parameters, and normalization."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import ROWS, Formula, Rng, channels_first, function, normal, same_width

FUNCTIONS = {
    "relu": function(F.relu),
    "leaky_relu": function(lambda x: F.leaky_relu(x, 0.2)),
    "elu": function(lambda x: F.elu(x, alpha=0.7)),
    "gelu_erf": function(F.gelu),
    "gelu_tanh": function(lambda x: F.gelu(x, approximate="tanh")),
    "silu": function(F.silu),
    "mish": function(F.mish),
    "softplus": function(lambda x: F.softplus(x, beta=2.0, threshold=15.0)),
    "hardswish": function(lambda x: F.hardswish(2 * x + 0.03)),
    "hardsigmoid": function(lambda x: F.hardsigmoid(3 * x + 0.07)),
    "softshrink": function(lambda x: F.softshrink(x, 0.23)),
    "softmax_features": function(lambda x: 2 * F.softmax(x, dim=-1)),
    "softmax_time": function(lambda x: 10 * F.softmax(x, dim=1)),
    "log_softmax": function(lambda x: 0.5 * F.log_softmax(x, dim=-1)),
    "abs": function(torch.abs),
    "clamp": function(lambda x: torch.clamp(x, -0.73, 0.87)),
    "where_sign": function(lambda x: torch.where(x > 0, torch.tanh(x), 0.3 * x)),
    "cube": function(lambda x: torch.tanh(x) ** 3),
    "sqrt_square": function(lambda x: torch.sqrt(x * x + 1e-2)),
    "log1p_square": function(lambda x: torch.log1p(x**2)),
    "sin": function(torch.sin),
    "atan": function(torch.atan),
    "erf": function(torch.erf),
    "sinc": function(torch.sinc),
    "reciprocal": function(lambda x: torch.reciprocal(1 + x * x)),
    "cumsum": function(lambda x: torch.cumsum(x, dim=1) / ROWS),
    "mean_time": function(lambda x: x - x.mean(dim=1, keepdim=True).expand_as(x)),
    "max_time": function(lambda x: x - 0.5 * x.max(dim=1, keepdim=True).values),
    "amin_features": function(lambda x: torch.tanh(x - x.amin(dim=-1, keepdim=True))),
    "logsumexp_features": function(lambda x: 0.5 * x - 0.5 * torch.logsumexp(x, dim=-1, keepdim=True)),
    "prod_features": function(lambda x: x * torch.prod(1 + 0.2 * torch.tanh(x), dim=-1, keepdim=True)),
    "topk_values": function(lambda x: torch.topk(x, x.shape[-1], dim=-1).values),
}


def layer_norm_no_affine(rng: Rng, width: int) -> nn.Module:
    return nn.LayerNorm(width, elementwise_affine=False, eps=1e-3)


def group_norm(rng: Rng, width: int) -> nn.Module:
    return channels_first(nn.GroupNorm(rng.choice([n for n in range(1, width + 1) if width % n == 0]), width))


def rms_norm(rng: Rng, width: int) -> nn.Module:
    def forward(x: Tensor, scale: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + 1e-2) * scale

    return Formula(forward, scale=normal(width, scale=0.2, about=1.0))


def l2_normalize(rng: Rng, width: int) -> nn.Module:
    return Formula(lambda x, shift: F.normalize(x + shift, dim=-1), shift=normal(width))


def l1_norm(rng: Rng, width: int) -> nn.Module:
    def forward(x: Tensor, shift: Tensor) -> Tensor:
        return x / (torch.norm(x + shift, p=1, dim=1, keepdim=True) / ROWS + 1)

    return Formula(forward, shift=normal(width))


def std_features(rng: Rng, width: int) -> nn.Module:
    def forward(x: Tensor, shift: Tensor) -> Tensor:
        return x / ((x + shift).std(dim=-1, keepdim=True) + 0.5)

    return Formula(forward, shift=normal(width, scale=1.0))


NORMALIZATION = {
    "layer_norm": same_width(lambda rng, width: nn.LayerNorm(width)),
    "layer_norm_no_affine": same_width(layer_norm_no_affine),
    "layer_norm_rows_and_features": same_width(lambda rng, width: nn.LayerNorm([ROWS, width])),
    "batch_norm": same_width(lambda rng, width: channels_first(nn.BatchNorm1d(width, eps=1e-3, momentum=0.3))),
    "group_norm": same_width(group_norm),
    "instance_norm": same_width(lambda rng, width: channels_first(nn.InstanceNorm1d(width, affine=True))),
    "rms_norm": same_width(rms_norm),
    "rms_norm_module": same_width(lambda rng, width: nn.RMSNorm(width, eps=1e-2)),
    "l2_normalize": same_width(l2_normalize),
    "l1_norm": same_width(l1_norm),
    "var_time_biased": function(lambda x: x / (1 + x.var(dim=1, keepdim=True, unbiased=False))),
    "std_features": same_width(std_features),
}


def maximum_parameter(rng: Rng, width: int) -> nn.Module:
    return Formula(lambda x, floor: torch.maximum(x, floor), floor=normal(width))


def clamp_parameters(rng: Rng, width: int) -> nn.Module:
    return Formula(
        lambda x, low, span: torch.clamp(x, min=low, max=low + span.exp()),
        low=normal(width, about=-1.0, scale=0.2),
        span=normal(width, about=0.5, scale=0.2),
    )


def snake(rng: Rng, width: int) -> nn.Module:
    def forward(x: Tensor, alpha: Tensor) -> Tensor:
        return x + torch.sin(alpha * x).pow(2) / (alpha.abs() + 0.3)

    return Formula(forward, alpha=normal(width, about=1.0, scale=0.2))


def power_parameter(rng: Rng, width: int) -> nn.Module:
    return Formula(lambda x, power: (x * x + 0.1) ** torch.sigmoid(power), power=normal(width))


def scalar_parameter(rng: Rng, width: int) -> nn.Module:
    return Formula(lambda x, scale: x * scale, scale=nn.Parameter(torch.tensor(1.2)))


def exp_scale(rng: Rng, width: int) -> nn.Module:
    return Formula(lambda x, scale, bias: x * scale.exp() + bias, scale=normal(width, scale=0.3), bias=normal(1))


def divide_parameter(rng: Rng, width: int) -> nn.Module:
    return Formula(lambda x, scale: x / (scale**2 + 0.5), scale=normal(width, about=0.5))


def addcmul(rng: Rng, width: int) -> nn.Module:
    return Formula(
        lambda x, gain, bias: torch.addcmul(bias, x, gain, value=0.8),
        gain=normal(width, about=1.0),
        bias=normal(width),
    )


def lerp(rng: Rng, width: int) -> nn.Module:
    return Formula(
        lambda x, goal, weight: torch.lerp(x, goal.expand_as(x), torch.sigmoid(weight)),
        goal=normal(width),
        weight=normal(1),
    )


def logaddexp(rng: Rng, width: int) -> nn.Module:
    return Formula(lambda x, other: torch.logaddexp(x, other), other=normal(width))


def cosine_gate(rng: Rng, width: int) -> nn.Module:
    def forward(x: Tensor, shift: Tensor, key: Tensor) -> Tensor:
        return x * F.cosine_similarity(x + shift, key.expand_as(x), dim=-1).unsqueeze(-1)

    return Formula(forward, shift=normal(width), key=normal(width))


def where_mask_parameter(rng: Rng, width: int) -> nn.Module:
    mask = torch.tensor([[rng.random() < 0.7 for _ in range(width)] for _ in range(ROWS)])
    return Formula(lambda x, mask, token: torch.where(mask, x, token), mask=mask, token=normal(width))


def masked_fill(rng: Rng, width: int) -> nn.Module:
    mask = torch.tensor([[rng.random() < 0.2] for _ in range(ROWS)])
    return Formula(lambda x, mask: x.masked_fill(mask, 0.5), mask=mask)


LAYERS = {
    **FUNCTIONS,
    **NORMALIZATION,
    "prelu": same_width(lambda rng, width: channels_first(nn.PReLU(width))),
    "maximum_parameter": same_width(maximum_parameter),
    "clamp_parameters": same_width(clamp_parameters),
    "snake": same_width(snake),
    "power_parameter": same_width(power_parameter),
    "scalar_parameter": same_width(scalar_parameter),
    "exp_scale": same_width(exp_scale),
    "divide_parameter": same_width(divide_parameter),
    "addcmul": same_width(addcmul),
    "lerp": same_width(lerp),
    "logaddexp": same_width(logaddexp),
    "cosine_gate": same_width(cosine_gate),
    "where_mask_parameter": same_width(where_mask_parameter),
    "masked_fill": same_width(masked_fill),
}
