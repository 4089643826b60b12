#!/usr/bin/env python3
"""What training from recordings costs with PyTorch and h5py, written as one first would.

    reference_peer.py load FOLDER         all recordings in memory
    reference_peer.py normalize FOLDER    then z-scores of all EMG, in memory too
    reference_peer.py epoch FOLDER        an epoch of tds_lstm (that of step_pytorch.py) over a DataLoader
    reference_peer.py metrics FOLDER      predicts all windows with a linear model, keeps everything, and then computes

Each command prints one JSON object with the `seconds` of what its line says (of metrics: of computing only); memory is
for the caller to watch. Needs torch, numpy and h5py, and tests/golden in PYTHONPATH.
"""

import argparse
import itertools
import json
import time
from pathlib import Path

import h5py
import numpy as np
import torch
from data_peers import TIMESERIES, Hdf5Windows, hdf5_files
from torch import nn
from torch.utils.data import DataLoader

THREADS = 2
RATE = 2000


def load(folder: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """EMG and angles of all recordings."""
    emg, angles = [], []
    for path in hdf5_files(folder):
        with h5py.File(path) as file:
            rows = file[TIMESERIES][:]
        emg.append(rows["emg"].astype(np.float32))
        angles.append(rows["joint_angles"].astype(np.float32))
    return emg, angles


def load_command(arguments: argparse.Namespace) -> dict:
    start = time.perf_counter()
    emg, angles = load(arguments.folder)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "bytes": sum(array.nbytes for array in emg + angles)}


def normalize_command(arguments: argparse.Namespace) -> dict:
    emg, angles = load(arguments.folder)
    start = time.perf_counter()
    together = np.concatenate(emg)
    mean, std = together.mean(0), together.std(0)
    emg = [(array - mean) / std for array in emg]
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "bytes": sum(array.nbytes for array in emg + angles)}


def loader(arguments: argparse.Namespace, training: bool) -> DataLoader:
    windows = Hdf5Windows(arguments.folder, arguments.window, arguments.stride)
    return DataLoader(windows, arguments.batch, shuffle=training, drop_last=training, num_workers=THREADS)


def epoch_command(arguments: argparse.Namespace) -> dict:
    from make_golden import masked_loss
    from step_pytorch import network

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    model, context, _ = network("tds_lstm")
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01, fused=True)
    batches = loader(arguments, training=True)
    # Workers, files and the first batch are there when the clock starts, as on our side.
    waiting = iter(batches)
    first = next(waiting)
    start = time.perf_counter()
    for batch in itertools.chain([first], waiting):
        target, mask = batch["joint_angles"][:, context:], batch["mask"][:, context:]
        optimizer.zero_grad()
        loss = masked_loss(model(batch["emg"], target[:, 0]), target, mask, {"loss_type": "mse+mae", "mae_weight": 0.5})
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return {"seconds": time.perf_counter() - start, "steps": len(batches), "loss": loss.item()}


def metrics_command(arguments: argparse.Namespace) -> dict:
    weight = torch.randn(16, 20)
    kept: dict[str, list[np.ndarray]] = {"prediction": [], "target": [], "mask": []}
    for batch in loader(arguments, training=False):
        kept["prediction"].append((batch["emg"] @ weight).numpy())
        kept["target"].append(batch["joint_angles"].numpy())
        kept["mask"].append(batch["mask"].numpy())
    start = time.perf_counter()
    metrics = all_metrics(**{name: np.concatenate(arrays).astype(np.float64) for name, arrays in kept.items()})
    return {"seconds": time.perf_counter() - start, "windows": sum(map(len, kept["mask"])), "metrics": metrics}


def all_metrics(prediction: np.ndarray, target: np.ndarray, mask: np.ndarray) -> dict:
    """Of predictions and targets [windows, rows, joints], over the rows that mask [windows, rows] holds."""
    valid = mask > 0
    predicted, wanted = prediction[valid], target[valid]
    error = predicted - wanted
    residuals, spread = (error**2).sum(0), ((wanted - wanted.mean(0)) ** 2).sum(0)
    metrics = {
        "mse": (error**2).mean(),
        "rmse": np.sqrt((error**2).mean()),
        "mae": np.abs(error).mean(),
        "mae_per_joint": np.abs(error).mean(0).tolist(),
        "r2_per_joint": (1 - residuals / spread).tolist(),
        "r2": 1 - residuals.sum() / spread.sum(),
    }
    for order, name in enumerate(("velocity", "acceleration", "jerk"), 1):
        # A difference counts if all rows that it touches do.
        touched = np.lib.stride_tricks.sliding_window_view(valid, order + 1, axis=1).all(-1)
        difference = np.diff(prediction, order, axis=1)
        metrics[name] = np.abs(difference[touched]).mean() * RATE**order
    return metrics


def main() -> None:
    commands = {
        "load": load_command,
        "normalize": normalize_command,
        "epoch": epoch_command,
        "metrics": metrics_command,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=commands)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--window", type=int, default=2000)
    parser.add_argument("--stride", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    arguments = parser.parse_args()
    print(json.dumps(commands[arguments.command](arguments)))


if __name__ == "__main__":
    main()
