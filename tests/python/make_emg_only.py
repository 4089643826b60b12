"""Writes a recording without its angles, and one whose angles failed, all of them or from one row to another:
make_emg_only.py FROM ONLY FAILED [FIRST END]"""

import sys

import h5py
import numpy as np

source, only, failed, *gap = sys.argv[1:]
with h5py.File(source) as file:
    table = file["emg2pose/timeseries"][:]
for path, fields in [(only, ["time", "emg"]), (failed, ["time", "joint_angles", "emg"])]:
    rows = np.zeros(len(table), [(name, table.dtype[name]) for name in fields])
    rows["time"], rows["emg"] = table["time"], table["emg"]
    if gap and "joint_angles" in fields:
        rows["joint_angles"] = 0.5
        rows["joint_angles"][int(gap[0]) : int(gap[1])] = 0
    with h5py.File(path, "w") as file:
        file.create_group("emg2pose").create_dataset("timeseries", data=rows)
