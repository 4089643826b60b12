#!/usr/bin/env python3
"""Small ONNX models of one operator each, and what PyTorch finds for them.

    make_operators.py OUTDIR

OUTDIR/unknown.onnx has operators that nobody trains. OUTDIR/refused.json lists models whose nodes ONNX does not allow, as
hexadecimal digits, with the shapes of their inputs x0, x1, .. and what the refusal says. OUTDIR/operators.safetensors holds for each case NAME

    NAME.model   uint8    the ONNX model, with float inputs x0, x1, .. and output y
    NAME.y                the output
    NAME.d0 ..            gradients of sum(y * noise(90, y.shape)) with respect to the inputs

and, as metadata, for each case the domains of its inputs: input i is `drawn(noise(i, shape), domain)`. Arithmetic is
float64. Needs torch and onnx.
"""

import json
import sys
from functools import reduce
from itertools import permutations
from pathlib import Path

import numpy
import onnx
import torch
from make_published import noise
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional as F

CASES: dict[str, tuple] = {}


def drawn(unit: Tensor, domain: str) -> Tensor:
    """Values away from kinks: magnitudes of 0.2 to 1.2; 0.3 to 1.3; below 0.9; 1.3 to 2.3."""
    match domain:
        case "any":
            return unit * 2 + torch.sign(unit) * numpy.float32(0.2)
        case "positive":
            return unit + numpy.float32(0.8)
        case "unit":
            return unit * numpy.float32(1.8)
        case "above":
            return unit + numpy.float32(1.8)
    raise ValueError(domain)


def case(name, nodes, shapes, function, domains="any", constants=None, opset=20):
    """`nodes`: (operator, inputs, outputs, attributes), the last output being y."""
    if isinstance(domains, str):
        domains = [domains] * len(shapes)
    assert name not in CASES, name
    CASES[name] = (nodes, shapes, function, domains, constants or {}, opset)


def one(operator, shapes, function, domains="any", constants=None, opset=20, name=None, **attributes):
    """A case of one node; its inputs are x0, x1, .. and then the constants in order."""
    inputs = [f"x{i}" for i in range(len(shapes))] + list(constants or {})
    nodes = [(operator, inputs, ["y"], attributes)]
    case(name or operator, nodes, shapes, function, domains, constants, opset)


def ints(*values):
    return numpy.array(values, numpy.int64)


def floats(*values):
    return numpy.array(values, numpy.float32)


S = (3, 4)
for operator, function in {
    "Abs": torch.abs, "Atan": torch.atan, "Asinh": torch.asinh, "Ceil": torch.ceil, "Cos": torch.cos,
    "Cosh": torch.cosh, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "Identity": lambda x: x * 1,
    "Mish": F.mish, "Neg": torch.neg, "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Round": torch.round,
    "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin, "Sinh": torch.sinh, "Softplus": F.softplus,
    "Softsign": F.softsign, "Tan": torch.tan, "Tanh": torch.tanh, "HardSwish": F.hardswish,
}.items():
    one(operator, [S], function)
for operator, function in {"Acos": torch.acos, "Asin": torch.asin, "Atanh": torch.atanh}.items():
    one(operator, [S], function, "unit")
one("Acosh", [S], torch.acosh, "above")
one("Log", [S], torch.log, "positive")
one("Sqrt", [S], torch.sqrt, "positive")
one("Celu", [S], lambda x: F.celu(x, 0.7), alpha=0.7)
one("Elu", [S], lambda x: F.elu(x, 1.3), alpha=1.3)
one("Selu", [S], F.selu)
one("LeakyRelu", [S], lambda x: F.leaky_relu(x, 0.2), alpha=0.2)
one("Gelu", [S], F.gelu)
one("Gelu", [S], lambda x: F.gelu(x, approximate="tanh"), name="Gelu.tanh", approximate="tanh")
one("HardSigmoid", [S], lambda x: torch.clamp(0.3 * x + 0.4, 0, 1), alpha=0.3, beta=0.4)
one("ThresholdedRelu", [S], lambda x: torch.where(x > 0.5, x, 0.0), alpha=0.5)
one("Shrink", [S], lambda x: torch.where(x > 0.4, x - 0.1, torch.where(x < -0.4, x + 0.1, 0.0)), lambd=0.4, bias=0.1)
one("PRelu", [(2, 3, 4), (3, 1)], lambda x, a: torch.where(x > 0, x, a * x))
one("Clip", [S], lambda x: torch.clamp(x, -0.5, 0.6), constants={"low": numpy.float32(-0.5), "high": numpy.float32(0.6)})
one("Add", [(2, 3, 4), (3, 1)], torch.add)
one("Sub", [(2, 1, 4), (3, 1)], torch.sub)
one("Mul", [(4,), (2, 3, 4)], torch.mul)
one("Div", [(2, 3), (3,)], torch.div)
one("Max", [(2, 3), (3,), (2, 1)], lambda a, b, c: torch.maximum(torch.maximum(a, b), c))
one("Min", [(2, 3), (3,), (2, 1)], lambda a, b, c: torch.minimum(torch.minimum(a, b), c))
one("Sum", [(2, 3), (3,), (2, 1)], lambda a, b, c: a + b + c)
one("Mean", [(2, 3), (3,), (2, 1)], lambda a, b, c: (a + b + c) / 3)
one("Pow", [(2, 3), (3,)], torch.pow, "positive")
one("Pow", [S], lambda x: x**3, name="Pow.cube", constants={"p": numpy.float32(3)})
one("Pow", [S], lambda x: x**2.5, "positive", name="Pow.half", constants={"p": numpy.float32(2.5)})
case("Where", [("Greater", ["x0", "x1"], ["c"], {}), ("Where", ["c", "x1", "x2"], ["y"], {})],
     [(2, 3), (2, 3), (3,)], lambda a, b, c: torch.where(a > b, b, c))
case("logic", [
    ("Greater", ["x0", "x1"], ["a"], {}), ("LessOrEqual", ["x0", "half"], ["b"], {}), ("And", ["a", "b"], ["c"], {}),
    ("Not", ["c"], ["d"], {}), ("GreaterOrEqual", ["x1", "half"], ["e"], {}), ("Or", ["d", "e"], ["f"], {}),
    ("Less", ["x1", "half"], ["g"], {}), ("Xor", ["f", "g"], ["h"], {}), ("IsNaN", ["x0"], ["i"], {}),
    ("Equal", ["h", "i"], ["j"], {}), ("IsInf", ["x0"], ["m"], {}), ("Or", ["j", "m"], ["n"], {}),
    ("Cast", ["n"], ["k"], {"to": 1}), ("Mul", ["k", "x0"], ["y"], {})],
    [S, S], lambda a, b: a * ~((~((a > b) & (a <= 0.5)) | (b >= 0.5)) ^ (b < 0.5)), constants={"half": numpy.float32(0.5)})
case("Mod", [("Mod", ["n", "three"], ["m"], {}), ("Cast", ["m"], ["f"], {"to": 1}), ("Mul", ["x0", "f"], ["y"], {})],
     [(4,)], lambda x: x * torch.tensor([0.0, 1.0, 2.0, 0.0]), constants={"n": ints(0, 1, 2, 3), "three": ints(3)})

case("EyeLike", [("EyeLike", ["n"], ["e"], {"dtype": 1, "k": 1}), ("Mul", ["x0", "e"], ["y"], {})], [(3, 4)],
     lambda x: x * torch.diag(torch.ones(3), 1)[:3, :4], constants={"n": numpy.zeros((3, 4), numpy.int64)})

for operator, function in {
    "ReduceMax": lambda x, k: torch.amax(x, (0, 2), k), "ReduceMin": lambda x, k: torch.amin(x, (0, 2), k),
    "ReduceMean": lambda x, k: x.mean((0, 2), k), "ReduceSum": lambda x, k: x.sum((0, 2), k),
    "ReduceL1": lambda x, k: x.abs().sum((0, 2), k), "ReduceL2": lambda x, k: x.square().sum((0, 2), k).sqrt(),
    "ReduceSumSquare": lambda x, k: x.square().sum((0, 2), k), "ReduceLogSumExp": lambda x, k: torch.logsumexp(x, (0, 2), k),
}.items():
    for keep in (0, 1):
        one(operator, [(2, 3, 4)], lambda x, f=function, k=keep: f(x, bool(k)), name=f"{operator}.{keep}",
            constants={"axes": ints(0, -1)}, keepdims=keep)
one("ReduceLogSum", [(2, 3, 4)], lambda x: torch.log(x.sum((0, 1, 2))), "positive", keepdims=0)
one("ReduceMean", [(2, 3, 4)], lambda x: x.mean((1, 2)), name="ReduceMean.13", opset=13, axes=[1, 2], keepdims=0)
one("Softmax", [(2, 3, 4)], lambda x: torch.softmax(x, 1), axis=1)
one("LogSoftmax", [(2, 3, 4)], lambda x: torch.log_softmax(x, 2))
one("CumSum", [(2, 3, 4)], lambda x: torch.cumsum(x, 1), constants={"axis": numpy.array(1, numpy.int64)})
one("CumSum", [(2, 5)], lambda x: torch.flip(torch.cumsum(torch.flip(x, (1,)), 1), (1,)) - x, name="CumSum.reverse",
    constants={"axis": numpy.array(1, numpy.int64)}, reverse=1, exclusive=1)

