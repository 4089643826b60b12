"""Networks that PyTorch's newer exporter writes and that cannot be trained as they are, and what the messages say; and what
`model.batch_norm` makes of norms that all evaluate.

    check_refusals.py PROGRAM

Prints `ok: ...`, or what is otherwise.
"""

import copy
import os
import sys
import tempfile
import warnings
from pathlib import Path

import onnx
import torch
from check_networks import SIZES, tool
from torch import Tensor, nn

warnings.simplefilter("ignore")
torch.set_num_threads(1)
os.environ["EMG_TRAIN"] = sys.argv[1]
against = tool()
sizes = against.Sizes(*SIZES, channels_first=True)


class Normed(nn.Module):
    """[B, C, T] to [B, J, T]."""

    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv1d(sizes.channels, 6, 3, padding=1)
        self.norm = norm or nn.BatchNorm1d(6)
        self.head = nn.Conv1d(6, sizes.joints, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))))


class Frozen(Normed):
    """Its norm evaluates while it trains."""

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        self.norm.eval()
        return self


class Averaging(nn.Module):
    """Changes a buffer while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.zeros(sizes.channels))
        self.head = nn.Conv1d(sizes.channels, sizes.joints, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.level.mul_(0.9).add_(0.1 * x.detach().mean((0, 2)))
        return self.head(x - self.level.unsqueeze(1))


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv1d(sizes.channels, sizes.joints, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x).detach()


def export(model: nn.Module, path: Path, optimize: bool = False, dtype=torch.float32) -> None:
    with against.quiet():
        torch.onnx.export(
            model, (sizes.example().to(dtype),), path, dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},),
            optimize=optimize, input_names=["emg"],
        )


def stripped(path: Path) -> None:
    """As tools leave a file that know nothing of metadata."""
    model = onnx.load(path)
    for entries in (model.metadata_props, model.graph.metadata_props, *(n.metadata_props for n in model.graph.node)):
        del entries[:]
    onnx.save(model, path)


def refusal(path: Path, model: nn.Module, like=sizes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            against.compare(copy.deepcopy(model).float(), path, like)
        except against.Refused as refused:
            return str(refused)
    return "nothing: it trains"


def check(name: str, model: nn.Module, expected: str, path: Path, like=sizes) -> None:
    found = refusal(path, model, like)
    assert expected in found, f"{name}: expected {expected}\nfound {found}"


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for name, model, dtype, expected in [
            ("double", Normed().double(), torch.float64, "is double, and models are trained in float32"),
            ("half", Normed().half(), torch.float16, "is float16, and models are trained in float32"),
            ("averaging", Averaging(), torch.float32, "the model changes its buffer level while it trains"),
            ("tracked", Normed(nn.InstanceNorm1d(6, track_running_stats=True)), torch.float32, "is not in the file"),
        ]:
            export(model.train(), path, dtype=dtype)
            check(name, model, expected, path)
        model = Normed()
        export(model.train(), path)
        stripped(path)
        check("stripped", model, "a tool has taken out of the file", path)
        model = Detached()
        export(model.train(), path, optimize=True)
        check("detached", model, "removed a detach()", path)

        # All norms evaluate: which of two things is meant must be told, and then that is done.
        for model, exported, mode in [(Normed(), Normed.eval, "train"), (Frozen(), Frozen.train, "frozen")]:
            export(exported(copy.deepcopy(model)), path)
            check(mode, model, "all batch normalizations were exported in evaluation mode", path)
            told = against.dataclasses.replace(sizes, batch_norm=mode)
            against.compare(copy.deepcopy(model), path, told)
            other = against.dataclasses.replace(sizes, batch_norm="frozen" if mode == "train" else "train")
            try:
                against.compare(copy.deepcopy(model), path, other)
            except against.Differs:
                continue
            raise AssertionError(f"{mode}: the other mode does the same")
    print("ok: 6 refusals, 2 modes")


main()
