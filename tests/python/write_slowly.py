#!/usr/bin/env python3
"""Leaves a recording as a program does that is ended while it writes: write_slowly.py OUT"""

import os
import sys

import h5py
import numpy as np

file = h5py.File(sys.argv[1], "w", libver="latest")
rows = np.zeros(700, np.dtype([("joint_angles", "<f4", (20,)), ("emg", "<f4", (16,))]))
file.create_dataset("emg2pose/timeseries", data=rows)
file.swmr_mode = True
file.flush()
os._exit(0)
