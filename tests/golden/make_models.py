#!/usr/bin/env python3
"""Small PyTorch networks as both exporters write them, and how PyTorch trains them.

    make_models.py OUTDIR

writes OUTDIR/NAME.EXPORTER.onnx for each network that the exporter takes, OUTDIR/branches.onnx, and
OUTDIR/losses.json: for each network its batch, window, left context and the loss (mse over valid rows, the output
brought to the targets' rows as emg-train does) before each of 20 steps of Adam at 1e-3, in float64 from the exported
parameters. Data are make_published's `noise`. Needs torch, onnx and onnxscript.
"""

import copy
import json
import sys
import warnings
from pathlib import Path

import torch
from make_published import noise
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS, JOINTS, BATCH, WINDOW = 4, 3, 4, 40


class Mlp(nn.Module):
    """[B, T, C] to [B, T, J], each row on its own."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(CHANNELS, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 16), nn.Mish(), nn.Linear(16, JOINTS)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Cnn(nn.Module):
    """[B, C, T] to [B, J, T / 2]: batch norms, a depthwise and a strided convolution, a pool."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(CHANNELS, 8, 5, padding=2, bias=False),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Conv1d(8, 8, 3, padding=1, groups=8),
            nn.BatchNorm1d(8),
            nn.Hardswish(),
            nn.MaxPool1d(3, stride=2, padding=1),
            nn.Conv1d(8, 12, 1),
            nn.ELU(),
            nn.Conv1d(12, JOINTS, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Tcn(nn.Module):
    """[B, C, T] to [B, J, T - 14]: dilated convolutions without padding, with cropped skips."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(CHANNELS, 8, 1)
        self.layers = nn.ModuleList(nn.Conv1d(8, 8, 3, dilation=d) for d in (1, 2, 4))
        self.last = nn.Conv1d(8, JOINTS, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            y = F.leaky_relu(layer(x), 0.1)
            x = x[:, :, x.shape[2] - y.shape[2] :] + y
        return self.last(x)


class BiLstm(nn.Module):
    """[B, T, C] to [B, T, J]."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(CHANNELS, 6, 2, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(12, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.lstm(x)[0])


class Gru(nn.Module):
    """[B, C, T] to [B, J]: one pose for a window."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(CHANNELS, 8, 4, stride=4)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.linear = nn.Linear(8, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        y = self.gru(torch.tanh(self.conv(x)).transpose(1, 2))[0]
        return self.linear(y[:, -1])


class Transformer(nn.Module):
    """[B, T, C] to [B, T, J] with learned positions."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(CHANNELS, 16)
        self.positions = nn.Parameter(torch.zeros(1, WINDOW, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.linear = nn.Linear(16, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.encoder(self.embed(x) + self.positions))


class Conformer(nn.Module):
    """[B, T, C] to [B, T, J]: half-step feed-forward, attention written out, a gated convolution, feed-forward."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(CHANNELS, 16)
        self.before = self.feed_forward()
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)
        self.conv_norm = nn.LayerNorm(16)
        self.pointwise = nn.Conv1d(16, 32, 1)
        self.depthwise = nn.Conv1d(16, 16, 7, padding=3, groups=16)
        self.group_norm = nn.GroupNorm(4, 16)
        self.project = nn.Conv1d(16, 16, 1)
        self.after = self.feed_forward()
        self.last = nn.Linear(16, JOINTS)

    @staticmethod
    def feed_forward() -> nn.Module:
        return nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 16))

    def attend(self, x: Tensor) -> Tensor:
        batch, time, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, time, 3, 2, 8).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(torch.einsum("bhqd,bhkd->bhqk", q, k) * 8**-0.5, dim=-1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, time, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + 0.5 * self.before(x)
        x = x + self.attend(self.norm(x))
        y = F.glu(self.pointwise(self.conv_norm(x).transpose(1, 2)), dim=1)
        y = self.project(F.silu(self.group_norm(self.depthwise(y))))
        x = x + y.transpose(1, 2)
        x = x + 0.5 * self.after(x)
        return self.last(x)


class Norms(nn.Module):
    """[B, C, T] to [B, J, T]: norms whose weights are all alike at first, which default exports merge."""

    def __init__(self):
        super().__init__()
        self.first = nn.BatchNorm1d(CHANNELS)
        self.conv = nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1)
        self.second = nn.BatchNorm1d(CHANNELS)
        self.norms = nn.ModuleList(nn.LayerNorm(CHANNELS) for _ in range(2))
        self.linear = nn.Linear(CHANNELS, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(torch.relu(self.conv(self.first(x)))).transpose(1, 2)
        for norm in self.norms:
            x = x + torch.tanh(norm(x))
        return self.linear(x).transpose(1, 2)


class Causal(nn.Module):
    """[B, T, C] to [B, T, J]: attention under a mask of minus infinity, scaled by a buffer of one element."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.triu(torch.full((WINDOW, WINDOW), float("-inf")), 1))
        self.register_buffer("scale", torch.tensor([0.3]))
        self.qkv = nn.Linear(CHANNELS, 24)
        self.linear = nn.Linear(8, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=2)
        weights = torch.softmax(q @ k.transpose(1, 2) * self.scale + self.mask, dim=2)
        return self.linear(F.normalize(torch.relu(weights @ v), dim=2))


class Tracker(nn.Module):
    """[B, T, C] and a pose [B, J] to [B, T, J], from that pose on."""

    def __init__(self):
        super().__init__()
        self.start = nn.Linear(JOINTS, 8)
        self.gru = nn.GRU(CHANNELS, 8, batch_first=True)
        self.head = nn.Linear(8, JOINTS)

    def forward(self, x: Tensor, initial_pose: Tensor) -> Tensor:
        y = self.gru(x, torch.tanh(self.start(initial_pose)).unsqueeze(0))[0]
        return initial_pose.unsqueeze(1) + self.head(y)


class Amplitude(nn.Module):
    """[B, C, T] as recorded, and mean and deviation of the recording's EMG [B, C], to [B, J, T]: normalizes by itself, and
    looks at how strong the recording is."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(CHANNELS, 8, 5, padding=2)
        self.gain = nn.Linear(2 * CHANNELS, 8)
        self.head = nn.Conv1d(8, JOINTS, 1)

    def forward(self, x: Tensor, emg_mean: Tensor, emg_std: Tensor) -> Tensor:
        y = self.first((x - emg_mean.unsqueeze(2)) / emg_std.unsqueeze(2))
        gain = self.gain(torch.cat([emg_mean / emg_std, torch.log(emg_std)], dim=1))
        return self.head(torch.relu(y + gain.unsqueeze(2)))


class Noisy(nn.Module):
    """[B, T, C] to [B, T, J]: noise on the input and stochastic depth, as it trains."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(CHANNELS, 8)
        self.second = nn.Linear(8, 8)
        self.head = nn.Linear(8, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x + torch.randn_like(x) * 0.1))
        kept = x.new_empty((x.shape[0], 1, 1)).bernoulli_(0.8) / 0.8
        return self.head(x + torch.tanh(self.second(x)) * kept)


class Spectrogram(nn.Module):
    """[B, T, C] to [B, T, J]: frames of the first channel's spectrum, which nothing is trained above."""

    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.hann_window(16))
        self.head = nn.Linear(9, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        frames = torch.stft(x[:, :, 0], 16, 1, 16, self.window, center=False, return_complex=False)
        return self.head(torch.log1p(frames.square().sum(-1)).transpose(1, 2))


class Stuck(nn.Module):
    """[B, T, C] to [B, T, J] with a parameter that only steps come from."""

    def __init__(self):
        super().__init__()
        self.steps = nn.Parameter(torch.tensor([0.4, -0.3, 1.2]))
        self.linear = nn.Linear(CHANNELS, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + torch.round(self.steps)


class Infinite(nn.Module):
    """[B, T, C] to [B, T, J], with a parameter whose gradient is not finite though the output is."""

    def __init__(self):
        super().__init__()
        self.root = nn.Parameter(torch.zeros(JOINTS))
        self.linear = nn.Linear(CHANNELS, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + torch.sqrt(self.root * 0.0)


# Networks without golden losses: for what is around training.
OTHERS = {"amplitude": Amplitude, "tracker": Tracker, "noisy": Noisy, "spectrogram": Spectrogram, "stuck": Stuck, "infinite": Infinite}

# Network, whether it takes [B, C, T], left context.
NETWORKS = {
    "mlp": (Mlp, False, 0),
    "cnn": (Cnn, True, 0),
    "tcn": (Tcn, True, 14),
    "bilstm": (BiLstm, False, 0),
    "gru": (Gru, True, 0),
    "transformer": (Transformer, False, 0),
    "conformer": (Conformer, False, 0),
    "norms": (Norms, True, 0),
    "causal": (Causal, False, 0),
}
# Exported with the exporters' defaults, too.
BY_DEFAULT = ["norms", "causal"]


def to_rows(y: Tensor, rows: int) -> Tensor:
    """[B, rows, J] from whatever the network gives."""
    if y.dim() == 2:
        y = y.unsqueeze(1)
    if y.shape[2] != JOINTS:
        y = y.transpose(1, 2)
    if y.shape[1] == rows:
        return y
    return F.interpolate(y.transpose(1, 2), rows, mode="linear", align_corners=False).transpose(1, 2)


def losses(model: nn.Module, channels_first: bool, context: int) -> list[float]:
    model = copy.deepcopy(model).double().train()
    emg = (noise(1000, (BATCH, WINDOW, CHANNELS)) * 2).double()
    rows = WINDOW - context
    target = noise(1001, (BATCH, rows, JOINTS)).double()
    mask = (noise(1002, (BATCH, rows)) > -0.4).double().unsqueeze(2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    curve = []
    for _ in range(20):
        prediction = to_rows(model(emg.transpose(1, 2) if channels_first else emg), rows)
        loss = ((prediction - target) ** 2 * mask).sum() / (mask.sum() * JOINTS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    return curve


def export(model: nn.Module, x: Tensor, exporter: str, path: Path) -> None:
    names = {"input_names": ["emg"], "output_names": ["angles"]}
    if exporter == "dynamo-default":
        shapes = ({0: torch.export.Dim("batch")},)
        torch.onnx.export(
            model, (x,), path, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False, **names
        )
    elif exporter == "torchscript-default":
        torch.onnx.export(model, (x,), path, dynamo=False, dynamic_axes={"emg": {0: "batch"}}, **names)
    elif exporter == "dynamo":
        # As it trains, without the pass that would merge batch norms away.
        shapes = ({0: torch.export.Dim("batch")},)
        torch.onnx.export(
            model.train(), (x,), path, dynamo=True, dynamic_shapes=shapes, external_data=False, optimize=False,
            verbose=False, **names,
        )
    else:
        # As it trains: otherwise batch norms are merged into convolutions.
        torch.onnx.export(
            model.train(), (x,), path, dynamo=False, opset_version=17, dynamic_axes={"emg": {0: "batch"}},
            training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False, **names,
        )


# What emg-train reads of the exporters' metadata.
READ = (
    "pkg.torch.export.ExportedProgram.graph_signature",
    "pkg.torch.export.graph_signature.InputSpec.kind",
    "pkg.torch.onnx.fx_node",
    "pkg.onnxscript.",
)


def keep(entries, seen: set[str] | None = None) -> None:
    """`seen`: nodes of the program that have been met; each is as telling the first time as all others."""
    for i in reversed(range(len(entries))):
        if not entries[i].key.startswith(READ):
            del entries[i]
        elif entries[i].key.endswith("fx_node"):
            source = entries[i].value.partition("), kwargs")[0]
            if "detach" in source or ("%p_" in source and source not in seen):
                seen.add(source)
                entries[i].value = source
            else:
                del entries[i]


def slim(path: Path) -> None:
    """Takes out source locations and types of inner values, which are most of a small file, but nothing that says what is
    trained."""
    import onnx

    model = onnx.load(path)
    for value in model.graph.value_info:
        keep(value.metadata_props)
        value.ClearField("type")
    for i in reversed(range(len(model.graph.value_info))):
        if not model.graph.value_info[i].metadata_props:
            del model.graph.value_info[i]
    keep(model.graph.metadata_props)
    model.graph.doc_string = ""
    seen = set()
    for node in model.graph.node:
        node.doc_string = ""
        keep(node.metadata_props, seen)
    for function in model.functions:
        function.doc_string = ""
        del function.value_info[:]
        del function.metadata_props[:]
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]
    onnx.save(model, path)


def branches(path: Path) -> None:
    """A network written by hand, whose second half is in the branches of an `If` with a known condition: they take
    weights, a transposed one and a second name of one from outside, and one that is not taken has branches itself."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    sizes = {"a.weight": (CHANNELS, 8), "b.weight": (JOINTS, 8), "b.bias": (JOINTS,), "c.weight": (JOINTS, JOINTS)}
    weights = [numpy_helper.from_array(rng.normal(0, 0.3, size).astype("f4"), name) for name, size in sizes.items()]

    def port(name: str, size: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WINDOW, size])

    def branch(name: str, nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
        return helper.make_graph(nodes, name, [], [port(nodes[-1].output[0], JOINTS)])

    node = helper.make_node
    taken = [
        node("MatMul", ["hidden", "b.turned"], ["product"]),
        node("Add", ["product", "b.second"], ["sum"]),
        node("MatMul", ["sum", "c.weight"], ["taken"]),
    ]
    inner = [branch(f"inner{i}", [node("MatMul", ["other", "c.weight"], [f"inner{i}"])]) for i in range(2)]
    other = [
        node("MatMul", ["hidden", "b.turned"], ["other"]),
        node("If", ["condition"], ["left"], then_branch=inner[0], else_branch=inner[1]),
    ]
    nodes = [
        node("Constant", [], ["condition"], value=numpy_helper.from_array(np.array(True))),
        node("Transpose", ["b.weight"], ["b.turned"], perm=[1, 0]),
        node("Identity", ["b.bias"], ["b.second"]),
        node("MatMul", ["emg", "a.weight"], ["a"]),
        node("Relu", ["a"], ["hidden"]),
        node("If", ["condition"], ["angles"], then_branch=branch("then", taken), else_branch=branch("else", other)),
    ]
    graph = helper.make_graph(nodes, "branches", [port("emg", CHANNELS)], [port("angles", JOINTS)], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: make_models.py OUTDIR")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    curves = {}
    for number, (name, (make, channels_first, context)) in enumerate(NETWORKS.items()):
        torch.manual_seed(number)
        model = make()
        x = torch.zeros(2, CHANNELS, WINDOW) if channels_first else torch.zeros(2, WINDOW, CHANNELS)
        exporters = []
        defaults = ["dynamo-default", "torchscript-default"] if name in BY_DEFAULT else []
        for exporter in ["dynamo", "torchscript", *defaults]:
            path = folder / f"{name}.{exporter}.onnx"
            try:
                export(copy.deepcopy(model), x, exporter, path)
                slim(path)
                exporters.append(exporter)
            except Exception as error:  # the exporters raise whatever they like
                print(f"{name}: {exporter} does not export it: {str(error)[:300]}", file=sys.stderr)
        curves[name] = {"exporters": exporters, "context": context, "losses": losses(model, channels_first, context)}
    for name, make in OTHERS.items():
        torch.manual_seed(0)
        path = folder / f"{name}.dynamo.onnx"
        beside = {"tracker": {"initial_pose": JOINTS}, "amplitude": {"emg_mean": CHANNELS, "emg_std": CHANNELS}}
        beside = beside.get(name, {})
        emg = torch.zeros(2, CHANNELS, WINDOW) if name == "amplitude" else torch.zeros(2, WINDOW, CHANNELS)
        given = (emg, *(torch.ones(2, columns) for columns in beside.values()))
        shapes = tuple({0: torch.export.Dim("batch")} for _ in given)
        torch.onnx.export(
            make().train(), given, path, dynamo=True, dynamic_shapes=shapes, external_data=False, optimize=False,
            verbose=False, input_names=["emg", *beside], output_names=["angles"],
        )
        slim(path)
    branches(folder / "branches.onnx")
    sizes = {"batch": BATCH, "window": WINDOW, "channels": CHANNELS, "joints": JOINTS}
    (folder / "losses.json").write_text(json.dumps(sizes | {"networks": curves}, indent=1) + "\n")


if __name__ == "__main__":
    main()
