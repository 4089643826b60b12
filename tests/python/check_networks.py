"""Networks beside PyTorch: one step of gradient descent by emg-train and by PyTorch, for every exporter.

    check_networks.py PROGRAM zoo [PART/PARTS]
    check_networks.py PROGRAM random FIRST COUNT

`zoo` tries the networks of tests/golden/zoo with all three exporters, `random` those that tests/golden/random_modules
makes of so many seeds, each with one exporter in turn. Each must train as in PyTorch, or be refused with a message that says
why; anything else fails. Where a network's gradients depend on detach(), which the older exporter loses, nothing is
expected of it. Prints a count of each outcome.
"""

import collections
import copy
import importlib.machinery
import importlib.util
import os
import sys
import tempfile
import warnings
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "golden"))
SIZES = (4, 3, 40, 4)
# What may stand in a refusal, and for which exporter.
REFUSALS = {
    "default": (
        "the exporter's optimizations folded or merged parameters of the model into other tensors",
        "the exporter's optimizations removed a detach()",
        "has a row for each of the 4 windows of the batch",
    ),
}


NO_GRAD = ("comes from a block under torch.no_grad() or torch.autocast()",)


def tool():
    """scripts/check-against-pytorch as a module."""
    loader = importlib.machinery.SourceFileLoader("against_pytorch", str(ROOT / "scripts" / "check-against-pytorch"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("against_pytorch", loader))
    sys.modules["against_pytorch"] = module
    loader.exec_module(module)
    return module


def outcome(against, model, sizes, exporter: str, lost: bool, note: str = "") -> str:
    """What became of one network; "WRONG: .." for what must not be."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exported.onnx"
        try:
            against.export(copy.deepcopy(model), sizes.example(), exporter, path, sizes.joints, sizes.channels)
            against.compare(model, path, sizes)
        except against.NotExported as error:
            return "not exported" if exporter == "torchscript" else f"WRONG: not exported: {error}"
        except against.Refused as refusal:
            texts = REFUSALS.get(exporter, ()) + (NO_GRAD if note == "no_grad" and exporter != "torchscript" else ())
            known = any(text in str(refusal) for text in texts)
            return "refused" if known else f"WRONG: refused: {refusal}"
        except against.Differs as difference:
            # Gradients, and what comes of them, but never what the model computes.
            only = all("gradient" in part or "after the step" in part or "output is off" in part for part in str(difference).split("; "))
            return "lost by the exporter" if lost and only else f"WRONG: {difference}"
    return "trains as in PyTorch"


def zoo(against, part: int, parts: int):
    from zoo import NETWORKS

    for number, (name, network) in enumerate(NETWORKS.items()):
        if number % parts != part:
            continue
        torch.manual_seed(0)
        model = network.make()
        sizes = against.Sizes(*SIZES, network.channels_first, network.context)
        for exporter in against.EXPORTERS:
            lost = network.note != "" and exporter == "torchscript"
            yield f"{name} by {exporter}", outcome(against, model, sizes, exporter, lost, network.note)


def random(against, first: int, count: int):
    from random_modules import make

    for seed in range(first, first + count):
        model = make(seed)
        exporter = against.EXPORTERS[seed % len(against.EXPORTERS)]
        lost = model.uses_detach and exporter == "torchscript"
        what = outcome(against, model, against.Sizes(*SIZES), exporter, lost)
        yield f"seed {seed} by {exporter} ({', '.join(model.names)})", what


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    program, kind, *numbers = sys.argv[1:]
    os.environ["EMG_TRAIN"] = program
    against = tool()
    if kind == "zoo":
        part, parts = (int(number) for number in (numbers[0] if numbers else "0/1").split("/"))
        outcomes = zoo(against, part, parts)
    else:
        outcomes = random(against, *(int(number) for number in numbers))
    counts, wrong = collections.Counter(), []
    for name, what in outcomes:
        counts[what.partition(":")[0]] += 1
        if what.startswith("WRONG"):
            wrong.append(f"{name}: {what}")
            print(wrong[-1], flush=True)
    print(", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
