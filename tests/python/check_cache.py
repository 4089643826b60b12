#!/usr/bin/env python3
"""Check a store of emg-cache against the HDF5 recordings it was built from.

An independent second opinion: the recordings are read with h5py, everything
the cache should hold is computed anew in float64 with numpy, and the segments
are read with zarr-python and, byte for byte, through a memory map.

INFO_JSON is the output of `emg-cache info KEY --json` (`-`: standard input).
Prints `ok: N recordings, M segments` and exits 0, or prints each mismatch as
`recording: what: expected ..., found ...` and exits 1.
"""

import argparse
import json
import sys
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import zarr

WINDOW_SETTINGS = {
    "train": ("window_size", "stride"),
    "val": ("eval_window", "eval_stride"),
    "test": ("eval_window", "eval_stride"),
}


class Mismatches:
    """Prints and counts what differs in one recording, or in the cache."""

    def __init__(self, name: str):
        self.name = name
        self.count = 0

    def add(self, what: str, expected: object, found: object) -> None:
        self.count += 1
        print(f"{self.name}: {what}: expected {expected}, found {found}")

    def equal(self, what: str, expected: object, found: object) -> bool:
        if expected != found:
            self.add(what, expected, found)
        return expected == found

    def bits(self, what: str, expected: np.ndarray, found: np.ndarray) -> None:
        """Both are of one float type; a NaN equals the same NaN, and 0 differs from -0."""
        if self.equal(f"{what} shape", expected.shape, found.shape):
            bits = np.uint32 if expected.dtype == np.float32 else np.uint16
            same = expected.view(bits) == found.view(bits)
            self._elements(what, same, expected, found)

    def close(
        self,
        what: str,
        expected: np.ndarray,
        found: np.ndarray,
        rtol: float,
        atol: float | np.ndarray,
    ) -> None:
        if self.equal(f"{what} shape", expected.shape, found.shape):
            same = np.isclose(found, expected, rtol=rtol, atol=atol)
            self._elements(what, same, expected, found)

    def _elements(
        self, what: str, same: np.ndarray, expected: np.ndarray, found: np.ndarray
    ) -> None:
        differing = np.argwhere(~same)
        if len(differing):
            first = tuple(differing[0].tolist())
            where = f"{what} {list(first)} (first of {len(differing)})"
            self.add(where, expected[first], found[first])


def marked_rows(angles: np.ndarray, layout: dict) -> np.ndarray:
    """Rows where IK failed."""
    return np.isclose(angles, 0.0).all(axis=1) & (layout["invalid_rows"] == "zeros")


def failed_rows(angles: np.ndarray, layout: dict) -> np.ndarray:
    """Rows without a usable pose: IK failed, or an angle is not finite."""
    return marked_rows(angles, layout) | ~np.isfinite(angles).all(axis=1)


def true_runs(mask: np.ndarray) -> list[list[int]]:
    """Maximal stretches of True, as [start, length]."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    return [[start, end - start] for start, end in edges.reshape(-1, 2).tolist()]


def sampled_rows(rows: int, settings: dict) -> np.ndarray:
    """The rows that statistics are taken from."""
    samples = settings["max_samples_for_normalize"]
    if settings["statistics"] == "exact" or rows <= samples:
        return np.arange(rows)
    return np.floor(np.linspace(0, rows - 1, samples)).astype(int)


def without_failed(sampled: np.ndarray, failed: np.ndarray) -> np.ndarray:
    """The sampled rows that did not fail; every valid row if there is none."""
    valid = sampled[~failed[sampled]]
    return valid if len(valid) else np.flatnonzero(~failed)


def z_score(values: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """Values by the mean and std of the sample; a flat channel is not scaled."""
    std = sample.std(axis=0)
    return (values - sample.mean(axis=0)) / np.where(std <= 1e-7 * std.max(), 1.0, std)


def count_windows(runs: list[list[int]], window: int, stride: int) -> int:
    return sum((length - window) // stride + 1 for _, length in runs if length >= window)


def read_recording(path: Path, settings: dict) -> tuple[np.ndarray, np.ndarray]:
    """EMG and joint angles as float64, which holds every field width exactly."""
    layout = settings["layout"]
    with h5py.File(path, "r") as file:
        source = file[layout["table"]][:] if layout["table"] else file
        emg = source[layout["emg"]][:].astype(np.float64)
        angles = source[layout["joint_angles"]][:].astype(np.float64)
    if not layout["table"]:
        rate = layout["joint_angle_rate"] or settings["sample_rate"]
        angles = at_rows(angles, len(emg), int(rate), int(settings["sample_rate"]), layout)
    return emg, angles * (np.pi / 180.0 if layout["angle_unit"] == "deg" else 1.0)


def at_rows(samples: np.ndarray, rows: int, rate: int, row_rate: int, layout: dict) -> np.ndarray:
    """Angles at each EMG row: a sample as it is, or between two; NaN where one of two failed, or one is not there."""
    low, rest = np.divmod(np.arange(rows) * rate, row_rate)
    share = rest / row_rate if layout["interpolation"] == "linear" else np.zeros(rows)
    missing = np.full((max(low.max() + 2 - len(samples), 1), samples.shape[1]), np.nan)
    usable = np.vstack([np.where(marked_rows(samples, layout)[:, None], np.nan, samples), missing])
    between = usable[low] + (usable[low + 1] - usable[low]) * share[:, None]
    return np.where(share[:, None] > 0, between, np.vstack([samples, missing])[low])


@cache
def open_array(segment: Path, field: str, dtype: str) -> tuple[zarr.Array, np.memmap]:
    """One array of a segment, as Zarr and as the first bytes of its only shard."""
    array = zarr.open_group(segment, mode="r")[field]
    return array, np.memmap(segment / field / "c/0/0", dtype, "r", shape=array.shape)


def stored_rows(
    mismatches: Mismatches, segment: Path, recording: dict, field: str, dtype: str
) -> np.ndarray:
    """A recording's rows as zarr-python reads them; the mapped bytes must agree."""
    array, mapped = open_array(segment, field, dtype)
    mismatches.equal(f"{field} dtype", np.dtype(dtype), array.dtype)
    rows = slice(recording["first_row"], recording["first_row"] + recording["rows"])
    stored = array[rows]
    mismatches.bits(f"{field} raw bytes", stored, mapped[rows])
    return stored


