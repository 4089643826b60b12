#!/usr/bin/env python3
"""Writes recordings that laboratories have, a folder for each name below: make_situations.py OUT"""

import os
import sys
import tarfile
from pathlib import Path

import h5py
import numpy as np

OUT = Path(sys.argv[1])
ROWS = 700
rng = np.random.default_rng(5)


def table(rows: int = ROWS) -> np.ndarray:
    """Rows of the emg2pose layout."""
    dtype = np.dtype([("time", "<f8"), ("joint_angles", "<f4", (20,)), ("emg", "<f4", (16,))])
    rows = np.zeros(rows, dtype)
    rows["time"] = np.arange(len(rows)) / 2000
    rows["joint_angles"], rows["emg"] = rng.normal(size=(len(rows), 20)), rng.normal(size=(len(rows), 16))
    return rows


def write(path: Path, rows: np.ndarray | None = None, **attributes: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        group = file.create_group("emg2pose")
        group["timeseries"] = table() if rows is None else rows
        group.attrs.update(attributes)


def folder(name: str) -> Path:
    (OUT / name).mkdir(parents=True)
    return OUT / name


def links() -> None:
    """Links to a folder, to itself, to nothing and to a file; hidden files; what predict wrote."""
    real, linked = folder("real"), folder("linked")
    write(real / "x.hdf5")
    write(linked / "a.hdf5")
    (linked / "more").symlink_to("../real")
    (linked / "circle").symlink_to(".")
    (linked / "broken.hdf5").symlink_to("../gone.hdf5")
    (linked / "again.hdf5").symlink_to("a.hdf5")
    write(linked / ".snapshot/old.hdf5")
    (linked / "._a.hdf5").write_bytes(b"\x00\x05\x16\x07")
    (linked / "notes.mat").write_bytes(b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(128))
    write(linked / "predicted/a.hdf5", predicted_by="emg-train 0.1.0")
    os.mkfifo(linked / "pipe.hdf5")


def tars() -> None:
    """Links to members, and members without their holes, as GNU tar and POSIX have them."""
    base = folder("tars")
    write(base / "in/a.hdf5")
    os.link(base / "in/a.hdf5", base / "in/b.hdf5")
    (base / "in/c.hdf5").symlink_to("a.hdf5")
    with tarfile.open(base / "links.tar", "w") as tar:
        for name in ("a.hdf5", "b.hdf5", "c.hdf5"):
            tar.add(base / "in" / name, f"in/{name}")
    holes = base / "sparse/holes.hdf5"
    write(holes)
    os.truncate(holes, holes.stat().st_size + (1 << 20))
    write(base / "sparse/plain.hdf5")


def joints() -> None:
    """A joint that was never measured, in rows of which some are marked as failed."""
    nan, zero = folder("joint_nan"), folder("joint_zero")
    for i in range(4):
        rows = table(3000)
        rows["joint_angles"][100:300] = 0
        rows["joint_angles"][:, 19] = 0
        write(zero / f"r{i}.hdf5", rows)
        rows["joint_angles"][:, 19] = np.inf if i == 3 else np.nan
        write(nan / f"r{i}.hdf5", rows)
    some = folder("joint_some")
    for i in range(4):
        rows = table(3000)
        rows["joint_angles"][:, 3] = np.nan if i < 2 else rows["joint_angles"][:, 3]
        write(some / f"r{i}.hdf5", rows)


def apart(name: str, emg: np.ndarray, time: np.ndarray | None = None, **attributes: object) -> None:
    """EMG and angles in datasets of their own."""
    with h5py.File(folder(name) / "r.h5", "w") as file:
        data = file.create_dataset("emg", data=emg)
        data.attrs.update(attributes)
        file["ang"] = rng.normal(size=(len(emg), 20)).astype("f4")
        if time is not None:
            file["t"] = time


def units() -> None:
    scale = np.linspace(0.5, 40, 16)
    microvolts = rng.normal(size=(4000, 16)) * scale
    microvolts[:, 5] = 7
    apart("microvolts", microvolts.astype("f4"))
    apart("volts", (microvolts * 1e-6).astype("f4"))
    apart("int16", np.round(rng.normal(size=(ROWS, 16)) * 1000).astype("i2"))
    apart("conversion", np.round(rng.normal(size=(ROWS, 16)) * 1000).astype("i2"), conversion=1e-6, offset=0.25)


def times() -> None:
    emg = rng.normal(size=(ROWS, 16)).astype("f4")
    rows = np.arange(ROWS)
    apart("time_ns", emg, 1_700_000_000_000_000_000 + rows * 500_000)
    apart("time_samples", emg, rows.astype("i4"))
    apart("time_1000", emg, rows / 1000)
    apart("time_ms", emg, rows * 0.5)
    gap = folder("time_gap")
    for i in range(7):
        rows = table()
        rows["time"][300:] += 2
        write(gap / f"r{i}.hdf5", rows)


def metadata() -> None:
    header = "session,user,stage,start,end,side,filename,moving_hand,held_out_user,held_out_stage,split,generalization\n"
    base = folder("metadata")
    for name in ("a", "b"):
        write(base / f"{name}.hdf5")
    (base / "emg2pose_metadata.csv").write_text(
        header
        + "s1,u1,st,0,1,left,a.h5,both,False,False,train,\n"
        + "s2,u2,st,0,1,left,b,both,True,False,test,user\n"
        + "s3,u3,st,0,1,left,gone,both,True,False,test,user\n"
    )


def nwb() -> None:
    """Signals that start at different times, have units and time stamps of their own, or are no recordings."""

    def series(file: h5py.File, name: str, data: np.ndarray, start: float, unit: str | None = None) -> None:
        group = file.create_group(f"acquisition/{name}")
        group["data"] = data
        if unit:
            group["data"].attrs["unit"] = unit
        group["starting_time"] = start
        group["starting_time"].attrs["rate"] = 2000.0

    emg = rng.normal(size=(ROWS, 16)).astype("f4")
    angles = rng.normal(size=(ROWS, 20)).astype("f4")
    shifted = np.full_like(angles, np.nan)
    shifted[100:] = angles[:-100]
    for name, start, rows in (("nwb_late", 0.05, angles), ("nwb_same", 0.0, shifted), ("nwb_other_day", 9.0, angles)):
        with h5py.File(folder(name) / "r.nwb", "w") as file:
            series(file, "emg", emg, 0.0)
            series(file, "angles", rows, start, "radians")
    with h5py.File(folder("nwb_degrees") / "r.nwb", "w") as file:
        series(file, "emg", emg, 0.0)
        series(file, "angles", angles, 0.0, "degrees")
    with h5py.File(folder("nwb_stamps") / "r.nwb", "w") as file:
        series(file, "emg", emg, 0.0)
        file["acquisition/angles/data"] = angles
        file["acquisition/angles/timestamps"] = np.arange(ROWS) / 1000
    with h5py.File(folder("nwb_channels") / "r.nwb", "w") as file:
        series(file, "emg", emg, 0.0)
        series(file, "angles", angles, 0.0)
        file["acquisition/emg/channel_conversion"] = np.linspace(1, 2, 16)
    with h5py.File(folder("zstd") / "r.nwb", "w") as file:
        series(file, "angles", angles, 0.0)
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk((100, 16))
        creation.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
        group, space = file.create_group("acquisition/emg"), h5py.h5s.create_simple(emg.shape)
        h5py.h5d.create(group.id, b"data", h5py.h5t.IEEE_F32LE, space, creation)
    with h5py.File(folder("nwb_gap") / "r.nwb", "w") as file:
        series(file, "emg", emg, 0.0)
        file["acquisition/angles/data"] = angles
        file["acquisition/angles/timestamps"] = np.arange(ROWS) / 2000 + 0.03 * (np.arange(ROWS) > 400)
    bad = folder("nwb_bad")
    with h5py.File(bad / "good.nwb", "w") as file:
        series(file, "emg", emg, 0.0)
        series(file, "angles", angles, 0.0)
    (bad / "cut.nwb").write_bytes((bad / "good.nwb").read_bytes()[:40_000])
    with h5py.File(bad / "other.nwb", "w") as file:
        file["acquisition/lfp"] = emg
    emg[3, 3] = np.nan
    with h5py.File(bad / "nan.nwb", "w") as file:
        series(file, "emg", emg, 0.0)
        series(file, "angles", angles, 0.0)


def subfolders() -> None:
    """A table above the recordings, in a folder and in an archive."""
    base = folder("above")
    for name in ("s1/a", "s2/a", "s2/b"):
        write(base / f"{name}.hdf5")
    write(base / "unlisted/p.hdf5", predicted_by="emg-train 0.1.0")
    (base / "metadata.csv").write_text("filename,user,split\ns1/a,u1,train\ns2/a,u2,val\nb,u3,test\n")
    with tarfile.open(OUT / "above.tar", "w") as tar:
        for name in ("s2/a", "s2/b", "s1/a"):
            tar.add(base / f"{name}.hdf5", f"{name}.hdf5")
        tar.add(base / "metadata.csv", "./metadata.csv")


def users() -> None:
    """Users that a table lists partly, and names with white space."""
    base, spaces = folder("users"), folder("spaces")
    lines = "filename,user,split\n"
    for user in range(4):
        for i in range(3):
            write(base / f"u{user}_{i}.hdf5")
            lines += f"u{user}_{i},u{user},{'test' if i == 0 and user < 2 else ''}\n"
    (base / "metadata.csv").write_text(lines)
    for i, user in enumerate(("u1", "u1 ", "u1\n", "u2", "u3")):
        write(spaces / f"r{i}.hdf5", user=user)


def netcdf() -> None:
    """Packed data and missing values as netCDF has them; angles too large for float16 in a row that failed."""
    counts = np.round(rng.normal(size=(ROWS, 16)) * 1000).astype("i2")
    apart("packed", counts, scale_factor=0.5, add_offset=2.0, _FillValue=np.int16(-32768))
    counts[7, 3] = -32768
    apart("fill", counts, scale_factor=0.5, _FillValue=np.int16(-32768))
    rows = table()
    rows["joint_angles"][5], rows["joint_angles"][5, 0] = 1e9, np.nan
    write(folder("masked_large") / "r.hdf5", rows)
    rows["joint_angles"][9] = 1e9
    write(folder("large") / "r.hdf5", rows)


def linked_elsewhere() -> None:
    """Rows in other files."""
    base = folder("elsewhere")
    with h5py.File(base / "other.bin", "w") as file:
        file["x"] = rng.normal(size=(ROWS, 16)).astype("f4")
    with h5py.File(folder("external_link") / "r.h5", "w") as file:
        file["ang"] = rng.normal(size=(ROWS, 20)).astype("f4")
        file["emg"] = h5py.ExternalLink("../elsewhere/other.bin", "/x")


def main() -> None:
    for situation in (links, tars, joints, units, times, metadata, nwb, subfolders, users, netcdf, linked_elsewhere):
        situation()


if __name__ == "__main__":
    main()
