#!/usr/bin/env python3
"""Recordings in layouts other than emg2pose's, at random values.

    make_layouts.py OUTDIR KIND

KIND is wrist (generic-neuromotor-interface's table at the root), apart (datasets in groups, angles in degrees at 60 Hz,
compressed, with failed samples, a metadata.csv with other column names), held (angles at 72 Hz, none failed), same
(one rate, big-endian EMG that only the HDF5 library decodes), or big (the same, too long to be read whole).
"""

import sys
from pathlib import Path

import h5py
import numpy as np

RATE = 2000


def wrist(file: h5py.File, random: np.random.Generator) -> None:
    rows = 3000
    table = np.zeros(rows, [("time", "<f8"), ("emg", "<f4", (16,)), ("wrist_angles", "<f4", (2,))])
    table["time"] = np.arange(rows) / RATE
    table["emg"] = random.normal(size=(rows, 16))
    table["wrist_angles"] = random.normal(size=(rows, 2))
    table["wrist_angles"][100:200] = 0  # not failures here
    table["wrist_angles"][500:520, 1] = np.nan
    file.create_dataset("data", data=table).attrs["user"] = "u1"


def apart(file: h5py.File, random: np.random.Generator) -> None:
    rows = 4001
    angles = random.normal(scale=40, size=(rows * 60 // RATE + 1, 5))
    angles[30:40] = 0
    angles[70, 2] = np.inf
    emg = random.normal(size=(rows, 16)).astype("<f8")
    compressed = {"compression": "gzip", "shuffle": True, "fletcher32": True}
    file.create_dataset("raw/emg", data=emg, chunks=(300, 16), **compressed)
    file.create_dataset("raw/t", data=np.arange(rows) / RATE)
    file.create_dataset("pose", data=angles.astype("<f4"), chunks=(17, 5), **compressed)


def held(file: h5py.File, random: np.random.Generator) -> None:
    rows = 1401
    # Three samples short: the last rows have no angles.
    angles = random.normal(size=(rows * 72 // RATE - 3, 3))
    angles[5:9] = 0
    file.create_dataset("emg", data=random.normal(size=(rows, 16)).astype("<f4"))
    # Chunks that cut rows.
    file.create_dataset("angles", data=angles, chunks=(10, 2), compression="gzip")


def same(file: h5py.File, random: np.random.Generator, rows: int = 2500) -> None:
    angles = random.normal(size=(rows, 4))
    angles[::200] = 0
    file.create_dataset("emg", data=random.normal(size=(rows, 16)).astype(">f4"))
    file.create_dataset("angles", data=angles.astype("<f4"), chunks=(1000, 4))


def big(file: h5py.File, random: np.random.Generator) -> None:
    same(file, random, 420_000)


KINDS = {"wrist": wrist, "apart": apart, "held": held, "same": same, "big": big}


def main() -> None:
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    folder.mkdir(parents=True)
    count = 1 if kind == "big" else 3
    for i in range(count):
        with h5py.File(folder / f"r{i}.h5", "w") as file:
            KINDS[kind](file, np.random.default_rng(i))
    if kind == "apart":
        lines = "".join(f"r{i},s{i},train\n" for i in range(count))
        (folder / "metadata.csv").write_text("file,subject,fold\n" + lines)


if __name__ == "__main__":
    main()