def check_statistics(
    mismatches: Mismatches, field: str, sample: np.ndarray, reported: dict
) -> None:
    mismatches.equal(f"{field} n", len(sample), reported["n"])
    if not len(sample):
        return
    # Rounding grows with the values summed, however near zero the mean lies.
    rounding = 1e-12 * np.abs(sample).max(axis=0)
    for moment, expected in (("mean", sample.mean(axis=0)), ("std", sample.std(axis=0))):
        found = np.array(reported[moment], dtype=np.float64)
        mismatches.close(f"{field} {moment}", expected, found, rtol=1e-9, atol=rounding)


def check_recording(
    mismatches: Mismatches, store: Path, dataset: Path, settings: dict, recording: dict
) -> int:
    """Reports what differs and returns how many windows the recording has."""
    emg, angles = read_recording(dataset / recording["path"], settings)
    failed = failed_rows(angles, settings["layout"])
    runs = true_runs(~failed)
    mismatches.equal("rows", len(emg), recording["rows"])
    mismatches.equal("valid runs", runs, recording["valid_runs"])

    sampled = sampled_rows(len(emg), settings)
    statistics = recording["statistics"]
    check_statistics(mismatches, "emg", emg[sampled], statistics["emg"])
    check_statistics(
        mismatches,
        "joint_angles",
        angles[without_failed(sampled, failed)],
        statistics["joint_angles"],
    )

    segment = store / "segments" / recording["segment"]
    dtype, rounding = {"float32": ("<f4", 1e-6), "float16": ("<f2", 1e-3)}[settings["dtype"]]
    stored = stored_rows(mismatches, segment, recording, "joint_angles", dtype)
    mismatches.bits("joint_angles", angles.astype(np.float32).astype(dtype), stored)
    stored = stored_rows(mismatches, segment, recording, "emg", dtype)
    if settings["normalize_emg"] == "recording":
        mismatches.close("emg", z_score(emg, emg[sampled]), stored, rtol=rounding, atol=rounding)
    else:
        mismatches.bits("emg", emg.astype(np.float32).astype(dtype), stored)

    window, stride = (settings[key] for key in WINDOW_SETTINGS[recording["split"]])
    if not settings["skip_ik_failures"]:
        runs = [[0, len(emg)]]
    return count_windows(runs, window, stride)


def check_cache(store: Path, dataset: Path, info: dict) -> int:
    """Prints every mismatch and returns their number."""
    count = 0
    windows = dict.fromkeys(WINDOW_SETTINGS, 0)
    for recording in info["recordings"]:
        mismatches = Mismatches(recording["name"])
        try:
            windows[recording["split"]] += check_recording(
                mismatches, store, dataset, info["settings"], recording
            )
        except (OSError, ValueError) as error:
            mismatches.add("reading", "no error", repr(error))
        count += mismatches.count

    mismatches = Mismatches("cache")
    mismatches.equal("windows", windows, info["windows"])
    used = sorted({recording["segment"] for recording in info["recordings"]})
    listed = sorted(segment["key"] for segment in info["segments"])
    mismatches.equal("segments", used, listed)
    return count + mismatches.count


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path, metavar="STORE")
    parser.add_argument("info", metavar="INFO_JSON")
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="folder of the recordings")
    arguments = parser.parse_args()
    text = sys.stdin.read() if arguments.info == "-" else Path(arguments.info).read_text()
    info = json.loads(text)

    if check_cache(arguments.store, arguments.dataset, info):
        return 1
    print(f"ok: {len(info['recordings'])} recordings, {len(info['segments'])} segments")
    return 0


if __name__ == "__main__":
    sys.exit(main())