one("MatMul", [(2, 3, 4), (4, 5)], torch.matmul)
one("MatMul", [(2, 1, 3, 4), (5, 4, 2)], torch.matmul, name="MatMul.batch")
one("MatMul", [(4,), (2, 4, 3)], torch.matmul, name="MatMul.vector")
one("MatMul", [(2, 3, 4), (4,)], torch.matmul, name="MatMul.vectors")
one("Gemm", [(4, 3), (5, 4), (5,)], lambda a, b, c: 0.5 * a.T @ b.T + 2 * c, alpha=0.5, beta=2.0, transA=1, transB=1)
for name, equation, shapes in [
    ("bhqd,bhkd->bhqk", "bhqd,bhkd->bhqk", [(2, 2, 3, 4), (2, 2, 5, 4)]), ("ij->ji", "ij->ji", [(2, 3)]),
    ("ij,jk", "ij,jk", [(2, 3), (3, 4)]), ("bij->b", "bij->b", [(2, 3, 4)]), ("i,j->ij", "i,j->ij", [(3,), (4,)]),
    ("...ij,...jk->...ik", "...ij,...jk->...ik", [(2, 3, 4), (2, 4, 2)]),
    ("bi,ij,bj->b", "bi,ij,bj->b", [(2, 3), (3, 4), (2, 4)]),
]:
    one("Einsum", shapes, lambda *x, e=equation: torch.einsum(e, *x), name=f"Einsum.{name}", equation=equation)

one("Conv", [(2, 4, 11), (6, 2, 3), (6,)], lambda x, w, b: F.conv1d(x, w, b, 2, 2, 2, 2),
    kernel_shape=[3], strides=[2], pads=[2, 2], dilations=[2], group=2)
one("Conv", [(2, 3, 9), (3, 1, 5)], lambda x, w: F.conv1d(x, w, None, 1, 2, 1, 3), name="Conv.depthwise",
    kernel_shape=[5], pads=[2, 2], group=3)
one("Conv", [(2, 3, 6, 7), (4, 3, 3, 2), (4,)], lambda x, w, b: F.conv2d(F.pad(x, (0, 1, 1, 1)), w, b, (2, 1)),
    name="Conv.2d", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])
one("Conv", [(1, 2, 8), (3, 2, 4)], lambda x, w: F.conv1d(F.pad(x, (1, 2)), w), name="Conv.same", auto_pad="SAME_UPPER")
one("Conv", [(2, 3, 5), (4, 3, 1)], lambda x, w: F.conv1d(x, w, None, 100, 3), name="Conv.far", strides=[100], pads=[3, 3])
one("ConvTranspose", [(2, 4, 5), (4, 3, 3), (6,)], lambda x, w, b: F.conv_transpose1d(x, w, b, 2, 1, 1, 2),
    strides=[2], pads=[1, 1], output_padding=[1], group=2)
one("ConvTranspose", [(2, 3, 4, 3), (3, 2, 2, 3)], lambda x, w: F.conv_transpose2d(x, w, None, (2, 1), (0, 1)),
    name="ConvTranspose.2d", strides=[2, 1], pads=[0, 1, 0, 1])
one("MaxPool", [(2, 3, 9)], lambda x: F.max_pool1d(x, 2), kernel_shape=[2], strides=[2])
one("MaxPool", [(2, 2, 7, 6)], lambda x: F.max_pool2d(x, (3, 2), (2, 1), (1, 1)), name="MaxPool.overlap",
    kernel_shape=[3, 2], strides=[2, 1], pads=[1, 1, 1, 1])
one("MaxPool", [(1, 2, 8)], lambda x: F.max_pool1d(x, 3, 2, ceil_mode=True), name="MaxPool.ceil",
    kernel_shape=[3], strides=[2], ceil_mode=1)
one("AveragePool", [(2, 3, 9)], lambda x: F.avg_pool1d(x, 3, 2, 1, count_include_pad=False),
    kernel_shape=[3], strides=[2], pads=[1, 1])
one("AveragePool", [(2, 2, 6, 5)], lambda x: F.avg_pool2d(x, (2, 3), (2, 2), (0, 1)), name="AveragePool.2d",
    kernel_shape=[2, 3], strides=[2, 2], pads=[0, 1, 0, 1], count_include_pad=1)
one("GlobalAveragePool", [(2, 3, 4, 5)], lambda x: x.mean((2, 3), True))
one("GlobalMaxPool", [(2, 3, 4)], lambda x: x.amax(2, True))

one("LayerNormalization", [(2, 3, 5), (5,), (5,)], lambda x, g, b: F.layer_norm(x, (5,), g, b))
one("LayerNormalization", [(2, 3, 5), (3, 5)], lambda x, g: F.layer_norm(x, (3, 5), g), name="LayerNormalization.axis", axis=1)
one("BatchNormalization", [(4, 3, 5), (3,), (3,)],
    lambda x, g, b: F.batch_norm(x, torch.tensor([0.1, 0.2, 0.3]).double(), torch.tensor([1.0, 2.0, 0.5]).double(), g, b),
    constants={"mean": floats(0.1, 0.2, 0.3), "var": floats(1.0, 2.0, 0.5)})
one("InstanceNormalization", [(2, 3, 6), (3,), (3,)], lambda x, g, b: F.instance_norm(x, weight=g, bias=b))
one("GroupNormalization", [(2, 4, 5), (4,), (4,)], lambda x, g, b: F.group_norm(x, 2, g, b), opset=21, num_groups=2)
one("GroupNormalization", [(2, 4, 5), (2,), (2,)],
    lambda x, g, b: F.group_norm(x, 2, g.repeat_interleave(2), b.repeat_interleave(2)), name="GroupNormalization.18",
    opset=18, num_groups=2)
one("LpNormalization", [(2, 3, 4)], lambda x: F.normalize(x, 2, 1), axis=1, p=2)
one("LpNormalization", [(2, 3)], lambda x: F.normalize(x, 1, 1), name="LpNormalization.1", p=1)
one("MeanVarianceNormalization", [(2, 3, 2, 4)],
    lambda x: (x - x.mean((0, 2, 3), True)) / x.var((0, 2, 3), False, keepdim=True).sqrt())
one("Dropout", [S], lambda x: x * 1, constants={"ratio": numpy.float32(0.4)})

one("Reshape", [(2, 6)], lambda x: x.reshape(2, 3, 2), constants={"shape": ints(0, 3, -1)})
one("Flatten", [(2, 3, 4)], lambda x: x.reshape(6, 4), axis=2)
one("Squeeze", [(2, 1, 3)], lambda x: x.squeeze(1), constants={"axes": ints(1)})
one("Unsqueeze", [(2, 3)], lambda x: x[None, :, None], constants={"axes": ints(0, 2)})
one("Transpose", [(2, 3, 4)], lambda x: x.permute(2, 0, 1), perm=[2, 0, 1])
one("Concat", [(2, 3), (2, 1), (2, 2)], lambda a, b, c: torch.cat((a, b, c), 1), axis=1)
case("Split", [("Split", ["x0", "sizes"], ["a", "b", "c"], {"axis": 1}), ("Mul", ["a", "c"], ["y"], {})],
     [(2, 5)], lambda x: x[:, :2] * x[:, 3:], constants={"sizes": ints(2, 1, 2)})
case("Split.equal", [("Split", ["x0"], ["a", "b"], {"axis": 0, "num_outputs": 2}), ("Sub", ["a", "b"], ["y"], {})],
     [(4, 2)], lambda x: x[:2] - x[2:])
one("Slice", [(5, 8)], lambda x: x[1:4, 1::3], constants={
    "starts": ints(1, 1), "ends": ints(-1, 2**62), "axes": ints(0, 1), "steps": ints(1, 3)})
one("Slice", [(5, 3)], lambda x: x[1::9], name="Slice.far", constants={
    "starts": ints(1), "ends": ints(2**62), "axes": ints(0), "steps": ints(2**62)})
one("Slice", [(5, 3)], lambda x: torch.flip(x, (0,)), name="Slice.back", constants={
    "starts": ints(-1), "ends": ints(-(2**62)), "axes": ints(0), "steps": ints(-1)})
one("Pad", [(2, 4)], lambda x: F.pad(x, (2, -1), value=0.5), constants={
    "pads": ints(0, 2, 0, -1), "value": numpy.float32(0.5)})
for mode, theirs in [("reflect", "reflect"), ("edge", "replicate"), ("wrap", "circular")]:
    one("Pad", [(2, 3, 4)], lambda x, m=theirs: F.pad(x, (2, 1), m), name=f"Pad.{mode}", mode=mode,
        constants={"pads": ints(0, 0, 2, 0, 0, 1)})
one("Expand", [(2, 1)], lambda x: x.expand(3, 2, 4), constants={"shape": ints(3, 1, 4)})
one("Tile", [(2, 3)], lambda x: x.repeat(2, 3), constants={"repeats": ints(2, 3)})
one("Gather", [(4, 5)], lambda x: x[:, [[0, 2], [2, 4]]], constants={"i": numpy.array([[0, 2], [2, -1]])}, axis=1)
one("Gather", [(4, 5)], lambda x: x[3], name="Gather.one", constants={"i": numpy.array(-1)}, axis=0)
one("GatherElements", [(3, 4)], lambda x: torch.gather(x, 1, torch.tensor([[0, 3], [1, 1], [2, 0]])),
    constants={"i": numpy.array([[0, 3], [1, 1], [2, 0]])}, axis=1)
one("GatherND", [(3, 4, 2)], lambda x: x[[0, 2, 0], [1, 3, 1]], constants={"i": numpy.array([[0, 1], [2, 3], [0, 1]])})
case("ScatterND", [("ScatterND", ["x0", "i", "x1"], ["y"], {})], [(4, 3), (2, 3)],
     lambda x, u: torch.index_put(x, (torch.tensor([1, 3]),), u), constants={"i": numpy.array([[1], [3]])})
case("ScatterND.add", [("ScatterND", ["x0", "i", "x1"], ["y"], {"reduction": "add"})], [(4, 3), (2, 3)],
     lambda x, u: torch.index_put(x, (torch.tensor([1, 1]),), u, accumulate=True), constants={"i": numpy.array([[1], [1]])})
