"""Linear layers, and weights computed from parameters."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from .base import ROWS, Formula, Layer, Rng, channels_first, matrix, normal, same_width


def mlp(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    hidden = rng.randint(4, 12)
    return nn.Sequential(nn.Linear(d_in, hidden), rng.choice([nn.GELU, nn.ReLU, nn.Tanh])(), nn.Linear(hidden, d_out))


def low_rank(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    return Formula(lambda x, u, v: x @ v.t() @ u.t(), u=matrix(d_out, 2), v=matrix(2, d_in))


def matmul_left(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    return channels_first(Formula(lambda x, weight: torch.matmul(weight, x), weight=matrix(d_out, d_in)))


def matmul_plus_bias(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    return Formula(lambda x, weight, bias: x @ weight + bias, weight=matrix(d_in, d_out), bias=normal(d_out))


def bilinear_einsum(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        x = torch.tanh(x)
        return torch.einsum("bti,oij,btj->bto", x, weight, x)

    return Formula(forward, weight=normal(d_out, d_in, d_in, scale=1 / d_in))


def bilinear_module(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    return Formula(lambda x, inner: inner(torch.tanh(x), torch.sigmoid(x)), inner=nn.Bilinear(d_in, d_in, d_out))


def heads_einsum(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    def forward(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
        return torch.einsum("bthk,hko->bto", torch.tanh(torch.einsum("btd,dhk->bthk", x, up)), down)

    return Formula(forward, up=normal(d_in, 2, 3), down=normal(2, 3, d_out))


def einsum_weight_product(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    def forward(x: Tensor, u: Tensor, s: Tensor, v: Tensor) -> Tensor:
        return F.linear(x, torch.einsum("or,r,ri->oi", u, s, v))

    return Formula(forward, u=matrix(d_out, 3), s=normal(3, about=1.0), v=matrix(3, d_in))


def baddbmm(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        batch = x.shape[0]
        return torch.baddbmm(bias.expand(batch, ROWS, -1), x, weight.expand(batch, -1, -1), beta=0.5, alpha=1.5)

    return Formula(forward, weight=normal(1, d_in, d_out, scale=1 / math.sqrt(d_in)), bias=normal(1, 1, d_out))


def addmm_flat(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.addmm(bias, x.reshape(-1, d_in), weight).reshape(-1, ROWS, d_out)

    return Formula(forward, weight=matrix(d_in, d_out), bias=normal(d_out))


def lora_linear(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    base = nn.Linear(d_in, d_out).requires_grad_(False)
    down, up = nn.Linear(d_in, 2, bias=False), nn.Linear(2, d_out, bias=False)
    return Formula(lambda x, base, down, up: base(x) + 0.5 * up(down(x)), base=base, down=down, up=up)


def weight_norm_written(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    def forward(x: Tensor, g: Tensor, v: Tensor) -> Tensor:
        return F.linear(x, g.unsqueeze(1) * v / v.norm(dim=1, keepdim=True))

    return Formula(forward, g=normal(d_out, scale=0.2, about=1.0), v=matrix(d_out, d_in))


def tril_weight(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    return Formula(
        lambda x, weight, bias: F.linear(x, torch.tril(weight), bias), weight=matrix(d_out, d_in), bias=normal(d_out)
    )


def masked_weight(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    mask = torch.tensor([[float(rng.random() < 0.7 or i == 0) for i in range(d_in)] for _ in range(d_out)])
    return Formula(lambda x, weight, mask: F.linear(x, weight * mask), weight=matrix(d_out, d_in), mask=mask)


def symmetric_weight(rng: Rng, width: int) -> nn.Module:
    return Formula(lambda x, weight: x @ (weight + weight.t()) * 0.5, weight=matrix(width, width))


def softmax_weight(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    return Formula(lambda x, weight: F.linear(x, weight.softmax(dim=1)), weight=normal(d_out, d_in, scale=1.0))


def standardized_weight(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        centered = weight - weight.mean(dim=1, keepdim=True)
        return F.linear(x, centered / (weight.std(dim=1, keepdim=True) + 0.1)) / math.sqrt(d_in)

    return Formula(forward, weight=matrix(d_out, d_in))


def outer_weight(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    return Formula(lambda x, u, v: x @ (u[:, None] * v[None, :] + u[:, None]), u=normal(d_in), v=normal(d_out))


def flat_weight(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    def forward(x: Tensor, flat: Tensor) -> Tensor:
        return x @ flat[: d_in * d_out].view(d_in, d_out) + flat[d_in * d_out :]

    return Formula(forward, flat=normal(d_in * d_out + d_out, scale=1 / math.sqrt(d_in)))


def permuted_weight(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    weight = normal(d_out, 1, d_in, scale=1 / math.sqrt(d_in))
    return Formula(lambda x, weight: x @ weight.permute(2, 1, 0).reshape(d_in, d_out), weight=weight)


def squeezed_weight(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(x, weight.squeeze(3).squeeze(1)) + bias.unsqueeze(0).unsqueeze(0)

    return Formula(forward, weight=normal(d_out, 1, d_in, 1, scale=1 / math.sqrt(d_in)), bias=normal(d_out))


def concatenated_weight(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    return Formula(
        lambda x, top, rest: F.linear(x, torch.cat([top, rest])), top=matrix(1, d_in), rest=matrix(d_out - 1, d_in)
    )


def stacked_weight(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    return Formula(
        lambda x, a, b, c: F.linear(x, torch.stack([a, b, c]).mean(dim=0)),
        **{name: normal(d_out, d_in) for name in "abc"},
    )


def kan_rbf(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    def forward(x: Tensor, centers: Tensor, weight: Tensor, base: nn.Module) -> Tensor:
        basis = torch.exp(-(((x.unsqueeze(-1) - centers) / 0.8) ** 2))
        return base(F.silu(x)) + torch.einsum("btik,iko->bto", basis, weight)

    weight = normal(d_in, 4, d_out, scale=0.3)
    return Formula(forward, centers=torch.linspace(-1.5, 1.5, 4), weight=weight, base=nn.Linear(d_in, d_out))


def experts(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    def forward(x: Tensor, router: nn.Module, experts: Tensor) -> Tensor:
        return (torch.einsum("btd,edo->bteo", x, experts) * router(x).softmax(dim=-1).unsqueeze(-1)).sum(dim=2)

    return Formula(forward, router=nn.Linear(d_in, 3), experts=normal(3, d_in, d_out))


def prototypes(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    def forward(x: Tensor, prototypes: Tensor) -> Tensor:
        return torch.exp(-(x.unsqueeze(2) - prototypes).square().mean(dim=-1))

    return Formula(forward, prototypes=normal(d_out, d_in))


def time_mix(rng: Rng, width: int) -> nn.Module:
    return channels_first(nn.Sequential(nn.Linear(ROWS, 3), nn.Tanh(), nn.Linear(3, ROWS)))


LAYERS = {
    "linear": Layer(lambda rng, d_in, d_out: nn.Linear(d_in, d_out)),
    "linear_no_bias": Layer(lambda rng, d_in, d_out: nn.Linear(d_in, d_out, bias=False)),
    "glu": Layer(lambda rng, d_in, d_out: nn.Sequential(nn.Linear(d_in, 2 * d_out), nn.GLU(dim=-1))),
    "mlp": Layer(mlp),
    "low_rank": Layer(low_rank),
    "matmul_left": Layer(matmul_left),
    "matmul_plus_bias": Layer(matmul_plus_bias),
    "bilinear_einsum": Layer(bilinear_einsum),
    "bilinear_module": Layer(bilinear_module),
    "heads_einsum": Layer(heads_einsum),
    "einsum_weight_product": Layer(einsum_weight_product),
    "baddbmm": Layer(baddbmm),
    "addmm_flat": Layer(addmm_flat),
    "lora_linear": Layer(lora_linear),
    "weight_norm_linear": Layer(lambda rng, d_in, d_out: weight_norm(nn.Linear(d_in, d_out))),
    "weight_norm_written": Layer(weight_norm_written),
    "tril_weight": Layer(tril_weight),
    "masked_weight": Layer(masked_weight),
    "symmetric_weight": same_width(symmetric_weight),
    "softmax_weight": Layer(softmax_weight),
    "standardized_weight": Layer(standardized_weight),
    "outer_weight": Layer(outer_weight),
    "flat_weight": Layer(flat_weight),
    "permuted_weight": Layer(permuted_weight),
    "squeezed_weight": Layer(squeezed_weight),
    "concatenated_weight": Layer(concatenated_weight),
    "stacked_weight": Layer(stacked_weight),
    "kan_rbf": Layer(kan_rbf),
    "experts": Layer(experts),
    "prototypes": Layer(prototypes),
    "time_mix": same_width(time_mix),
}
