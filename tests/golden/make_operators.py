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


def recurrent(kind: str, order: list[int], directions: int):
    """Y of torch's module for X, W, R, B in ONNX's form."""

    def function(x, w, r, b):
        hidden = r.shape[2]
        make = {"LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU, "RNN": torch.nn.RNN}[kind]
        module = make(x.shape[2], hidden, bidirectional=directions == 2).double()
        names, values = [], []
        for d in range(directions):
            suffix = "_l0" + ("_reverse" if d else "")
            b_input, b_recurrent = b[d].chunk(2)
            for name, value in [("weight_ih", w[d]), ("weight_hh", r[d]), ("bias_ih", b_input), ("bias_hh", b_recurrent)]:
                names.append(name + suffix)
                values.append(gates(value, order))
        y = torch.func.functional_call(module, dict(zip(names, values)), (x,))[0]
        return y.reshape(x.shape[0], x.shape[1], directions, hidden).permute(0, 2, 1, 3)

    return function


for kind, order, extra in [("LSTM", [0, 2, 3, 1], {}), ("GRU", [1, 0, 2], {"linear_before_reset": 1}), ("RNN", [0], {})]:
    n = len(order)
    for directions, direction in [(1, "forward"), (2, "bidirectional")]:
        shapes = [(5, 2, 3), (directions, n * 4, 3), (directions, n * 4, 4), (directions, 2 * n * 4)]
        one(kind, shapes, recurrent(kind, order, directions), name=f"{kind}.{direction}", direction=direction,
            hidden_size=4, **extra)


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
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "operators.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + b"".join(blobs))
    (folder / "unknown.onnx").write_bytes(unknown())
    (folder / "refused.json").write_text(json.dumps(refused(), indent=1) + "\n")
    print(f"{len(CASES)} cases")


if __name__ == "__main__":
    main()
