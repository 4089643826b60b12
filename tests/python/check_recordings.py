#!/usr/bin/env python3
"""Compares what emg-cache makes of random HDF5 recordings with what h5py reads from them.

    check_recordings.py EMG_CACHE --files 300 --seed 1 [--keep DIR] [--coverage]

File i depends only on (seed, i): see random_recordings.py. A plain file must be cached: its rows, valid runs and labels are
compared. A file with a flaw must be refused, with a reason that names the flaw. All files of one data.layout are built by
one command.

Prints `ok: N cached, M refused`, or each mismatch with seed, index and description of the file, and exits 1.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import h5py
import numpy as np
from random_recordings import LAYOUTS, Recording

SETTINGS = """data.on_bad_recording=skip data.window_size=50 data.stride=50 data.normalize_emg=none data.emg_channels=4
    data.normalize_angles=none data.joint_angles_channels=3 model.input_size=4 model.output_size=3 data.split_ratio=[1,0,0]"""


def build(program: str, folder: Path, name: str) -> tuple[dict, dict, str | None]:
    """The cache's recordings and the reasons of refusal, by name; or why there is no cache."""
    layout = ", ".join(f"{key}: {value}" for key, value in LAYOUTS[name].items())
    sets = [word for each in [*SETTINGS.split(), f"data.layout={{{layout}}}"] for word in ("--set", each)]

    def run(*arguments: str) -> dict:
        command = [program, *arguments, "--store", str(folder / "store"), "--json"]
        environment = os.environ | {"XDG_CACHE_HOME": str(folder / "memo")}
        return json.loads(subprocess.run(command, check=True, capture_output=True, env=environment).stdout)

    try:
        built = run("build", *sets, str(folder / name))
        info = run("info", built["key"])
    except subprocess.CalledProcessError as error:
        return {}, {}, f"{error.cmd[1]} exits with {error.returncode}: {error.stderr.decode()[-400:].strip()}"
    skipped = (re.fullmatch(r".*?([^/]+)\.(?:h5|hdf5): (.*)", line, re.DOTALL) for line in built["skipped"])
    return {each["name"]: each for each in info["recordings"]}, {match[1]: match[2] for match in skipped}, None


def differences(recording: Recording, folder: Path, cached: dict | None, refused: str | None) -> list[str]:
    if (cached is None) == (refused is None):
        return ["is both cached and refused" if cached else "is neither cached nor refused"]
    if refused is not None:
        allowed = "|".join(filter(None, [recording.reason, recording.may_refuse]))
        because = f", but not because of `{allowed}`" if allowed else ""
        return [] if allowed and re.search(allowed, refused) else [f"refused{because}: {refused}"]
    if recording.reason is not None:
        return [f"cached, but expected to be refused because of `{recording.reason}`"]
    found, (emg, angles, runs) = [], recording.expected()
    for array, rows in (("emg", emg), ("joint_angles", angles)):
        matrix = np.memmap(folder / "store/segments" / cached["segment"] / array / "c/0/0", "<f4", "r")
        values = matrix[cached["first_row"] * rows.shape[1] :][: cached["rows"] * rows.shape[1]].reshape(
            -1, rows.shape[1]
        )
        if values.shape != rows.shape:
            found.append(f"{array}: expected {len(rows)} rows, found {len(values)}")
            continue
        wrong = (values != rows) & ~(np.isnan(values) & np.isnan(rows))
        if len(wrong := np.argwhere(wrong)):
            first = tuple(wrong[0].tolist())
            found.append(f"{array}{list(first)}: expected {rows[first]}, found {values[first]} (first of {len(wrong)})")
    if runs != cached["valid_runs"]:
        found.append(f"valid_runs: expected {runs}, found {cached['valid_runs']}")
    labels = recording.labels.items()
    return found + [
        f"{name}: expected {label!r:.80}, found {cached[name]!r:.80}" for name, label in labels if cached[name] != label
    ]


def write_good(path: Path, layout: dict) -> None:
    """A plain file, so that each layout has a cache."""
    rows = {
        "emg": np.random.default_rng(0).normal(size=(60, 4)),
        "joint_angles": np.ones((60, 3)),
        "time": np.arange(60) / 2000,
    }
    named = {layout[key]: values for key, values in rows.items() if key in layout}
    with h5py.File(path, "w") as file:
        file.create_group("meta")
        if "table" in layout:
            table = np.zeros(60, [(name, "f8", values.shape[1:]) for name, values in named.items()])
            for name, values in named.items():
                table[name] = values
            named = {layout["table"]: table}
        for name, values in named.items():
            file[name] = values


def check(given: argparse.Namespace, folder: Path) -> int:
    recordings, counts, kinds, mismatches = defaultdict(list), Counter(), Counter(), 0
    (folder / "elsewhere").mkdir(parents=True)
    for name, layout in LAYOUTS.items():
        (folder / name).mkdir()
        write_good(folder / name / "good.h5", layout)
    for index in range(given.files):
        recording = Recording(folder, given.seed, index)
        recordings[recording.layout_name].append(recording)
        for what, notes in recording.about.items():
            kinds.update({f"{what}: {each}" for note in np.atleast_1d(notes) for each in note.split("; ")})
    for name, group in recordings.items():
        cached, refused, failure = build(given.program, folder, name)
        if failure:
            mismatches += 1
            print(f"layout {name}, {len(group)} files: {failure}")
        for recording in group if not failure else ():
            counts["cached" if recording.name in cached else "refused"] += 1
            found = differences(recording, folder, cached.get(recording.name), refused.get(recording.name))
            mismatches += bool(found)
            if found:
                print(f"seed {given.seed}, file {recording.index}: {recording.about}", *found, sep="\n    ")
    for kind, count in sorted(kinds.items()) if given.coverage else ():
        print(f"{count:5} {kind}")
    print(f"{mismatches} mismatches" if mismatches else f"ok: {counts['cached']} cached, {counts['refused']} refused")
    return 1 if mismatches else 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a new folder for the files and the store")
    parser.add_argument("--coverage", action="store_true", help="count the files of each kind")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(check(given, (given.keep or Path(temporary) / "files").absolute()))


if __name__ == "__main__":
    main()