case("ScatterElements", [("ScatterElements", ["x0", "i", "x1"], ["y"], {"axis": 1})], [(2, 4), (2, 2)],
     lambda x, u: x.scatter(1, torch.tensor([[0, 2], [3, 1]]), u), constants={"i": numpy.array([[0, 2], [3, 1]])})
one("Trilu", [(3, 4)], lambda x: torch.triu(x, 1), constants={"k": numpy.array(1, numpy.int64)})
one("Trilu", [(2, 3, 3)], torch.tril, name="Trilu.lower", upper=0)
one("DepthToSpace", [(1, 8, 2, 3)], lambda x: F.pixel_shuffle(x, 2), blocksize=2, mode="CRD")
one("SpaceToDepth", [(1, 2, 4, 6)], lambda x: x.reshape(1, 2, 2, 2, 3, 2).permute(0, 3, 5, 1, 2, 4).reshape(1, 8, 2, 3), blocksize=2)
case("shapes", [
    ("Shape", ["x0"], ["s"], {}), ("Gather", ["s", "zero"], ["n"], {"axis": 0}), ("Size", ["x0"], ["size"], {}),
    ("Div", ["size", "n"], ["m"], {}), ("Unsqueeze", ["n", "first"], ["a"], {}), ("Unsqueeze", ["m", "first"], ["b"], {}),
    ("Concat", ["a", "b"], ["flat"], {"axis": 0}), ("Reshape", ["x0", "flat"], ["z"], {}),
    ("ConstantOfShape", ["flat"], ["zeros"], {}), ("Range", ["start", "m", "one"], ["r"], {}),
    ("Cast", ["r"], ["f"], {"to": 1}), ("Add", ["zeros", "f"], ["t"], {}), ("CastLike", ["t", "x0"], ["u"], {}),
    ("Mul", ["z", "u"], ["y"], {})],
    [(2, 3, 2)], lambda x: x.reshape(2, 6) * torch.arange(6.0),
    constants={"zero": numpy.array(0), "first": ints(0), "start": numpy.array(0), "one": numpy.array(1)})
case("sequences", [
    ("SplitToSequence", ["x0", "two"], ["s"], {"axis": 1}), ("SequenceAt", ["s", "last"], ["a"], {}),
    ("SequenceAt", ["s", "zero"], ["b"], {}), ("SequenceConstruct", ["a", "b", "a"], ["t"], {}),
    ("ConcatFromSequence", ["t"], ["c"], {"axis": 0, "new_axis": 1}),
    ("SplitToSequence", ["x0"], ["r"], {"axis": 0, "keepdims": 0}), ("ConcatFromSequence", ["r"], ["d"], {"axis": 0}),
    ("ReduceSum", ["d"], ["e"], {"keepdims": 0}), ("Mul", ["c", "e"], ["y"], {})],
    [(3, 4)], lambda x: torch.stack((x[:, 2:], x[:, :2], x[:, 2:])) * x.sum(),
    constants={"two": numpy.array(2), "last": numpy.array(-1), "zero": numpy.array(0)})
no = numpy.array([], numpy.float32)
for name, mode, coordinates, size, theirs in [
    ("linear", "linear", "half_pixel", (7,), {"mode": "linear", "align_corners": False}),
    ("corners", "linear", "align_corners", (9,), {"mode": "linear", "align_corners": True}),
    ("nearest", "nearest", "asymmetric", (8,), {"mode": "nearest"}),
]:
    one("Resize", [(2, 3, 4)], lambda x, s=size, t=theirs: F.interpolate(x, s, **t), name=f"Resize.{name}", mode=mode,
        coordinate_transformation_mode=coordinates, nearest_mode="floor",
        constants={"roi": no, "scales": no, "sizes": ints(2, 3, *size)})
one("Resize", [(1, 2, 3, 4)], lambda x: F.interpolate(x, scale_factor=(2, 3), mode="nearest"), name="Resize.scales",
    mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    constants={"roi": no, "scales": floats(1, 1, 2, 3)})


def gates(weight: Tensor, order: list[int]) -> Tensor:
    """ONNX's order of gates in PyTorch's."""
    return torch.cat([weight.chunk(len(order))[i] for i in order])


