#!/usr/bin/env python3
"""What other data paths reach: PyTorch's DataLoader over h5py and over numpy.memmap, MosaicML Streaming, FFCV.

    data_peers.py h5py FOLDER                     windows of HDF5 recordings
    data_peers.py memmap STORE [--gather]         the rows of one of our stores, mapped: a DataLoader, or one thread
    data_peers.py convert FOLDER OUT --format mds   (or ffcv) what the two below read
    data_peers.py streaming OUT
    data_peers.py ffcv OUT

FOLDER holds recordings in the emg2pose layout. Each command prints one JSON object. Windows are drawn shuffled, for
`--seconds` over as many epochs as that takes, counted from the first batch on, or with `--once` for one whole epoch.
`--fresh-workers` starts the DataLoader's workers anew each epoch, as it does unless told otherwise.

Needs torch, numpy and h5py; streaming mosaicml-streaming==0.13.0 (and with it numpy<2.2); ffcv ffcv==1.0.2 and pillow,
compiled against OpenCV's and TurboJPEG's headers. Where one does not import, its command prints {"unavailable": why}.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

try:
    import h5py
except ImportError:  # what maps a store does without
    h5py = None

CHANNELS, JOINTS = 16, 20
STATISTICS_SAMPLES = 10_000
TIMESERIES = "emg2pose/timeseries"


@dataclass
class Recording:
    path: Path
    rows: int
    mean: np.ndarray
    std: np.ndarray


def read_recording(path: Path) -> Recording:
    """A recording's length and statistics, these from evenly spaced samples."""
    with h5py.File(path) as file:
        # Reading all and then choosing is several times as fast as having HDF5 choose.
        emg = file[TIMESERIES].fields("emg")[:]
    rows = len(emg)
    samples = np.floor(np.linspace(0, rows - 1, min(rows, STATISTICS_SAMPLES))).astype(int)
    emg = emg[samples].astype(np.float64)
    return Recording(path, rows, emg.mean(0).astype(np.float32), (emg.std(0) + 1e-8).astype(np.float32))


def hdf5_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.hdf5"))


class Hdf5Windows(Dataset):
    """Windows of HDF5 recordings, as emg2pose reads them: each worker opens the files when it first needs them."""

    def __init__(self, folder: Path, window: int, stride: int, **options: Any):
        """`options` go to h5py.File."""
        self.recordings = [read_recording(path) for path in hdf5_files(folder)]
        self.window, self.options = window, options
        starts = [range(0, recording.rows - window + 1, stride) for recording in self.recordings]
        self.windows = [(number, start) for number, own in enumerate(starts) for start in own]
        self.opened: dict[int, h5py.Dataset] = {}

    def __len__(self) -> int:
        return len(self.windows)

    def timeseries(self, number: int) -> h5py.Dataset:
        if number not in self.opened:
            self.opened[number] = h5py.File(self.recordings[number].path, **self.options)[TIMESERIES]
        return self.opened[number]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        number, start = self.windows[index]
        recording = self.recordings[number]
        rows = self.timeseries(number)[start : start + self.window]
        emg = (rows["emg"] - recording.mean) / recording.std
        angles = np.ascontiguousarray(rows["joint_angles"], np.float32)
        mask = (np.abs(angles) > 1e-8).any(-1).astype(np.float32)
        return {
            "emg": torch.from_numpy(emg),
            "joint_angles": torch.from_numpy(angles),
            "mask": torch.from_numpy(mask),
        }


