"""Writes a recording whose EMG is scaled and shifted, as another amplifier would have it: scale_emg.py FROM TO FACTOR OFFSET"""

import sys

import h5py

source, out, factor, offset = sys.argv[1:]
with h5py.File(source) as file:
    table = file["emg2pose/timeseries"][:]
    attributes = dict(file["emg2pose"].attrs)
table["emg"] = table["emg"] * float(factor) + float(offset)
with h5py.File(out, "w") as file:
    group = file.create_group("emg2pose")
    group.create_dataset("timeseries", data=table)
    group.attrs.update(attributes)
