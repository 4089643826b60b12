"""Networks that look back only, and some that do not, for any number of rows: make_causal.py writes NAME.onnx each."""

import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS, JOINTS, WIDTH = 4, 3, 6
rng = np.random.default_rng(3)


class Network:
    """Nodes over `emg`, [batch, channels, rows] or [batch, rows, channels], in order; each method gives a value's name."""

    def __init__(self, channels_first: bool = True):
        self.channels_first, self.nodes, self.tensors = channels_first, [], []

    def node(self, operator: str, *inputs: str, outputs: int = 1, **attributes):
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, name=f"{operator}_{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def tensor(self, values) -> str:
        name = f"t{len(self.tensors)}"
        values = np.asarray(values)
        self.tensors.append(numpy_helper.from_array(values.astype(np.float32) if values.dtype == np.float64 else values, name))
        return name

    def weight(self, *shape: int, scale: float = 0.5) -> str:
        return self.tensor(rng.normal(size=shape) * scale)

    def ints(self, *values: int) -> str:
        return self.tensor(np.array(values, np.int64))

    def conv(self, x: str, given: int, made: int, kernel: int, **attributes) -> str:
        weight = self.weight(made, given // attributes.get("group", 1), kernel)
        return self.node("Conv", x, weight, self.weight(made), **attributes)

    def pad(self, x: str, before: int, after: int = 0) -> str:
        return self.node("Pad", x, self.ints(0, 0, before, 0, 0, after))

    def crop(self, x: str, start: int, end: int = 1 << 40) -> str:
        return self.node("Slice", x, self.ints(start), self.ints(end), self.ints(2))

    def norm(self, x: str) -> str:
        """Batch normalization, then layer normalization over the channels."""
        statistics = [self.tensor(rng.normal(size=WIDTH) * 0.1), self.tensor(rng.uniform(0.5, 2, WIDTH))]
        x = self.node("BatchNormalization", x, self.weight(WIDTH), self.weight(WIDTH), *statistics)
        x = self.node("Transpose", x, perm=[0, 2, 1])
        x = self.node("LayerNormalization", x, self.weight(WIDTH), self.weight(WIDTH))
        return self.node("Transpose", x, perm=[0, 2, 1])

    def save(self, name: str, angles: str) -> None:
        beside = [value for value in ("emg_mean", "emg_std") if any(value in node.input for node in self.nodes)]
        beside = [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["batch", CHANNELS]) for value in beside]
        self.nodes.append(helper.make_node("Identity", [angles], ["angles"]))
        dims = ["batch", CHANNELS, "rows"] if self.channels_first else ["batch", "rows", CHANNELS]
        given = helper.make_tensor_value_info("emg", TensorProto.FLOAT, dims)
        made = helper.make_tensor_value_info("angles", TensorProto.FLOAT, ["batch", None, None])
        graph = helper.make_graph(self.nodes, name, [given, *beside], [made], self.tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        onnx.save(model, f"{name}.onnx")


def padded() -> tuple[Network, str]:
    """Zeros before each convolution; dilation, gates, norms, depthwise, a residual."""
    n = Network()
    x = n.conv(n.pad("emg", 4), CHANNELS, WIDTH, 5)
    for dilation in (1, 2, 4):
        y = n.conv(n.pad(n.node("Relu", n.norm(x)), 2 * dilation), WIDTH, 2 * WIDTH, 3, dilations=[dilation])
        a, b = n.node("Split", y, n.ints(WIDTH, WIDTH), outputs=2, axis=1)
        y = n.node("Mul", n.node("Tanh", a), n.node("Sigmoid", b))
        y = n.conv(n.pad(y, 3), WIDTH, WIDTH, 4, group=WIDTH)
        x = n.node("Add", x, y)
    return n, n.conv(x, WIDTH, JOINTS, 1)


def chomped() -> tuple[Network, str]:
    """Padded on both sides, then without what looks ahead; rows last, then channels last, with a product and a softmax."""
    n = Network(channels_first=False)
    x = n.node("Transpose", "emg", perm=[0, 2, 1])
    for given, dilation in ((CHANNELS, 1), (WIDTH, 3)):
        y = n.conv(x, given, WIDTH, 4, pads=[3 * dilation] * 2, dilations=[dilation])
        x = n.node("Relu", n.crop(y, 0, -3 * dilation))
    x = n.node("Transpose", x, perm=[0, 2, 1])
    shares = n.node("Softmax", n.node("MatMul", x, n.weight(WIDTH, WIDTH)), axis=-1)
    x = n.node("Mul", x, shares)
    mean = n.node("ReduceMean", x, n.ints(-1), keepdims=1)
    x = n.node("Concat", n.node("Sub", x, mean), mean, axis=2)
    return n, n.node("MatMul", x, n.weight(WIDTH + 1, JOINTS))


def valid() -> tuple[Network, str]:
    """No padding: the first 13 rows have no angles. Then zeros in their place, which a last convolution takes."""
    n = Network()
    x = n.conv("emg", CHANNELS, WIDTH, 4)
    y = n.conv(n.node("Relu", x), WIDTH, WIDTH, 6, dilations=[2])
    x = n.node("Add", n.crop(x, 10), y)
    x = n.conv(n.pad(n.node("Relu", x), 5), WIDTH, WIDTH, 6)
    return n, n.conv(x, WIDTH, JOINTS, 1)


def ahead() -> tuple[Network, str]:
    """As `valid`, but what is computed at a row is meant for the row 5 before it."""
    n = Network()
    return n, n.conv(n.node("Relu", n.conv("emg", CHANNELS, WIDTH, 9)), WIDTH, JOINTS, 2)


def scaled() -> tuple[Network, str]:
    """Takes the statistics of the recording's EMG."""
    n = Network()
    mean, std = (n.node("Unsqueeze", name, n.ints(2)) for name in ("emg_mean", "emg_std"))
    x = n.node("Div", n.node("Sub", "emg", mean), std)
    return n, n.conv(n.pad(x, 2), CHANNELS, JOINTS, 3)


def differences() -> tuple[Network, str]:
    """What rows differ by from those 1 and 3 before them, and a residual around all of that."""
    n = Network()
    x = n.conv("emg", CHANNELS, WIDTH, 1)
    earlier = [n.crop(n.pad(x, rows), 0, -rows) for rows in (1, 3)]
    y = n.node("Concat", n.node("Sub", x, earlier[0]), n.node("Mul", x, earlier[1]), axis=1)
    return n, n.conv(n.node("Add", n.conv(y, 2 * WIDTH, WIDTH, 1), x), WIDTH, JOINTS, 1)


def residuals() -> tuple[Network, str]:
    """Padded on both sides, with residuals: looks 5 rows ahead."""
    n = Network()
    x = n.conv("emg", CHANNELS, WIDTH, 7, pads=[3, 3])
    y = n.conv(n.node("Relu", x), WIDTH, WIDTH, 3, pads=[2, 2], dilations=[2])
    return n, n.conv(n.node("Add", n.node("Mul", x, y), x), WIDTH, JOINTS, 1)


def memoryless() -> tuple[Network, str]:
    n = Network(channels_first=False)
    return n, n.node("MatMul", n.node("Abs", "emg"), n.weight(CHANNELS, JOINTS))


def same() -> tuple[Network, str]:
    n = Network()
    return n, n.conv(n.conv("emg", CHANNELS, WIDTH, 5, pads=[2, 2]), WIDTH, JOINTS, 1)


def forecast() -> tuple[Network, str]:
    """Angles of rows 13 after those that they are computed with."""
    n = Network()
    return n, n.crop(n.conv("emg", CHANNELS, JOINTS, 1), 0, -13)


def cropped() -> tuple[Network, str]:
    """The last rows cropped, then zeros in their place."""
    n = Network()
    x = n.conv("emg", CHANNELS, JOINTS, 1)
    return n, n.node("Add", x, n.pad(n.crop(x, 0, -5), 0, 5))


def last() -> tuple[Network, str]:
    """The window's last row, for all rows."""
    n = Network()
    x = n.crop(n.conv("emg", CHANNELS, JOINTS, 1), -1)
    return n, n.node("Expand", x, n.ints(1, 1, 40))


def bordered() -> tuple[Network, str]:
    """Zeros before the rows, then ones around the channels, of which those rows get some, too."""
    n = Network(channels_first=False)
    x = n.node("Unsqueeze", n.node("Pad", "emg", n.ints(0, 2, 0, 0, 0, 0)), n.ints(1))
    x = n.node("Pad", x, n.ints(0, 0, 0, 1, 0, 0, 0, 1), n.tensor(np.float32(1)))
    x = n.node("Conv", x, n.weight(JOINTS, 1, 3, CHANNELS + 2))
    return n, n.node("Squeeze", x, n.ints(3))


def placed() -> tuple[Network, str]:
    n = Network(channels_first=False)
    return n, n.node("MatMul", n.node("Add", "emg", n.weight(40, CHANNELS)), n.weight(CHANNELS, JOINTS))


def strided() -> tuple[Network, str]:
    n = Network()
    return n, n.conv("emg", CHANNELS, JOINTS, 4, strides=[4])


def attends() -> tuple[Network, str]:
    n = Network(channels_first=False)
    x = n.node("MatMul", "emg", n.weight(CHANNELS, WIDTH))
    scores = n.node("Softmax", n.node("MatMul", x, n.node("Transpose", x, perm=[0, 2, 1])), axis=-1)
    return n, n.node("MatMul", n.node("MatMul", scores, x), n.weight(WIDTH, JOINTS))


def centred() -> tuple[Network, str]:
    n = Network(channels_first=False)
    x = n.node("Sub", "emg", n.node("ReduceMean", "emg", n.ints(1), keepdims=1))
    return n, n.node("MatMul", x, n.weight(CHANNELS, JOINTS))


def main() -> None:
    if len(sys.argv) > 1:
        sys.exit("usage: make_causal.py")
    for make in (padded, chomped, valid, ahead, scaled, differences, residuals, memoryless, same, forecast, cropped, last, bordered, placed, strided, attends, centred):
        network, angles = make()
        network.save(make.__name__, angles)


if __name__ == "__main__":
    main()
