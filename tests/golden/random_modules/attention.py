"""Attention over rows, as modules and written out."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import ROWS, Formula, Layer, Rng, normal, same_width


def heads_of(rng: Rng, width: int) -> int:
    """A number of heads that divides a width."""
    return rng.choice([n for n in (1, 2, 4) if width % n == 0])


def projections(d_in: int, query: int, value: int) -> dict[str, nn.Module]:
    """Linear layers for queries, keys and values."""
    return {"query": nn.Linear(d_in, query), "key": nn.Linear(d_in, query), "value": nn.Linear(d_in, value)}


def multihead(rng: Rng, width: int) -> nn.Module:
    inner = nn.MultiheadAttention(width, heads_of(rng, width), batch_first=True)
    return Formula(lambda x, inner: inner(x, x, x, need_weights=False)[0], inner=inner)


def multihead_weights(rng: Rng, width: int) -> nn.Module:
    inner = nn.MultiheadAttention(width, heads_of(rng, width), batch_first=True, bias=False)
    return Formula(lambda x, inner: inner(x, torch.tanh(x), x)[0], inner=inner)


def transformer_layer(rng: Rng, width: int) -> nn.Module:
    norm_first = rng.random() < 0.5
    return nn.TransformerEncoderLayer(
        width, heads_of(rng, width), 8, dropout=0.0, batch_first=True, norm_first=norm_first
    )


def sdpa_causal(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    def forward(x: Tensor, qkv: nn.Module) -> Tensor:
        query, key, value = qkv(x).unsqueeze(1).split([4, 4, d_out], dim=-1)
        return F.scaled_dot_product_attention(query, key, value, is_causal=True).squeeze(1)

    return Formula(forward, qkv=nn.Linear(d_in, 8 + d_out))


def sdpa_masked(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    def forward(x: Tensor, query: nn.Module, key: nn.Module, value: nn.Module, mask: Tensor) -> Tensor:
        x = x.unsqueeze(1)
        return F.scaled_dot_product_attention(query(x), key(x), value(x), attn_mask=mask).squeeze(1)

    near = (torch.arange(ROWS)[:, None] - torch.arange(ROWS)[None, :]).abs() < 9
    return Formula(forward, mask=near, **projections(d_in, 4, d_out))


def causal_heads(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    def forward(x: Tensor, qkv: nn.Module, out: nn.Module, mask: Tensor) -> Tensor:
        query, key, value = qkv(x).reshape(-1, ROWS, 3, 2, 3).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (query @ key.transpose(-2, -1) * 3**-0.5).masked_fill(mask, -1e4)
        return out((scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(-1, ROWS, 6))

    mask = torch.ones(ROWS, ROWS, dtype=torch.bool).triu(1)
    return Formula(forward, qkv=nn.Linear(d_in, 18, bias=False), out=nn.Linear(6, d_out), mask=mask)


def relative_bias(rng: Rng, width: int) -> nn.Module:
    def forward(x: Tensor, table: Tensor, index: Tensor) -> Tensor:
        scores = torch.bmm(torch.tanh(x), torch.tanh(x).transpose(1, 2)) + table[index]
        return scores.softmax(dim=-1) @ x

    index = torch.arange(ROWS)[:, None] - torch.arange(ROWS)[None, :] + ROWS - 1
    return Formula(forward, table=normal(2 * ROWS - 1), index=index)


def linear_attention(rng: Rng, d_in: int, d_out: int) -> nn.Module:
    def forward(x: Tensor, query: nn.Module, key: nn.Module, value: nn.Module) -> Tensor:
        q, k = F.elu(query(x)) + 1.1, F.elu(key(x)) + 1.1
        context = torch.einsum("btk,btv->bkv", k, value(x))
        return torch.einsum("btk,bkv->btv", q, context) / (q @ k.sum(dim=1).unsqueeze(-1))

    return Formula(forward, **projections(d_in, 3, d_out))


def attention_pool(rng: Rng, width: int) -> nn.Module:
    def forward(x: Tensor, score: nn.Module) -> Tensor:
        return x + (score(x).softmax(dim=1) * x).sum(dim=1, keepdim=True)

    return Formula(forward, score=nn.Linear(width, 1, bias=False))


def squeeze_excite(rng: Rng, width: int) -> nn.Module:
    inner = nn.Sequential(nn.Linear(width, 2), nn.SiLU(), nn.Linear(2, width), nn.Sigmoid())
    return Formula(lambda x, inner: x * inner(x.mean(dim=1)).unsqueeze(1), inner=inner)


LAYERS = {
    "multihead_attention": same_width(multihead),
    "multihead_attention_weights": same_width(multihead_weights),
    "transformer_layer": same_width(transformer_layer),
    "sdpa_causal": Layer(sdpa_causal),
    "sdpa_masked": Layer(sdpa_masked),
    "attention_causal_heads": Layer(causal_heads),
    "attention_relative_bias": same_width(relative_bias),
    "attention_linear": Layer(linear_attention),
    "attention_pool": same_width(attention_pool),
    "squeeze_excite": same_width(squeeze_excite),
}