def recurrent(kind: str, order: list[int], directions: int, reverse=False, output=0, activation="tanh"):
    """Output `output` (Y, Y_h or Y_c) of torch's module for X, W, R, perhaps B, and initial states in ONNX's form."""

    def function(x, w, r, b=None, *states):
        hidden = r.shape[2]
        make = {"LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU, "RNN": torch.nn.RNN}[kind]
        extra = {"nonlinearity": activation} if kind == "RNN" else {}
        module = make(x.shape[2], hidden, bias=b is not None, bidirectional=directions == 2, **extra).double()
        names, values = [], []
        for d in range(directions):
            suffix = "_l0" + ("_reverse" if d else "")
            weights = [("weight_ih", w[d]), ("weight_hh", r[d])]
            if b is not None:
                weights += zip(["bias_ih", "bias_hh"], b[d].chunk(2))
            for name, value in weights:
                names.append(name + suffix)
                values.append(gates(value, order))
        turned = torch.flip(x, (0,)) if reverse else x
        given = (turned, states if kind == "LSTM" else states[0]) if states else (turned,)
        y, last = torch.func.functional_call(module, dict(zip(names, values)), given)
        if output:
            return last[output - 1] if kind == "LSTM" else last
        y = y.reshape(x.shape[0], x.shape[1], directions, hidden).permute(0, 2, 1, 3)
        return torch.flip(y, (0,)) if reverse else y

    return function


for kind, order, extra in [("LSTM", [0, 2, 3, 1], {}), ("GRU", [1, 0, 2], {"linear_before_reset": 1}), ("RNN", [0], {})]:
    n = len(order)
    for directions, direction in [(1, "forward"), (2, "bidirectional")]:
        shapes = [(5, 2, 3), (directions, n * 4, 3), (directions, n * 4, 4), (directions, 2 * n * 4)]
        one(kind, shapes, recurrent(kind, order, directions), name=f"{kind}.{direction}", direction=direction,
            hidden_size=4, **extra)


# The same operators where axes have size 1, or sizes that are equal: such shapes hide or expose mistakes of axes and
# of broadcasting.


def vary(operator, shapes, function, domains="any", constants=None, opset=20, nodes=None, **attributes):
    """A case that is named after its shapes, integers and attributes. `nodes`: unless it is of one node."""
    settings = [value.tolist() for value in (constants or {}).values() if value.dtype == numpy.int64]
    settings += list(attributes.values()) + ([opset] if opset != 20 else [])
    written = [str(value).replace(" ", "") for value in settings]
    sizes = ",".join("x".join(map(str, shape)) or "scalar" for shape in shapes)
    name = " ".join([operator, sizes, *written])
    if nodes:
        case(name, nodes, shapes, function, domains, constants, opset)
    else:
        one(operator, shapes, function, domains, constants, opset, name, **attributes)


def whole(value):
    """A number of rank 0."""
    return numpy.array(value, numpy.int64)


def indices(value):
    return numpy.array(value, numpy.int64)


for operator in ["Add", "Sub", "Mul", "Div", "Pow"]:
    for shapes in [
        [(3, 3), (3,)], [(1, 3), (3, 1)], [(1,), (1, 1)], [(2, 2, 2), (2, 1, 2)], [(), (2, 2)],
    ]:
        vary(operator, shapes, CASES[operator][2], "positive" if operator == "Pow" else "any")
for operator, function in {
    "Max": lambda *x: reduce(torch.maximum, x), "Min": lambda *x: reduce(torch.minimum, x), "Sum": lambda *x: sum(x),
    "Mean": lambda *x: sum(x) / len(x),
}.items():
    for shapes in [[(3, 3), (3,), (3, 1)], [(1, 3), (3, 1)], [(1, 1), (1,), (2, 2)], [(3, 3)],
        [(), (2,), (2, 1), (1, 1, 1)]]:
        vary(operator, shapes, function)
for operator, function in {"Add": torch.add, "Mul": torch.mul, "Div": torch.div, "MatMul": torch.matmul}.items():
    case(f"{operator} twice", [(operator, ["x0", "x0"], ["y"], {})], [(3, 3)], lambda x, f=function: f(x, x))
for shape, power, domain in [
    ((3, 3), 2.0, "any"), ((1,), 4.0, "any"), ((3, 1), 0.5, "positive"), ((3, 1), [1.0, 2.0, 3.0], "any"),
    ((3,), [[2.0]], "any"), ((2, 2), [3.0, -1.0], "any"),
]:
    power = numpy.array(power, numpy.float32)
    vary(f"Pow {power.tolist()}", [shape], lambda x, p=power: x ** torch.from_numpy(p).double(), domain, {"p": power},
         nodes=[("Pow", ["x0", "p"], ["y"], {})])
vary("Pow", [(3, 3)], lambda x: x**3, constants={"p": whole(3)})
for shapes in [[(3, 3), (3, 1), (3,)], [(1, 3), (3, 1), (3, 3)], [(1,), (1, 1), (3, 3)],
    [(3, 3, 3), (3, 3), (3, 1, 1)], [(), (2, 2), ()]]:
    vary("Where", shapes, CASES["Where"][2], nodes=CASES["Where"][0])
for shapes in [[(3, 3), (3,)], [(3, 3), (3, 1)], [(3, 3, 3), (3, 1, 1)], [(3, 3), (1,)], [(1, 1), (1,)],
    [(2, 1, 2), (1, 1, 2)]]:
    vary("PRelu", shapes, CASES["PRelu"][2])
for n, m, fmod in [
    ([[-4], [4], [5]], [[3, -3, 2]], 0), ([-3, -1, 4], [3], 0), ([[7]], [[2, 3], [4, 5]], 0),
    ([[-4], [4], [5]], [[3, -3, 2]], 1),
]:
    n, m = indices(n), indices(m)
    rest = torch.from_numpy(numpy.fmod(n, m) if fmod else numpy.mod(n, m)).double()
    vary("Mod", [(3, 3) if n.size == 3 and m.size == 3 else tuple(rest.shape)], lambda x, r=rest: x * r,
         constants={"n": n, "m": m},
         nodes=[("Mod", ["n", "m"], ["r"], {"fmod": fmod}), ("Cast", ["r"], ["f"], {"to": 1}),
             ("Mul", ["x0", "f"], ["y"], {})],
         fmod=fmod)


def product(x, axes, keep):
    for along in sorted((a % x.dim() for a in axes), reverse=True):
        x = torch.prod(x, along, keep)
    return x


def reduced(function):
    """`function` of x, all axes (as torch, which takes none for all, wants them) and whether they are kept."""
    return lambda x, axes, keep: function(x, tuple(axes) if axes else tuple(range(x.dim())), bool(keep))


REDUCTIONS = {
    "ReduceMax": torch.amax, "ReduceMin": torch.amin, "ReduceMean": torch.mean, "ReduceSum": torch.sum,
    "ReduceProd": product,
    "ReduceL1": lambda x, a, k: x.abs().sum(a, k), "ReduceL2": lambda x, a, k: x.square().sum(a, k).sqrt(),
    "ReduceSumSquare": lambda x, a, k: x.square().sum(a, k), "ReduceLogSumExp": torch.logsumexp,
    "ReduceLogSum": lambda x, a, k: torch.log(x.sum(a, k)),
}
for number, (operator, function) in enumerate(REDUCTIONS.items()):
    domain = "positive" if operator == "ReduceLogSum" else "any"
    for i, (shape, axes) in enumerate([
        ((2, 2, 2), [1]), ((2, 2, 2), [1, -3]), ((1, 3, 1), [0, 2]), ((3, 3), [0]), ((3, 1), [1]), ((1, 2), None),
    ]):
        keep = (i + number) % 2
        vary(operator, [shape], lambda x, f=reduced(function), a=axes, k=keep: f(x, a, k), domain,
             {"axes": ints(*axes)} if axes else {}, keepdims=keep)
vary("ReduceSum", [(3, 3)], lambda x: x * 1, constants={"axes": ints()}, noop_with_empty_axes=1)
vary("ReduceMax", [(3, 3)], lambda x: x.amax(0), opset=13, axes=[0], keepdims=0)
for shape, axes, zeros in [((3, 3), [1], [4]), ((3, 3), [0], [0, 3, 8]), ((2, 2, 2), [0, 2], [5]),
    ((1, 3), [0, 1], [1]), ((2, 2), [1], [0, 1])]:
    # Some factors are exactly 0.
    taken = numpy.zeros(shape, numpy.float32)
    taken.flat[zeros] = drawn(noise(0, shape), "any").numpy().flat[zeros]
    keep = len(zeros) % 2
    case(f"ReduceProd zero {shape} {axes} {keep}",
         [("Sub", ["x0", "taken"], ["z"], {}), ("ReduceProd", ["z", "axes"], ["y"], {"keepdims": keep})], [shape],
         lambda x, t=taken, a=axes, k=keep: product(x - torch.from_numpy(t).double(), a, bool(k)),
         constants={"taken": taken, "axes": ints(*axes)})
for operator, function in {"Softmax": torch.softmax, "LogSoftmax": torch.log_softmax}.items():
    for shape, axis in [((3, 3), 0), ((3, 3), 1), ((1, 3), 0), ((3, 1), -1), ((2, 2, 2), 1)]:
        vary(operator, [shape], lambda x, f=function, a=axis: f(x, a), axis=axis)
for i, (shape, axis) in enumerate([
    ((3, 3), 0), ((3, 3), 1), ((3, 3), -2), ((3, 3), -1), ((1, 3), 0), ((1,), 0), ((2, 2, 2), 1),
]):
    reverse, exclusive = i % 2, i // 2 % 2

    def summed(x, axis=axis, reverse=reverse, exclusive=exclusive):
        turned = torch.flip(x, (axis,)) if reverse else x
        total = torch.cumsum(turned, axis) - (turned if exclusive else 0)
        return torch.flip(total, (axis,)) if reverse else total

    vary("CumSum", [shape], summed, constants={"axis": whole(axis)}, reverse=reverse, exclusive=exclusive)

for shapes in [
    [(1, 3, 3), (3, 3)], [(3, 1, 3), (3, 3, 1)], [(3,), (3,)], [(3, 3), (3,)], [(1,), (1,)], [(1, 1), (1, 1)],
    [(3, 3), (3, 3)], [(2, 2, 2), (2, 2, 2)], [(3, 1), (1, 3)], [(1, 3), (3, 1)], [(3, 3), (1, 3, 3)],
    [(2, 1, 2, 2), (1, 2, 2, 2)],
    [(1, 2, 2), (2, 2, 1)], [(3,), (1, 3, 1)], [(2, 2), (2, 2, 2)],
]:
    vary("MatMul", shapes, torch.matmul)
tried = 0
for m, k, n in [(3, 3, 3), (1, 3, 3), (2, 1, 1), (1, 1, 1)]:
    for c in dict.fromkeys([(1,), (n,), (m, 1), (m, n), (1, n), ()] if k == 3 else [(n,), (m, n)]):
        a, b, beta = tried % 2, tried // 2 % 2, 1.0 + tried % 3 / 2
        tried += 1
        vary("Gemm", [(k, m) if a else (m, k), (n, k) if b else (k, n), c],
             lambda x, w, c, a=a, b=b, beta=beta: 0.5 * (x.T if a else x) @ (w.T if b else w) + beta * c,
             transA=a, transB=b, alpha=0.5, beta=beta)
vary("Gemm", [(3, 3), (3, 3)], lambda a, b: a.T @ b, transA=1)
for equation, *shapes in [
    ("ij,jk->ik", (3, 3), (3, 3)), ("ji,jk->ik", (3, 3), (3, 3)), ("ij,jk", (1, 3), (3, 1)),
    ("ij,ij->ij", (3, 3), (3, 3)), ("ij,ji->ij", (3, 3), (3, 3)), ("ij,ij->", (3, 3), (3, 3)),
    ("ij->", (3, 3)), ("ij->j", (3, 3)), ("ijk->kij", (2, 2, 2)), ("ijk->ki", (2, 2, 2)),
    ("bij,bjk->bik", (2, 2, 2), (2, 2, 2)), ("bij,bkj->bki", (2, 2, 2), (2, 2, 2)),
    ("ij,j->i", (3, 3), (3,)), ("i,j->ji", (3,), (3,)), ("i,j->ij", (1,), (3,)),
    ("ij,jk,kl->il", (2, 2), (2, 2), (2, 2)),
    ("ij,k->i", (3, 3), (3,)), ("ijk,kj->i", (2, 2, 2), (2, 2)), ("bqhd,bkhd->bhqk", (2, 2, 2, 2), (2, 2, 2, 2)),
    ("bhqd,bhkd->bhqk", (1, 1, 2, 1), (1, 1, 2, 1)), ("i,ij->j", (1,), (1, 3)),
    ("...i,...i->...", (2, 2, 2), (2, 2, 2)),
    ("...i,i->...", (2, 2, 2), (2,)), ("...ij,jk->...ik", (2, 1, 2), (2, 2)), ("ba", (2, 2)),
    ("i,j,k->kji", (2,), (2,), (2,)),
]:
    vary("Einsum", shapes, lambda *x, e=equation: torch.einsum(e, *x), equation=equation)


def spatial(operator, x, w, biased=False, *, strides=None, pads=None, dilations=None, output_padding=None, group=1):
    """A case of a convolution or its transpose."""
    n = len(x) - 2
    strides, dilations, pads = strides or [1] * n, dilations or [1] * n, pads or [0] * (2 * n)
    transposes = operator == "ConvTranspose"

    def function(x, w, b=None):
        if not transposes:
            x = F.pad(x, [pad for i in reversed(range(n)) for pad in (pads[i], pads[n + i])])
            return getattr(F, f"conv{n}d")(x, w, b, strides, 0, dilations, group)
        y = getattr(F, f"conv_transpose{n}d")(x, w, b, strides, 0, output_padding or 0, group, dilations)
        for i in range(n):
            y = y.narrow(2 + i, pads[i], y.shape[2 + i] - pads[i] - pads[n + i])
        return y

    shapes = [x, w] + ([(w[1] * group if transposes else w[0],)] if biased else [])
    given = {"strides": strides, "pads": pads, "dilations": dilations, "output_padding": output_padding, "group": group}
    usual = {"strides": [1] * n, "pads": [0] * (2 * n), "dilations": [1] * n, "output_padding": None, "group": 1}
    vary(operator, shapes, function, **{key: value for key, value in given.items() if value != usual[key]})


for x, w, biased, given in [
    ((1, 1, 5), (1, 1, 5), False, {}), ((1, 1, 1), (1, 1, 1), True, {}), ((3, 3, 3), (3, 3, 3), True, {}),
    ((3, 3, 3), (3, 3, 1), False, {}), ((3, 3, 3), (3, 3, 3), False, {"pads": [1, 1]}),
    ((1, 3, 3), (3, 1, 3), True, {"group": 3, "pads": [1, 1]}),
    ((2, 2, 4), (4, 1, 2), True, {"group": 2}), ((1, 4, 5), (4, 2, 2), False, {"group": 2, "strides": [2]}),
    ((1, 1, 5), (1, 1, 2), False, {"dilations": [4]}),
    ((1, 1, 4), (1, 1, 2), False, {"pads": [2, 0], "strides": [3]}),
    ((1, 1, 3, 3), (1, 1, 3, 3), False, {}), ((2, 2, 2, 2), (2, 2, 2, 2), True, {}),
    ((1, 2, 1, 4), (2, 2, 1, 3), True, {"pads": [0, 1, 0, 1]}),
    ((1, 2, 4, 1), (2, 2, 3, 1), False, {"pads": [1, 0, 1, 0]}),
    ((1, 2, 3, 3), (2, 1, 2, 2), True, {"group": 2, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ((1, 1, 3, 3), (1, 1, 2, 2), False, {"dilations": [2, 2], "pads": [1, 0, 0, 1]}),
    ((1, 1, 2, 2, 2), (1, 1, 2, 2, 2), True, {}),
]:
    spatial("Conv", x, w, biased, **given)
vary("Conv", [(1, 1, 4), (1, 1, 2)], lambda x, w: F.conv1d(F.pad(x, (1, 0)), w), auto_pad="SAME_LOWER")
vary("Conv", [(1, 1, 3), (1, 1, 3)], lambda x, w: F.conv1d(x, w), auto_pad="VALID")
for x, w, biased, given in [
    ((1, 1, 1), (1, 1, 1), True, {}), ((3, 3, 3), (3, 3, 3), True, {}),
    ((3, 3, 3), (3, 3, 1), False, {}), ((3, 3, 3), (3, 3, 3), False, {"pads": [1, 1]}),
    ((1, 3, 3), (3, 1, 3), True, {"group": 3}),
    ((2, 2, 2), (2, 2, 2), False, {"group": 2, "strides": [2]}),
    ((1, 2, 3), (2, 1, 1), True, {"strides": [2], "output_padding": [1]}),
    ((1, 1, 3), (1, 1, 2), False, {"dilations": [2], "pads": [1, 0]}),
    ((2, 1, 3), (1, 3, 3), True, {"strides": [3], "pads": [0, 2]}),
    ((2, 2, 2, 2), (2, 2, 2, 2), True, {"strides": [2, 2]}),
    ((1, 1, 2, 1), (1, 1, 1, 3), False, {"pads": [0, 1, 0, 1]}),
    ((1, 2, 2, 2), (2, 1, 2, 2), False,
        {"group": 2, "pads": [1, 0, 1, 0], "strides": [2, 1], "output_padding": [1, 0]}),
]:
    spatial("ConvTranspose", x, w, biased, **given)


def pooled(operator, x, kernel, **given):
    n = len(kernel)
    strides, pads = given.get("strides", [1] * n), given.get("pads", [0] * (2 * n))
    ceil = bool(given.get("ceil_mode", 0))
    if operator == "MaxPool":
        dilations = given.get("dilations", [1] * n)
        function = lambda x: getattr(F, f"max_pool{n}d")(x, kernel, strides, pads[:n], dilations, ceil)  # noqa: E731
    else:
        counted = bool(given.get("count_include_pad", 0))
        function = lambda x: getattr(F, f"avg_pool{n}d")(x, kernel, strides, pads[:n], ceil, counted)  # noqa: E731
    vary(operator, [x], function, kernel_shape=kernel, **given)


for operator in ["MaxPool", "AveragePool"]:
    for x, kernel, given in [
        ((1, 1, 3), [3], {}), ((3, 3, 3), [1], {}), ((2, 2, 4), [2], {"strides": [2]}),
        ((1, 1, 5), [3], {"strides": [2], "ceil_mode": 1, "pads": [1, 1]}),
        ((2, 2, 4), [3], {"strides": [2], "ceil_mode": 1}),
        ((1, 1, 3), [2], {"strides": [3]}), ((2, 2, 3), [1], {"strides": [2]}),
        ((1, 1, 3, 3), [3, 3], {}), ((2, 2, 2, 2), [2, 2], {"pads": [1, 1, 1, 1]}),
        ((1, 1, 1, 4), [1, 2], {"strides": [1, 2]}), ((1, 1, 3, 3), [2, 2], {"strides": [2, 2], "pads": [1, 0, 1, 0]}),
    ]:
        pooled(operator, x, kernel, **given)
pooled("MaxPool", (1, 1, 5), [2], dilations=[2])
pooled("MaxPool", (1, 2, 4, 4), [2, 2], dilations=[1, 3])
pooled("AveragePool", (1, 1, 4), [3], pads=[1, 1], count_include_pad=1)
vary("AveragePool", [(1, 1, 5)], lambda x: (x[..., :3] + x[..., 2:]) / 2, kernel_shape=[2], dilations=[2])
for shape in [(1, 1, 1), (3, 3, 3), (2, 1, 1, 3), (2, 2, 2, 2)]:
    for operator, function in {"GlobalAveragePool": torch.mean, "GlobalMaxPool": torch.amax}.items():
        vary(operator, [shape], lambda x, f=function: f(x, tuple(range(2, x.dim())), True))


def standard(x, axes, epsilon=1e-5):
    return (x - x.mean(axes, True)) / (x.var(axes, False, keepdim=True) + epsilon).sqrt()


def column(value, rank):
    """Of each channel."""
    return value.reshape(-1, *[1] * (rank - 2))


for shape in [(3, 3, 3), (1, 3, 3), (3, 1, 3), (2, 2), (1, 1), (1, 3, 1), (2, 2, 2, 2)]:
    n = shape[1]
    mean, var = floats(0.1, 0.2, 0.3)[:n], floats(1.0, 2.0, 0.5)[:n]
    vary("BatchNormalization", [shape, (n,), (n,)],
         lambda x, g, b, m=mean, v=var: F.batch_norm(x, torch.from_numpy(m).double(), torch.from_numpy(v).double(), g,
             b),
         constants={"mean": mean, "var": var})
for shape, axis, affine in [
    ((2, 2, 2), 1, 2), ((3, 3), 1, 1), ((3, 1), -1, 2), ((2, 2, 2), 0, 2),
    ((1, 3), 0, 1), ((3,), 0, 2), ((1, 1, 3), -2, 2),
]:
    sizes = shape[axis:]
    vary("LayerNormalization", [shape] + [sizes] * affine, lambda x, g, b=None, s=sizes: F.layer_norm(x, s, g, b),
         axis=axis)
for scale in [(3,), (3, 1), (1,)]:
    vary("LayerNormalization", [(3, 3, 3), scale, scale], lambda x, g, b: standard(x, (1, 2)) * g + b, axis=1)
for shape in [(3, 3, 3), (1, 1, 3), (2, 3, 1), (1, 2, 2, 2), (2, 2, 1, 2)]:
    n = shape[1]
    vary("InstanceNormalization", [shape, (n,), (n,)],
         lambda x, g, b: standard(x, tuple(range(2, x.dim()))) * column(g, x.dim()) + column(b, x.dim()))
for shape, groups in [((1, 3, 3), 1), ((3, 3, 3), 3), ((2, 4, 1), 2), ((1, 1, 3), 1), ((2, 2, 2, 2), 2)]:
    for opset in (18, 21) if groups > 1 else [21]:
        n = groups if opset == 18 else shape[1]

        def function(x, g, b, groups=groups):
            g, b = (column(value.repeat_interleave(x.shape[1] // len(value)), x.dim()) for value in (g, b))
            return standard(x.reshape(x.shape[0], groups, -1), 2).reshape(x.shape) * g + b

        vary("GroupNormalization", [shape, (n,), (n,)], function, opset=opset, num_groups=groups)
for shape, axis in [((3, 3), 0), ((3, 3), 1), ((3, 1), 1), ((1, 3), 0), ((2, 2, 2), 1)]:
    for p in (1, 2) if shape[0] == 3 else [2]:
        vary("LpNormalization", [shape], lambda x, a=axis, p=p: F.normalize(x, p, a), axis=axis, p=p)
for shape, axes in [
    ((2, 2, 2, 2), None), ((1, 3, 3, 2), None), ((2, 1, 1, 3), None), ((3, 3), [0]), ((3, 3), [1]),
    ((2, 3, 1, 2), [1, 3]), ((3, 1, 3), [-1]),
]:
    vary("MeanVarianceNormalization", [shape], lambda x, a=tuple(axes or (0, 2, 3)): standard(x, a, 0),
         **({"axes": axes} if axes else {}))

for shape, wanted in [
    ((3, 3), (9,)), ((3, 3), (3, 3)), ((1, 3), (3, 1)), ((1, 1), ()), ((1,), (1, 1, 1)), ((2, 2, 2), (0, -1)),
    ((2, 1, 3), (-1, 1, 2)),
    ((2, 1, 2), (0, 0, -1)), ((2, 2, 2), (2, 1, 4)), ((), (1,)),
]:
    target = [shape[i] if size == 0 else size for i, size in enumerate(wanted)]
    vary("Reshape", [shape], lambda x, t=target: x.reshape(t), constants={"shape": ints(*wanted)})
case("Reshape twice",
     [("Reshape", ["x0", "a"], ["z"], {}), ("Transpose", ["z"], ["t"], {}), ("Reshape", ["t", "b"], ["s"], {}),
         ("Reshape", ["s", "a"], ["y"], {})],
     [(2, 2, 2)], lambda x: x.reshape(4, 2).T.reshape(2, 2, 2).reshape(4, 2),
     constants={"a": ints(4, 2), "b": ints(2, 2, 2)})
for shape, axes in [((1, 3, 1), None), ((1, 3, 1), [0]), ((1, 1, 3), [-3, 1]), ((1, 1), [0, 1]), ((1, 1), None),
    ((3, 3), None)]:
    vary("Squeeze", [shape], lambda x, a=axes: x.squeeze() if a is None else x.squeeze(tuple(a)),
         constants={"axes": ints(*axes)} if axes else {})
for shape, axes in [((3, 3), [1]), ((3,), [-1]), ((1,), [0, -1]), ((), [0]), ((2, 2), [3, 0]), ((1, 3), [0])]:
    vary("Unsqueeze", [shape], lambda x, a=axes: x.reshape(numpy.expand_dims(numpy.empty(x.shape), a).shape),
         constants={"axes": ints(*axes)})
for shape, axis in [((3, 3, 3), 0), ((3, 3, 3), 1), ((2, 2, 2), 3), ((2, 2, 2), -1), ((1, 3), 0), ((1,), 1),
    ((3, 1), 1)]:
    vary("Flatten", [shape], lambda x, a=axis: x.reshape(int(numpy.prod(x.shape[:a])), -1), axis=axis)
for shape, wanted in [
    ((3, 1), (3, 3)), ((1,), (3,)), ((3, 3), (1, 1)), ((1, 3), (3, 1)), ((), (2, 2)), ((3,), (3, 3)), ((1, 1), (1,)),
    ((2, 1, 2), (2, 1)),
    ((3, 3), (3, 1, 3)),
]:
    vary("Expand", [shape], lambda x, w=wanted: x.expand(torch.broadcast_shapes(x.shape, w)),
         constants={"shape": ints(*wanted)})
for shape, repeats in [((3, 3), (1, 1)), ((3, 3), (3, 1)), ((1, 3), (3, 1)), ((1,), (3,)), ((2, 2, 2), (2, 1, 2)),
    ((1, 1), (2, 2)), ((2, 2), (1, 2))]:
    vary("Tile", [shape], lambda x, r=repeats: x.repeat(r), constants={"repeats": ints(*repeats)})
for shape, orders in [
    ((2, 2, 2), permutations(range(3))), ((1, 3, 1), [(1, 0, 2)]), ((3, 3), [(1, 0)]),
    ((2, 2, 2, 2), [(0, 2, 1, 3), (3, 1, 2, 0), (1, 2, 3, 0)]),
]:
    for perm in orders:
        vary("Transpose", [shape], lambda x, p=perm: x.permute(p), perm=list(perm))
for shape in [(3, 3), (2, 2, 2), (1,)]:
    vary("Transpose", [shape], lambda x: x.permute(*reversed(range(x.dim()))))
for first, second in [((1, 2, 0), (1, 2, 0)), ((1, 2, 0), (2, 0, 1)), ((0, 2, 1), (1, 0, 2))]:
    case(f"Transpose twice {first} {second}",
         [("Transpose", ["x0"], ["z"], {"perm": first}), ("Transpose", ["z"], ["y"], {"perm": second})],
         [(2, 2, 2)], lambda x, a=first, b=second: x.permute(a).permute(b))

for shapes, axis in [
    ([(3, 3), (3, 3)], 0), ([(3, 3), (3, 3)], 1), ([(1, 3), (3, 3)], 0), ([(1,), (1,)], -1), ([(3, 3)], 0),
    ([(3, 1)] * 3, -1),
    ([(2, 2, 2), (2, 1, 2), (2, 2, 2)], 1),
]:
    vary("Concat", shapes, lambda *x, a=axis: torch.cat(x, a), axis=axis)
case("Concat twice", [("Concat", ["x0", "x1", "x0"], ["y"], {"axis": 1})], [(2, 2), (2, 1)],
     lambda a, b: torch.cat((a, b, a), 1))
for shape, axis, sizes, parts in [
    ((3, 3), 0, [1, 1, 1], 3), ((3, 3), -1, [1, 1, 1], 3), ((3, 3), 1, None, 2), ((1, 3), 0, [1], 1),
    ((1, 3), 1, None, 3), ((2, 2, 2), 1, None, 2),
    ((3, 3), 0, [2, 1], 2),
]:
    names = [f"p{i}" for i in range(parts)]
    vary("Split", [shape],
         lambda x, a=axis, s=sizes or -(-shape[axis] // parts): torch.split(x, s, a)[0] * torch.split(x, s, a)[-1],
         constants={"sizes": ints(*sizes)} if sizes else {}, axis=axis, parts=parts,
         nodes=[("Split", ["x0"] + (["sizes"] if sizes else []), names,
             {"axis": axis} | ({} if sizes else {"num_outputs": parts})),
                ("Mul", [names[0], names[-1]], ["y"], {})])
far = 2**62
for shape, *lists in [
    ((3, 3), [-1], [-far], [0], [-1]), ((3, 3), [-1, -1], [-far, -far], [0, 1], [-1, -1]),
    ((5, 2), [4], [-far], [0], [-2]),
    ((5,), [far], [-far], [0], [-3]), ((1, 3), [-1], [-far], [0], [-1]), ((3, 3), [-1], [0], [1], [-1]),
    ((3, 3), [1, 0], [3, 2]), ((3, 3), [1], [far], [-2]), ((2, 2, 2), [1, 0], [2, 1], [2, 0], [1, 1]),
    ((5, 5), [0, 3], [5, 0], [1, 0], [2, -2]),
    ((1, 1), [0], [1]), ((3, 3), [-2], [-1], [0]), ((4, 4), [1, 3], [4, 1], [0, 1], [2, -1]),
]:
    starts, ends, *rest = lists
    axes, steps = rest[0] if rest else range(len(starts)), rest[1] if len(rest) > 1 else [1] * len(starts)

    def sliced(x, taken=list(zip(starts, ends, axes, steps))):
        for start, end, axis, step in taken:
            x = x.index_select(axis,
                torch.arange(x.shape[axis])[torch.from_numpy(numpy.arange(x.shape[axis])[start:end:step].copy())])
        return x

    vary("Slice", [shape], sliced,
         constants=dict(zip(["starts", "ends", "axes", "steps"], [ints(*values) for values in lists])))
for mode, shape, pads, axes in [
    ("constant", (3, 3), [1, 0, 0, 1], None), ("constant", (1, 1), [0, 1, 1, 0], None),
    ("constant", (3, 3), [2, -1], [1]),
    ("constant", (2, 2, 2), [1, 0, 0, 1], [-1, 0]), ("constant", (3, 3), [-1, -1, -1, 1], None),
    ("edge", (3, 3), [1, 2, 2, 1], None), ("edge", (1, 3), [2, 0, 1, 0], None),
    ("reflect", (3, 3), [1, 2, 2, 1], None),
    ("reflect", (2, 2, 2), [0, 1, 0, 0, 0, 1], None), ("reflect", (1, 3), [0, 2, 0, 2], None),
    ("wrap", (3, 3), [1, 2, 2, 1], None),
    ("wrap", (1, 3), [2, 0, 1, 3], None), ("wrap", (2, 2, 2), [1, 1], [-2]), ("edge", (3, 3), [-1, 1, 0, 2], None),
]:
    wide = numpy.zeros((len(shape), 2), int)
    wide[axes or range(len(shape))] = numpy.reshape(pads, (2, -1)).T
    at = numpy.arange(numpy.prod(shape)).reshape(shape)
    at = at[tuple(slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(shape, wide))]
    at = numpy.pad(at, wide.clip(0), mode, **({"constant_values": -1} if mode == "constant" else {}))

    def padded(x, at=torch.from_numpy(at)):
        return torch.where(at < 0, 0.5, x.flatten()[at.clamp(0)])

    constants = {"pads": ints(*pads)} | ({"value": numpy.float32(0.5)} if mode == "constant" else {})
    inputs = ["x0", "pads", "value" if mode == "constant" else ""] + (["axes"] if axes else [])
    vary("Pad", [shape], padded, constants=constants | ({"axes": ints(*axes)} if axes else {}), mode=mode,
         nodes=[("Pad", inputs, ["y"], {"mode": mode})])

for shape, axis, picked in [
    ((3, 3), 0, [0, 0, 2]), ((3, 3), 1, [[1, 1], [1, 1]]), ((1, 3), 0, 0), ((3,), 0, [1]),
    ((2, 2, 2), 1, [1, 0]), ((3, 3), 0, [0, 1, 2]), ((3, 3), 1, [[1, 2]]), ((3, 3), 0, -2),
    ((2, 2, 2), -1, [[-1, 0], [0, 0]]), ((1,), 0, [0, 0, 0]),
    ((3,), 0, 2),
]:
    vary("Gather", [shape], lambda x, a=axis, i=picked: x[(slice(None),) * (a % x.dim()) + (torch.tensor(i),)],
         constants={"i": indices(picked)}, axis=axis)
for shape, axis, picked in [
    ((3, 3), 0, [[0, 0, 0], [0, 2, 0]]), ((3, 3), 1, [[1, 1], [2, 2], [0, 0]]), ((1, 3), 0, [[0, 0, 0], [0, 0, 0]]),
    ((1, 3), -1, [[2, 2, 2, 0]]),
    ((3, 3), -2, [[-1, -1, 0]]), ((2, 2, 2), 1, [[[1, 1]] * 2] * 2), ((1,), 0, [0, 0]),
]:
    vary("GatherElements", [shape], lambda x, a=axis, i=picked: torch.gather(x, a, torch.tensor(i) % x.shape[a]),
         constants={"i": indices(picked)}, axis=axis)
for shape, picked in [
    ((3, 3), [[0], [0], [2]]), ((3, 3), [[0, 0], [0, 0], [2, 1]]), ((3, 3), [[-1, 1]]),
    ((2, 2, 2), [[[0, 1]], [[0, 1]]]), ((1, 3), [[0], [0]]),
    ((2, 2, 2), [[1], [1]]), ((1,), [[0], [0]]),
]:
    vary("GatherND", [shape], lambda x, i=picked: x[tuple(torch.tensor(i).movedim(-1, 0))],
         constants={"i": indices(picked)})
for shape, picked, add in [
    ((3, 3), [[2], [0], [1]], 0), ((3, 3), [[1], [1], [1]], 1), ((3, 3), [[0, 1], [0, 1], [1, 0]], 1),
    ((1, 3), [[0], [0]], 1),
    ((2, 2, 2), [[[1], [1]], [[0], [1]]], 1), ((2, 2, 2), [[0, 1], [1, 1]], 0), ((3,), [[-1], [2]], 1),
]:
    updates = numpy.shape(picked)[:-1] + shape[numpy.shape(picked)[-1]:]
    vary("ScatterND", [shape, updates],
         lambda x, u, i=picked, add=add: torch.index_put(x, tuple(torch.tensor(i).movedim(-1, 0)), u,
             accumulate=bool(add)),
         constants={"i": indices(picked)}, add=add,
         nodes=[("ScatterND", ["x0", "i", "x1"], ["y"], {"reduction": "add"} if add else {})])
for shape, axis, picked, add in [
    ((3, 3), 0, [[2, 0, 1]], 0), ((3, 3), 1, [[2, 0], [1, 2]], 0), ((3, 3), -1, [[1, 1], [0, 0], [2, 2]], 1),
    ((3, 3), 0, [[0, 0, 0], [0, 2, 0]], 1),
    ((1, 3), 0, [[0, 0], [0, 0]], 1), ((2, 2, 2), 1, [[[1, 0]], [[0, 1]]], 0), ((2, 2, 2), 1, [[[1, 1], [1, 1]]], 1),
    ((3,), 0, [-1, -1], 1),
]:
    def scattered(x, u, axis=axis, i=picked, add=add):
        return (x.scatter_add if add else x.scatter)(axis, torch.tensor(i) % x.shape[axis], u)

    vary("ScatterElements", [shape, numpy.shape(picked)], scattered, constants={"i": indices(picked)}, axis=axis,
         add=add,
         nodes=[("ScatterElements", ["x0", "i", "x1"], ["y"], {"axis": axis} | ({"reduction": "add"} if add else {}))])
for i, (shape, k) in enumerate([
    ((3, 3), -1), ((3, 3), -1), ((3, 3), 1), ((3, 3), 1), ((3, 3), 0), ((1, 3), 1), ((3, 1), -1), ((1, 1), 0),
    ((2, 2, 2), None), ((3, 3), None),
    ((1, 3), 0), ((2, 3, 1), 0),
]):
    upper = i % 2
    vary("Trilu", [shape], lambda x, k=k or 0, u=upper: (torch.triu if u else torch.tril)(x, k),
         constants={} if k is None else {"k": whole(k)}, upper=upper)

for shape, k, axis, largest in [
    ((3, 3), 1, 0, 1), ((3, 3), 2, 1, 0), ((3, 3), 3, -1, 1), ((3, 3), 2, -2, 0), ((1, 3), 1, 0, 1), ((3, 1), 1, 1, 0),
    ((2, 2, 2), 1, 1, 1),
    ((2, 2, 2), 2, 0, 0), ((1,), 1, 0, 1), ((2, 3, 4), 2, 1, 1), ((2, 6), 4, -1, 0),
]:
    given = {"axis": axis, "largest": largest}
    vary("TopK", [shape], lambda x, k=k, a=axis, g=largest: torch.topk(x, k, a, bool(g)).values,
         constants={"k": ints(k)}, **given,
         nodes=[("TopK", ["x0", "k"], ["y", "i"], given)])
vary("TopK", [(3, 3), (3, 3)],
     lambda a, b: torch.gather(b, 1, torch.topk(a, 2, 1).indices) * torch.topk(a, 2, 1).values,
     constants={"k": ints(2)},
     nodes=[("TopK", ["x0", "k"], ["v", "i"], {}), ("GatherElements", ["x1", "i"], ["p"], {"axis": 1}),
         ("Mul", ["p", "v"], ["y"], {})])
for operator, function in {"ArgMax": torch.argmax, "ArgMin": torch.argmin}.items():
    for i, (shape, axis) in enumerate([
        ((3, 3), 0), ((3, 3), 1), ((1, 3), 0), ((3, 1), -1), ((2, 2, 2), 1), ((1,), 0), ((2, 4), -1),
    ]):
        keep = (i + (operator == "ArgMin")) % 2
        # The indices pick from another tensor, and from their own.
        nodes = [(operator, ["x0"], ["i" if keep else "j"], {"axis": axis, "keepdims": keep})]
        nodes += [] if keep else [("Unsqueeze", ["j", "axes"], ["i"], {})]
        nodes += [("GatherElements", [x, "i"], [p], {"axis": axis}) for x, p in (("x0", "p"), ("x1", "q"))]
        nodes += [("Mul", ["p", "q"], ["y"], {})]
        vary(operator, [shape, shape],
             lambda a, b, f=function, x=axis: torch.gather(a, x, f(a, x, True)) * torch.gather(b, x, f(a, x, True)),
             constants={} if keep else {"axes": ints(axis)}, nodes=nodes, axis=axis, keepdims=keep)
for picked, depth, axis in [([0, 2, 1], 3, -1), ([0, 2, 1], 3, 0), ([[0, 0], [1, -1]], 2, 1),
    ([[0, 0], [1, -1]], 2, -1), ([0], 1, 0), ([2, 2, -3], 3, 0), ([1, 3], 2, -1)]:
    # Indices beyond the depth are nowhere.
    hot = torch.tensor(picked).unsqueeze(axis if axis >= 0 else axis + numpy.ndim(picked) + 1)
    places = torch.arange(depth).reshape([-1 if i == axis % hot.dim() else 1 for i in range(hot.dim())])
    hot = (hot == places) | (hot == places - depth)
    given = {"i": indices(picked), "depth": whole(depth), "values": floats(0, 1)}
    vary("OneHot", [tuple(hot.shape)], lambda x, h=hot: x * h, constants=given, axis=axis,
         nodes=[("OneHot", ["i", "depth", "values"], ["h"], {"axis": axis}), ("Mul", ["x0", "h"], ["y"], {})])
    if depth != 3:
        continue
    vary("OneHot values", [(2,), tuple(hot.shape)], lambda v, x, h=hot: x * torch.where(h, v[1], v[0]),
         constants={name: given[name] for name in ("i", "depth")}, axis=axis,
         nodes=[("OneHot", ["i", "depth", "x0"], ["h"], {"axis": axis}), ("Mul", ["x1", "h"], ["y"], {})])
case("OneHot of ArgMax",
     [("ArgMax", ["x0"], ["i"], {"axis": 1, "keepdims": 0}), ("OneHot", ["i", "depth", "values"], ["h"], {}),
         ("Mul", ["x0", "h"], ["y"], {})],
     [(3, 3)], lambda x: x * F.one_hot(x.argmax(1), 3), constants={"depth": whole(3), "values": floats(0, 1)})


def transformed(x, length, axis, inverse, onesided):
    """x [.., 1 or 2] as ONNX's DFT gives it."""
    if x.shape[-1] == 1:
        real, number = x[..., 0], None
    else:
        real, number = None, torch.complex(x[..., 0], x[..., 1])
    axis = axis % x.dim()
    if inverse and onesided:
        return torch.fft.irfft(number, length, axis)[..., None]
    if onesided:
        return torch.view_as_real(torch.fft.rfft(real, length, axis))
    number = torch.complex(real, torch.zeros_like(real)) if number is None else number
    return torch.view_as_real((torch.fft.ifft if inverse else torch.fft.fft)(number, length, axis))


for opset in (17, 20):
    for i, (shape, length, axis, inverse, onesided) in enumerate([
        ((1, 4, 1), None, 1, 0, 1), ((2, 5, 1), None, 1, 0, 1), ((1, 1, 1), None, 1, 0, 1), ((3, 3, 1), 4, -2, 0, 1),
        ((2, 2, 2), None, 0, 0, 0), ((3, 3, 2), 2, 1, 0, 0), ((1, 3, 2), None, 1, 1, 0),
        ((2, 2, 2, 2), None, 1, 1, 0), ((3, 3, 1), None, 1, 1, 0), ((2, 3, 2), 4, 1, 1, 1), ((2, 3, 2), 5, 1, 1, 1),
        ((1, 2, 2), 2, 1, 1, 1), ((2, 2, 2, 2), 2, 0, 1, 1), ((1, 1, 2), 1, 1, 1, 1),
    ]):
        if opset == 17 and i % 2:
            continue
        constants = ({"length": whole(length)} if length else {}) | ({"axis": whole(axis)} if opset == 20 else {})
        inputs = ["x0", "length" if length else ""] + (["axis"] if opset == 20 else [])
        given = {"inverse": inverse, "onesided": onesided}
        vary("DFT", [shape], lambda x, n=length, a=axis, v=inverse, o=onesided: transformed(x, n, a, v, o),
             constants=constants, opset=opset,
             nodes=[("DFT", inputs if any(inputs[1:]) else ["x0"], ["y"],
                 given | ({} if opset == 20 else {"axis": axis}))], axis=axis, **given)
for opset, axis in [(17, 1), (20, -2)]:  # the axis that is meant where none is named
    vary("DFT", [(2, 3, 2, 1)], lambda x, a=axis: transformed(x, None, a, 0, 0), opset=opset)
for shape in [(), (1,)]:
    vary("Identity", [shape], lambda x: x * 1)

for shape, sizes, mode, coordinates, theirs in [
    ((1, 1, 1), (3,), "linear", "half_pixel", {"mode": "linear", "align_corners": False}),
    ((3, 3, 3), (3,), "linear", "half_pixel", {"mode": "linear", "align_corners": False}),
    ((1, 1, 3), (1,), "linear", "half_pixel", {"mode": "linear", "align_corners": False}),
    ((1, 2, 3), (1,), "linear", "align_corners", {"mode": "linear", "align_corners": True}),
    ((1, 1, 4), (2,), "linear", "asymmetric", None),
    ((3, 3, 3), (5,), "nearest", "asymmetric", {"mode": "nearest"}),
    ((1, 1, 1), (3,), "nearest", "asymmetric", {"mode": "nearest"}),
    ((1, 1, 2, 2), (3, 3), "linear", "half_pixel", {"mode": "bilinear", "align_corners": False}),
    ((1, 2, 2, 2), (3, 2), "linear", "align_corners", {"mode": "bilinear", "align_corners": True}),
    ((1, 2, 2, 2), (4, 1), "nearest", "asymmetric", {"mode": "nearest"}),
]:
    function = (lambda x, s=sizes, t=theirs: F.interpolate(x, s, **t)) if theirs else (lambda x: x[..., ::2])
    case(f"Resize {shape} {sizes} {mode} {coordinates}", [("Resize", ["x0", "", "", "sizes"], ["y"], {
        "mode": mode, "coordinate_transformation_mode": coordinates, "nearest_mode": "floor"})], [shape], function,
        constants={"sizes": ints(*shape[:2], *sizes)})
for shape, scale, mode, rounding, theirs in [
    ((1, 1, 3), 1.5, "linear", "floor", {"mode": "linear", "align_corners": False}),
    ((3, 3, 3), 0.5, "linear", "floor", {"mode": "linear", "align_corners": False}),
    ((2, 2, 2), 1.75, "nearest", "round_prefer_ceil", {"mode": "nearest-exact"}),
    ((1, 1, 3), 1.0, "linear", "floor", {"mode": "linear", "align_corners": False}),
]:
    case(f"Resize {shape} {scale}",
         [("Resize", ["x0", "", "scales"], ["y"], {"mode": mode, "nearest_mode": rounding})], [shape],
         lambda x, s=scale, t=theirs: F.interpolate(x, scale_factor=s, **t), constants={"scales": floats(1, 1, scale)})
for axes, shape in [((0,), (2, 2, 2)), ((1,), (2, 2, 2)), ((0, 1), (1, 3, 2))]:
    # Axes other than the last ones.
    case(f"Resize {shape} {axes}", [("Resize", ["x0", "", "scales"], ["y"], {
        "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"})], [shape],
        lambda x, axes=axes: reduce(lambda x, axis: x.repeat_interleave(2, axis), axes, x),
        constants={"scales": floats(*[2 if i in axes else 1 for i in range(3)])})
for shape, b in [((1, 4, 1, 1), 2), ((1, 4, 2, 2), 2), ((2, 8, 1, 2), 2), ((1, 9, 1, 1), 3)]:
    n, c, h, w = shape
    vary("DepthToSpace", [shape], lambda x, b=b: F.pixel_shuffle(x, b), blocksize=b, mode="CRD")
    vary("DepthToSpace", [shape],
         lambda x, n=n, c=c // b**2, h=h, w=w, b=b: x.reshape(n, b, b, c, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c,
             h * b, w * b), blocksize=b, mode="DCR")
for shape, b in [((1, 1, 2, 2), 2), ((2, 2, 2, 2), 2), ((1, 4, 2, 4), 2), ((1, 1, 3, 3), 3)]:
    n, c, h, w = shape
    vary("SpaceToDepth", [shape],
         lambda x, n=n, c=c, h=h // b, w=w // b, b=b: x.reshape(n, c, h, b, w, b).permute(0, 3, 5, 1, 2, 4).reshape(n,
             c * b * b, h, w), blocksize=b)
for axis, new in [(0, 0), (1, 1), (-1, 1)]:
    case(f"sequences {axis} {new}", [
        ("SplitToSequence", ["x0"], ["s"], {"axis": 1, "keepdims": 0}),
        ("ConcatFromSequence", ["s"], ["y"], {"axis": axis, "new_axis": new})],
        [(3, 3)], lambda x, a=axis, new=new: (torch.stack if new else torch.cat)(x.unbind(1), a))

RECURRENT = [("LSTM", [0, 2, 3, 1], {}), ("GRU", [1, 0, 2], {"linear_before_reset": 1}), ("RNN", [0], {})]
for kind, order, extra in RECURRENT:
    n = len(order)
    states = 2 if kind == "LSTM" else 1
    # Steps, batch, inputs, hidden, direction, whether it has a bias and initial states, and the output.
    for i, (t, batch, inputs, hidden, direction, biased, given, output) in enumerate([
        (1, 1, 1, 1, "bidirectional", 1, 0, 0), (3, 1, 1, 1, "bidirectional", 1, 1, 0),
        (2, 2, 2, 2, "bidirectional", 1, 0, 1), (3, 1, 2, 2, "bidirectional", 0, 0, 0),
        (2, 2, 2, 2, "bidirectional", 1, 1, states), (3, 2, 1, 1, "reverse", 1, 1, 1),
        (2, 1, 1, 2, "forward", 0, 0, states),
    ]):
        directions = 2 if direction == "bidirectional" else 1
        shapes = [(t, batch, inputs), (directions, n * hidden, inputs), (directions, n * hidden, hidden)]
        shapes += [(directions, 2 * n * hidden)] * biased + [(directions, batch, hidden)] * (states if given else 0)
        lengths = given and i % 2  # as other exporters give them
        names = ["x0", "x1", "x2", "x3"][: 3 + biased]
        names += ["lengths" if lengths else "", "x4", "x5"][: 1 + states] if given else []
        attributes = {"direction": direction, "hidden_size": hidden} | extra
        relu = kind == "RNN" and i % 3 == 1
        if relu:
            attributes["activations"] = ["Relu"] * directions
        case(f"{kind} {t}x{batch}x{inputs},{hidden} {direction} {output}" + " biased" * biased + " given" * given,
             [(kind, names, [""] * output + ["y"], attributes)], shapes,
             recurrent(kind, order, directions, direction == "reverse", output, "relu" if relu else "tanh"),
             constants={"lengths": numpy.full(batch, t, numpy.int32)} if lengths else {})


def model(nodes, shapes, constants, opset, output, check=True) -> bytes:
    made = [helper.make_node(op, inputs, outputs, **attributes) for op, inputs, outputs, attributes in nodes]
    inputs = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape) for i, shape in enumerate(shapes)]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, output)
    weights = [numpy_helper.from_array(numpy.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(made, "operator", inputs, [y], weights)
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    if check and opset != 18:  # whose GroupNormalization the checker no longer takes, though models have it
        onnx.checker.check_model(built)
    return built.SerializeToString(deterministic=True)


def unknown() -> bytes:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="known"),
        helper.make_node("NonMaxSuppression", ["a", "a"], ["b"], name="boxes"),
        helper.make_node("Strange", ["b"], ["c"], name="first", domain="com.example"),
        helper.make_node("Strange", ["c"], ["y"], name="second", domain="com.example"),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 4]) for name in "xy")
    graph = helper.make_graph(nodes, "unknown", [x], [y])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString(deterministic=True)


