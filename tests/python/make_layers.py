"""Layers that are hard to quantize, or to export: make_layers.py writes NAME.onnx each."""

import sys

import numpy as np
from make_causal import CHANNELS, JOINTS, WIDTH, Network, rng


def tiny() -> tuple[Network, str]:
    """Channels whose weights are 0, or tiny beside their biases; a large input."""
    n = Network()
    x = n.node("Mul", "emg", n.tensor(np.float32(50)))
    weight = rng.normal(size=(WIDTH, CHANNELS, 3)) * np.array([1, 0, 1e-9, 1, 1e-6, 0]).reshape(-1, 1, 1)
    x = n.node("Conv", x, n.tensor(weight), n.tensor(np.array([0.1, 5, 4, 0.2, -3, 0])), pads=[1, 1])
    x = n.node("Conv", n.node("Tanh", x), n.weight(JOINTS, WIDTH, 1), n.weight(JOINTS))
    head = n.node("Conv", x, n.tensor(np.eye(JOINTS)[:, :, None] * 1e-11), n.tensor(np.array([0.3, 0.4, 0.5])))
    return n, n.node("Add", n.node("Mul", x, n.tensor(np.float32(0.1))), head)


def split() -> tuple[Network, str]:
    """Two weights that are parts of one tensor."""
    n = Network(channels_first=False)
    a, b = n.node("Split", n.weight(CHANNELS, 2 * WIDTH), n.ints(WIDTH, WIDTH), outputs=2, axis=1)
    x = n.node("Mul", n.node("MatMul", "emg", a), n.node("Sigmoid", n.node("MatMul", "emg", b)))
    return n, n.node("MatMul", x, n.weight(WIDTH, JOINTS))


def unbiased() -> tuple[Network, str]:
    """As PyTorch's newer exporter writes a convolution without bias: with zeros that nodes compute; then a norm."""
    n = Network()
    weight = n.weight(WIDTH, CHANNELS, 3)
    shape = n.node("Slice", n.node("Shape", weight), n.ints(0), n.ints(1))
    zero = n.node("CastLike", n.tensor(np.float32(0)), "emg")
    x = n.node("Conv", "emg", weight, n.node("Expand", zero, shape), pads=[1, 1])
    statistics = [n.tensor(rng.normal(size=WIDTH) * 0.1), n.tensor(rng.uniform(0.5, 2, WIDTH))]
    x = n.node("BatchNormalization", x, n.tensor(rng.uniform(0.5, 2, WIDTH)), n.weight(WIDTH), *statistics)
    return n, n.node("Conv", n.node("Relu", x), n.weight(JOINTS, WIDTH, 1), "")


def vector() -> tuple[Network, str]:
    """A product with a vector, of a turned factor."""
    n = Network()
    x = n.node("MatMul", n.node("Transpose", "emg", perm=[0, 2, 1]), n.weight(CHANNELS))
    x = n.node("Mul", n.node("Unsqueeze", x, n.ints(1)), n.weight(JOINTS, 1))
    return n, x


def scaled() -> tuple[Network, str]:
    """No layer at all."""
    n = Network(channels_first=False)
    return n, n.node("Mul", n.node("ReduceMean", "emg", n.ints(2), keepdims=1), n.weight(JOINTS))


for make in (tiny, split, unbiased, vector, scaled):
    network, angles = make()
    network.save(make.__name__, angles)
if len(sys.argv) > 1:
    sys.exit("usage: make_layers.py")
