#!/usr/bin/env python3
"""Writes recordings with pynwb and PyTables to tests/fixtures/recordings, and what these libraries read from them.

Run once with pynwb 4 and tables 3: make_foreign.py. For each recording NAME, NAME.emg.f4 and NAME.angles.f4 are the rows
as little-endian float32.
"""

from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pynwb
import tables

OUT = Path(__file__).parent.parent / "fixtures" / "recordings"
ROWS, CHANNELS, JOINTS = 200, 4, 3
rng = np.random.default_rng(11)


def save(name: str, emg: np.ndarray, angles: np.ndarray) -> None:
    emg.astype("<f4").tofile(OUT / f"{name}.emg.f4")
    angles.astype("<f4").tofile(OUT / f"{name}.angles.f4")


def nwb() -> None:
    """int16 EMG in volts with a factor and an offset, angles as int32 with a factor; angles start 10 ms later."""
    start = datetime(2026, 1, 2, tzinfo=timezone.utc)
    file = pynwb.NWBFile(session_description="test", identifier="test", session_start_time=start)
    device = file.create_device(name="armband")
    group = file.create_electrode_group(name="ring", description="ring", location="forearm", device=device)
    for channel in range(CHANNELS):
        file.add_electrode(group=group, location="forearm")
    electrodes = file.create_electrode_table_region(region=list(range(CHANNELS)), description="all")
    counts = rng.integers(-3000, 3000, (ROWS, CHANNELS)).astype("i2")
    file.add_acquisition(
        pynwb.ecephys.ElectricalSeries(
            name="emg", data=counts, electrodes=electrodes, starting_time=0.0, rate=2000.0, conversion=2.5e-7, offset=1e-5
        )
    )
    steps = rng.integers(-(10**6), 10**6, (ROWS, JOINTS)).astype("i4")
    file.add_acquisition(
        pynwb.TimeSeries(name="angles", data=steps, unit="radians", starting_time=0.01, rate=2000.0, conversion=1e-6)
    )
    path = OUT / "pynwb.nwb"
    with pynwb.NWBHDF5IO(path, "w") as io:
        io.write(file, cache_spec=False)
    with pynwb.NWBHDF5IO(path, "r") as io:
        read = io.read().acquisition
        emg = read["emg"].get_data_in_units()
        late = read["angles"].get_data_in_units()
        lead = round((read["angles"].starting_time - read["emg"].starting_time) * read["emg"].rate)
    angles = np.full((ROWS, JOINTS), np.nan)
    angles[lead:] = late[: ROWS - lead]
    save("pynwb", emg, angles)


def pytables() -> None:
    """A table with other columns, blosc's filter left out, and attributes as PyTables stores them."""

    class Row(tables.IsDescription):
        note = tables.StringCol(7, pos=0)
        emg = tables.Float32Col(shape=(CHANNELS,), pos=1)
        flag = tables.BoolCol(pos=2)
        ang = tables.Float64Col(shape=(JOINTS,), pos=3)
        half = tables.Float16Col(pos=4)

    path = OUT / "pytables.h5"
    filters = tables.Filters(complevel=5, complib="zlib", shuffle=True, fletcher32=True)
    with tables.open_file(path, "w") as file:
        table = file.create_table("/run", "rows", Row, createparents=True, filters=filters, chunkshape=(64,))
        rows = np.zeros(ROWS, table.dtype)
        rows["note"], rows["emg"] = b"x", rng.normal(size=(ROWS, CHANNELS))
        rows["ang"] = rng.normal(size=(ROWS, JOINTS))
        table.append(rows)
        table.attrs.user, table.attrs.session, table.attrs.stage = "Zo\u00eb", "", np.int16(7)
        table.attrs.sample_rate = 2000.0
    with tables.open_file(path) as file:
        read = file.root.run.rows.read()
    save("pytables", read["emg"], read["ang"])


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    nwb()
    pytables()