def refused() -> list[dict]:
    def node(operator, shapes, message, constants=None, **attributes):
        inputs = [f"x{i}" for i in range(len(shapes))] + list(constants or {})
        made = model([(operator, inputs, ["y"], attributes)], shapes, constants or {}, 20, None, check=False)
        return {"model": made.hex(), "shapes": shapes, "message": message}

    return [
        node("BatchNormalization", [(2, 3, 4), (3,), (3,)], "input 4 is missing", {"mean": floats(0, 0, 0)}),
        node("Conv", [(2, 3, 5), (6, 3, 1), (5,)], "bias [5] does not fit 6 channels"),
        node("ConvTranspose", [(2, 3, 5), (3, 4, 2), (2,)], "bias [2] does not fit 4 channels"),
        node("Pad", [(2, 3)], "pads [0, 0, 0, -9223372036854775808]", {"pads": ints(0, 0, 0, -(2**63))}),
        node("Pad", [(2, 3)], "is too large", {"pads": ints(2**24, 2**24, 2**24, 2**24)}),
        node("Expand", [(1, 1)], "is too large", {"shape": ints(2**30, 2**30)}),
    ]


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: make_operators.py OUTDIR")
    folder = Path(sys.argv[1])
    header, blobs, offset = {"__metadata__": {name: json.dumps(c[3]) for name, c in CASES.items()}}, [], 0

    def put(name: str, kind: str, shape: list[int], blob: bytes) -> None:
        nonlocal offset
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)

    for name, (nodes, shapes, function, domains, constants, opset) in CASES.items():
        inputs = [drawn(noise(i, shape), domain).double() for i, (shape, domain) in enumerate(zip(shapes, domains))]
        for x in inputs:
            x.requires_grad_()
        y = function(*inputs)
        (y * noise(90, tuple(y.shape)).double()).sum().backward()
        values = {"y": y.detach()} | {
            f"d{i}": torch.zeros_like(x) if x.grad is None else x.grad for i, x in enumerate(inputs)
        }
        for part, value in values.items():
            put(f"{name}.{part}", "F32", list(value.shape), value.numpy().astype("<f4").tobytes())
        blob = model(nodes, shapes, constants, opset, list(y.shape))
        put(f"{name}.model", "U8", [len(blob)], blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "operators.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + b"".join(blobs))
    (folder / "unknown.onnx").write_bytes(unknown())
    (folder / "refused.json").write_text(json.dumps(refused(), indent=1) + "\n")
    print(f"{len(CASES)} cases")


if __name__ == "__main__":
    main()
