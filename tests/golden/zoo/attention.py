"""Attention and transformers."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import CHANNELS, JOINTS, WINDOW, Network


def sinusoids(length: int, width: int) -> Tensor:
    """Sinusoidal positions [length, width]."""
    angles = torch.arange(length)[:, None] * torch.exp(-math.log(1e4) * torch.arange(0, width, 2) / width)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, T, D] to [B, H, T, D / H]."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, H, T, D / H] to [B, T, D]."""
    return x.transpose(1, 2).flatten(2)


class MultiheadAttention(nn.Module):
    """nn.MultiheadAttention under a causal mask, with a residual and a layer norm."""

    mask: Tensor

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS, width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, JOINTS)
        self.register_buffer("mask", torch.ones(WINDOW, WINDOW, dtype=torch.bool).triu(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y, _ = self.attention(x, x, x, attn_mask=self.mask, need_weights=False)
        return self.head(self.norm(x + y))


class TransformerEncoder(nn.Module):
    """nn.TransformerEncoder, whose two post-norm layers are deep copies of one, on sinusoidal positions."""

    positions: Tensor

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS, width)
        layer = nn.TransformerEncoderLayer(width, 2, dim_feedforward=16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, JOINTS)
        self.register_buffer("positions", sinusoids(WINDOW, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x) + self.positions))


class TransformerClassToken(nn.Module):
    """ViT-like: patches, a [1, 1, D] class token, learned positions that meet unsqueeze, pre-norm copies, one pose."""

    def __init__(self, width: int = 8, patch: int = 8) -> None:
        super().__init__()
        self.embed = nn.Conv1d(CHANNELS, width, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(WINDOW // patch + 1, width))
        layer = nn.TransformerEncoderLayer(
            width, 2, dim_feedforward=12, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions.unsqueeze(0)
        return self.head(self.encoder(x)[:, 0])


class SdpaClassToken(nn.Module):
    """scaled_dot_product_attention behind a fused projection, with a [1, D] class token repeated over the batch."""

    def __init__(self, width: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Linear(CHANNELS, width)
        self.token = nn.Parameter(torch.randn(1, width))
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.head = nn.Linear(2 * width, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = torch.cat([self.token.repeat(x.shape[0], 1).unsqueeze(1), x], dim=1)
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(self.norm(x)).chunk(3, dim=-1))
        x = x + self.out(merge_heads(F.scaled_dot_product_attention(q, k, v)))
        token, x = x[:, :1], x[:, 1:]
        return self.head(torch.cat([x, token.expand_as(x)], dim=-1))


class RelativeBias(nn.Module):
    """Attention written out, with a Swin-like table of relative position biases gathered by an index buffer."""

    relative_index: Tensor

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Linear(CHANNELS, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.table = nn.Parameter(torch.zeros(2 * WINDOW - 1, heads))
        self.out = nn.Linear(width, width)
        self.head = nn.Linear(width, JOINTS)
        steps = torch.arange(WINDOW)
        self.register_buffer("relative_index", steps[:, None] - steps[None, :] + WINDOW - 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        batch, length, width = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        bias = self.table[self.relative_index].permute(2, 0, 1)
        scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5 + bias.unsqueeze(0)
        return self.head(x + self.out(merge_heads(scores.softmax(dim=-1) @ v)))


class RmsNorm(nn.Module):
    """RMS norm as Llama writes it."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class Rotary(nn.Module):
    """Causal attention with rotary tables as buffers, RMS norms and a SwiGLU, in the way of Llama."""

    cos: Tensor
    sin: Tensor

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Linear(CHANNELS, width)
        self.norm1 = RmsNorm(width)
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.o = nn.Linear(width, width, bias=False)
        self.norm2 = RmsNorm(width)
        self.up = nn.Linear(width, 2 * width, bias=False)
        self.gate = nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)
        self.head = nn.Linear(width, JOINTS)
        size = width // heads
        angles = torch.outer(torch.arange(WINDOW).float(), 100.0 ** -(torch.arange(0, size, 2) / size)).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat([-second, first], dim=-1) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm1(x)
        q, k, v = (split_heads(layer(y), self.heads) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, is_causal=True)
        x = x + self.o(merge_heads(y))
        y = self.norm2(x)
        return self.head(x + self.down(F.silu(self.gate(y)) * self.up(y)))


class LearnedQueries(nn.Module):
    """DETR-like: one learned query a joint, expanded over the batch, reads the window by cross-attention."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS, width)
        self.positions = nn.Parameter(0.02 * torch.randn(1, WINDOW, width))
        self.queries = nn.Parameter(torch.randn(JOINTS, width))
        self.decoder = nn.TransformerDecoderLayer(width, 2, dim_feedforward=12, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.embed(x) + self.positions
        queries = self.queries.unsqueeze(0).expand(x.shape[0], -1, -1)
        return self.head(self.decoder(queries, memory)).squeeze(-1)


class Alibi(nn.Module):
    """Causal attention with ALiBi: a penalty buffer linear in the distance; separate projections by einsum."""

    bias: Tensor

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        size = width // heads
        self.embed = nn.Linear(CHANNELS, width)
        self.norm = nn.LayerNorm(width)
        self.q = nn.Parameter(torch.randn(width, heads, size) / width**0.5)
        self.k = nn.Parameter(torch.randn(width, heads, size) / width**0.5)
        self.v = nn.Parameter(torch.randn(width, heads, size) / width**0.5)
        self.o = nn.Parameter(torch.randn(heads, size, width) / width**0.5)
        self.head = nn.Linear(width, JOINTS)
        distance = torch.arange(WINDOW)[:, None] - torch.arange(WINDOW)[None, :]
        slopes = 2.0 ** -torch.arange(1, heads + 1)
        bias = (-slopes[:, None, None] * distance).masked_fill(distance < 0, float("-inf"))
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x)
        q = torch.einsum("btd,dhk->bhtk", y, self.q)
        k = torch.einsum("btd,dhk->bhtk", y, self.k)
        v = torch.einsum("btd,dhk->bhtk", y, self.v)
        weights = torch.softmax(torch.einsum("bhqk,bhsk->bhqs", q, k) / math.sqrt(q.shape[-1]) + self.bias, dim=-1)
        y = torch.einsum("bhqs,bhsk->bhqk", weights, v)
        return self.head(x + torch.einsum("bhqk,hkd->bqd", y, self.o))


class LinearAttention(nn.Module):
    """Causal linear attention with elu + 1 features, as cumulative sums over time."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS, width)
        self.q = nn.Linear(width, 4)
        self.k = nn.Linear(width, 4)
        self.v = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = F.elu(self.q(x)) + 1, F.elu(self.k(x)) + 1, self.v(x)
        memory = (k.unsqueeze(-1) * v.unsqueeze(-2)).cumsum(dim=1)
        y = (q.unsqueeze(-2) @ memory).squeeze(-2) / (q * k.cumsum(dim=1)).sum(dim=-1, keepdim=True)
        return self.head(self.norm(x + y))


NETWORKS = {
    "multihead_attention": Network(MultiheadAttention),
    "transformer_encoder": Network(TransformerEncoder),
    "transformer_class_token": Network(TransformerClassToken, channels_first=True),
    "sdpa_class_token": Network(SdpaClassToken),
    "relative_bias": Network(RelativeBias),
    "rotary": Network(Rotary),
    "learned_queries": Network(LearnedQueries),
    "alibi": Network(Alibi),
    "linear_attention": Network(LinearAttention),
}