class MappedWindows(Dataset):
    """Windows of a store's rows: each array of a segment is one file that begins with the row-major matrix."""

    def __init__(self, store: Path, window: int, stride: int):
        self.window, self.segments = window, []
        self.windows: list[tuple[int, int]] = []
        for number, path in enumerate(sorted(store.glob("segments/*/segment.json"))):
            segment = json.loads(path.read_text())
            arrays = {"emg": CHANNELS, "joint_angles": JOINTS}
            self.segments.append([self.map(path.parent / name, columns) for name, columns in arrays.items()])
            for recording in segment["recordings"]:
                first, end = recording["first_row"], recording["first_row"] + recording["rows"]
                self.windows += [(number, start) for start in range(first, end - window + 1, stride)]

    @staticmethod
    def map(array: Path, columns: int) -> np.ndarray:
        # Copy-on-write, since torch warns of memory that it may not write; nobody does.
        content = np.memmap(array / "c/0/0", np.uint8, "c")
        row_bytes = 4 * columns
        return content[: len(content) // row_bytes * row_bytes].view(np.float32).reshape(-1, columns)

    def __len__(self) -> int:
        return len(self.windows)

    def rows(self, index: int) -> list[np.ndarray]:
        number, start = self.windows[index]
        return [array[start : start + self.window] for array in self.segments[number]]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        emg, angles = self.rows(index)
        return {"emg": torch.from_numpy(emg), "joint_angles": torch.from_numpy(angles)}

    def gathered(self, batch: int) -> Iterator[list[np.ndarray]]:
        """An epoch of batches, gathered into the same memory."""
        batches = [np.empty((batch, self.window, columns), np.float32) for columns in (CHANNELS, JOINTS)]
        order = np.random.permutation(len(self)).tolist()
        for first in range(0, len(order), batch):
            indices = order[first : first + batch]
            for place, index in enumerate(indices):
                for target, rows in zip(batches, self.rows(index), strict=True):
                    target[place] = rows
            yield [array[: len(indices)] for array in batches]


def process_start() -> float:
    """When this process started, in seconds since 1970, to 10 ms."""
    after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    since_boot = int(after_name[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)


def batches(epoch: Callable[[], Iterable], once: bool) -> Iterator[tuple[bool, Any]]:
    """Batches, epoch after epoch, and whether each is the first of its epoch."""
    while True:
        for number, batch in enumerate(epoch()):
            yield number == 0, batch
        if once:
            return


def draw(epoch: Callable[[], Iterable], arguments: argparse.Namespace) -> dict[str, float | None]:
    """Draws batches for some seconds or one epoch; `epoch` starts one. EMG is the batch's first item if not named."""
    times, gaps, waits, windows, first_batch = [time.perf_counter()], [], [], 0, None
    for starts_epoch, batch in batches(epoch, arguments.once):
        times.append(time.perf_counter())
        if first_batch is None:
            first_batch = time.time() - process_start()
            if not arguments.once:
                times = times[1:]
                continue
        windows += len(batch["emg"] if isinstance(batch, dict) else batch[0])
        (gaps if starts_epoch else waits).append(times[-1] - times[-2])
        if not arguments.once and times[-1] - times[0] >= arguments.seconds:
            break
    return {
        "windows_per_second": windows / (times[-1] - times[0]),
        "windows": windows,
        "seconds_to_first_batch": first_batch,
        # How much longer the first batch of an epoch is waited for than others.
        "epoch_gap_ms": 1e3 * (median(gaps) - median(waits)) if gaps and waits else None,
    }


def data_loader(dataset: Dataset, arguments: argparse.Namespace) -> DataLoader:
    return DataLoader(
        dataset,
        batch_size=arguments.batch,
        shuffle=not isinstance(dataset, IterableDataset),
        num_workers=arguments.workers,
        persistent_workers=not arguments.fresh_workers,
        prefetch_factor=2,
    )


def draw_loader(dataset: Dataset, arguments: argparse.Namespace) -> dict:
    loader = data_loader(dataset, arguments)
    return draw(lambda: loader, arguments)


def h5py_command(arguments: argparse.Namespace) -> dict:
    options = {"rdcc_nbytes": arguments.chunk_cache} if arguments.chunk_cache else {}
    return draw_loader(Hdf5Windows(arguments.folder, arguments.window, arguments.stride, **options), arguments)


def memmap_command(arguments: argparse.Namespace) -> dict:
    dataset = MappedWindows(arguments.folder, arguments.window, arguments.stride)
    if arguments.gather:
        return draw(lambda: dataset.gathered(arguments.batch), arguments)
    return draw_loader(dataset, arguments)


def streaming_command(arguments: argparse.Namespace) -> dict:
    from streaming import StreamingDataset

    # The arrays that it decodes are read-only; torch copies them all the same.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    dataset = StreamingDataset(local=str(arguments.folder), shuffle=True, batch_size=arguments.batch)
    return draw_loader(dataset, arguments)


def ffcv_command(arguments: argparse.Namespace) -> dict:
    from ffcv.loader import Loader, OrderOption

    loader = Loader(
        str(arguments.folder / "windows.beton"),
        batch_size=arguments.batch,
        num_workers=arguments.workers,
        os_cache=True,
        order=OrderOption.RANDOM,
        drop_last=False,
    )
    return draw(lambda: loader, arguments)


class ArrayWindows(Dataset):
    """Hdf5Windows' EMG and angles as a tuple of arrays, as FFCV's writer takes them."""

    def __init__(self, windows: Hdf5Windows):
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        window = self.windows[index]
        return window["emg"].numpy(), window["joint_angles"].numpy()


def convert_command(arguments: argparse.Namespace) -> dict:
    writers = {"mds": write_mds, "ffcv": write_ffcv}
    shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True)
    windows = ArrayWindows(Hdf5Windows(arguments.folder, arguments.window, arguments.stride))
    writers[arguments.format](windows, arguments)
    return {"windows": len(windows)}


def write_mds(windows: ArrayWindows, arguments: argparse.Namespace) -> None:
    from streaming import MDSWriter

    columns = {
        "emg": f"ndarray:float32:{arguments.window},{CHANNELS}",
        "joint_angles": f"ndarray:float32:{arguments.window},{JOINTS}",
    }
    with MDSWriter(out=str(arguments.out), columns=columns, compression=None, hashes=None) as writer:
        for index in range(len(windows)):
            emg, angles = windows[index]
            writer.write({"emg": emg, "joint_angles": angles})


def write_ffcv(windows: ArrayWindows, arguments: argparse.Namespace) -> None:
    from ffcv.fields import NDArrayField
    from ffcv.writer import DatasetWriter

    fields = {
        "emg": NDArrayField(np.dtype(np.float32), (arguments.window, CHANNELS)),
        "joint_angles": NDArrayField(np.dtype(np.float32), (arguments.window, JOINTS)),
    }
    DatasetWriter(str(arguments.out / "windows.beton"), fields, num_workers=2).from_indexed_dataset(windows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    def command(name: str, run: Callable[[argparse.Namespace], dict]) -> argparse.ArgumentParser:
        added = commands.add_parser(name)
        added.set_defaults(run=run)
        added.add_argument("folder", type=Path)
        added.add_argument("--window", type=int, default=2000)
        added.add_argument("--stride", type=int, default=2000)
        added.add_argument("--batch", type=int, default=64)
        added.add_argument("--workers", type=int, default=2)
        added.add_argument("--seconds", type=float, default=10.0)
        added.add_argument("--once", action="store_true")
        added.add_argument("--fresh-workers", action="store_true")
        return added

    command("h5py", h5py_command).add_argument("--chunk-cache", type=int, default=0, help="bytes")
    command("memmap", memmap_command).add_argument("--gather", action="store_true", help="on this thread")
    command("streaming", streaming_command)
    command("ffcv", ffcv_command)
    convert = command("convert", convert_command)
    convert.add_argument("out", type=Path)
    convert.add_argument("--format", choices=["mds", "ffcv"], required=True)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    try:
        result = arguments.run(arguments)
    except ImportError as error:
        result = {"unavailable": f"{type(error).__name__}: {error}"}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
