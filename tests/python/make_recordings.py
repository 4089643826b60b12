#!/usr/bin/env python3
"""Generate synthetic surface-EMG recordings in the emg2pose HDF5 layout.

A few smooth random curves ("synergies") move all joints of the hand together;
each EMG channel is white noise whose amplitude depends on the joint angles
through a random mixing. Mixing and synergies are drawn once per seed, so what
a model learns on some recordings holds on the others. Stretches of rows whose
angles are all exactly zero stand for failures of inverse kinematics.

Each file holds the compound dataset /emg2pose/timeseries, in one of three
layouts (bytes a row for 16 channels and 20 joints):

  meta    232 bytes, 8-byte angles, contiguous: as Meta's test asset
  public  152 bytes, 4-byte angles, contiguous: as the public release
  gzip    as public, but chunked, shuffled and deflated

metadata.csv beside the files names each recording's user, session and split.
The same arguments always give the same bytes on one machine.
"""

import argparse
import csv
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np

SAMPLE_RATE = 2000.0
SYNERGIES = 6
WAVES = 5  # sine waves in one synergy's curve
FAILURE_ROWS = 1000  # rows of a typical IK failure
USERS = 4
SESSIONS = 8
STAGES = ("FingerPinches", "Counting", "FingerFreeform")
FIRST_SESSION = 1_670_313_600  # Unix time
METADATA_COLUMNS = (
    "session", "user", "stage", "start", "end", "side", "filename", "moving_hand",
    "held_out_user", "held_out_stage", "split", "generalization",
)  # fmt: skip


@dataclass(frozen=True)
class Recording:
    """What the group attributes and metadata.csv say of one file."""

    user: int
    session: str
    stage: str
    side: str
    take: int
    start: float
    end: float

    @classmethod
    def numbered(cls, index: int, rows: int, seed: int) -> "Recording":
        """Both hands of a take follow each other; takes go round the sessions."""
        take, session = divmod(index // 2, SESSIONS)
        session_start = FIRST_SESSION + 86_400 * session
        day = datetime.fromtimestamp(session_start, UTC).date()
        duration = (rows - 1) / SAMPLE_RATE
        start = session_start + take * (duration + 10.0)
        return cls(
            user=session % USERS,
            session=f"{day}-{session_start}-synthetic@{seed}",
            stage=STAGES[index // 2 % len(STAGES)],
            side=("left", "right")[index % 2],
            take=take,
            start=start,
            end=start + duration,
        )

    @property
    def filename(self) -> str:
        return f"{self.session}-recording-{self.take}_{self.side}"

    def shared_fields(self) -> dict[str, object]:
        """The fields that attributes and metadata.csv have in common."""
        return {
            "session": self.session,
            "user": f"synthetic{self.user}",
            "stage": f"{self.stage}_both",
            "start": self.start,
            "end": self.end,
            "side": self.side,
            "filename": self.filename,
        }


class Hand:
    """How synergies move joints and joint angles drive muscles."""

    def __init__(self, rng: np.random.Generator, channels: int, joints: int):
        self.synergies = rng.normal(0.0, 0.6 / np.sqrt(SYNERGIES), (SYNERGIES, joints))
        self.mixing = rng.normal(0.0, 2.0 / np.sqrt(joints), (joints, channels))
        self.user_gain = 10.0 * np.exp(rng.normal(0.0, 0.3, (USERS, channels)))

    def angles(self, rng: np.random.Generator, rows: int) -> np.ndarray:
        """Smooth joint angles in (-1, 1) rad."""
        seconds = np.arange(rows)[:, None] / SAMPLE_RATE
        frequencies = rng.uniform(0.1, 1.0, (WAVES, SYNERGIES))
        phases = rng.uniform(0.0, 2.0 * np.pi, (WAVES, SYNERGIES))
        curves = sum(
            np.sin(2.0 * np.pi * frequency * seconds + phase)
            for frequency, phase in zip(frequencies, phases, strict=True)
        )
        return np.tanh(curves / np.sqrt(WAVES / 2.0) @ self.synergies)

    def emg(self, rng: np.random.Generator, angles: np.ndarray, user: int) -> np.ndarray:
        """Noise modulated by activation, around each channel's own offset."""
        activation = self.user_gain[user] * np.exp(angles @ self.mixing)
        offset = rng.normal(0.0, 1.0, activation.shape[1])
        return offset + activation * rng.normal(size=activation.shape)


def partition(rng: np.random.Generator, total: int, parts: int) -> np.ndarray:
    """Random lengths, zero allowed, of `parts` pieces that make up `total`."""
    cuts = np.sort(rng.integers(0, total, parts - 1, endpoint=True))
    return np.diff(cuts, prepend=0, append=total)


def ik_failures(rng: np.random.Generator, rows: int, fraction: float) -> np.ndarray:
    """A mask of `rows` with that fraction set, in random stretches."""
    failed = round(fraction * rows)
    stretches = max(1, round(failed / FAILURE_ROWS))
    lengths = np.empty(2 * stretches + 1, dtype=int)
    lengths[0::2] = partition(rng, rows - failed, stretches + 1)
    lengths[1::2] = partition(rng, failed, stretches)
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def row_type(layout: str, channels: int, joints: int) -> np.dtype:
    angle = "<f8" if layout == "meta" else "<f4"
    return np.dtype(
        [("time", "<f8"), ("joint_angles", angle, (joints,)), ("emg", "<f4", (channels,))]
    )


def storage(layout: str, chunk: int, rows: int) -> dict[str, object]:
    """Keyword arguments of create_dataset; contiguous unless deflated."""
    if layout != "gzip":
        return {}
    return {
        "chunks": (min(chunk, rows),),
        "shuffle": True,
        "compression": "gzip",
        "compression_opts": 4,
    }


def write_recording(
    path: Path, recording: Recording, table: np.ndarray, options: dict[str, object]
) -> None:
    # The earliest format: version 0 of the superblock, as in Meta's files.
    with h5py.File(path, "w", libver="earliest") as file:
        group = file.create_group("emg2pose")
        for name, value in recording.shared_fields().items():
            group.attrs[name] = value
        group.attrs["sample_rate"] = SAMPLE_RATE
        group.attrs["num_channels"] = np.int64(table.dtype["emg"].shape[0])
        group.create_dataset("timeseries", data=table, **options)


def assign_splits(rng: np.random.Generator, count: int) -> list[str]:
    """About 70/15/15; from three recordings on, every split has one."""
    held_out = max(round(0.15 * count), int(count >= 3))
    splits = ["train"] * (count - 2 * held_out) + ["val"] * held_out + ["test"] * held_out
    return [splits[i] for i in rng.permutation(count)]


def write_metadata(path: Path, recordings: list[Recording], splits: list[str]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, METADATA_COLUMNS, lineterminator="\n")
        writer.writeheader()
        for recording, split in zip(recordings, splits, strict=True):
            writer.writerow(
                recording.shared_fields()
                | {
                    "moving_hand": "both",
                    "held_out_user": False,
                    "held_out_stage": False,
                    "split": split,
                    "generalization": "none",
                }
            )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dir", type=Path, metavar="DIR", help="folder to write, made if missing")
    parser.add_argument("--layout", choices=("meta", "public", "gzip"), default="public")
    parser.add_argument("--count", type=int, default=10, help="recordings (default: 10)")
    parser.add_argument("--rows", type=int, default=20_000, help="rows of each (default: 20000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--joints", type=int, default=20)
    parser.add_argument(
        "--failures", type=float, default=0.1, help="fraction of rows without IK (default: 0.1)"
    )
    parser.add_argument(
        "--chunk", type=int, default=489, help="rows a chunk, for gzip (default: 489)"
    )
    parser.add_argument("--no-metadata", action="store_true", help="write no metadata.csv")
    arguments = parser.parse_args()
    if min(arguments.count, arguments.rows, arguments.channels, arguments.joints) < 1:
        parser.error("--count, --rows, --channels and --joints must be at least 1")
    if not 0.0 <= arguments.failures <= 1.0:
        parser.error("--failures must lie in [0, 1]")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    arguments.dir.mkdir(parents=True, exist_ok=True)

    # Spawned seeds: a recording's data depends on its number, not on --count.
    hand_seed, split_seed, *seeds = np.random.SeedSequence(arguments.seed).spawn(
        2 + arguments.count
    )
    hand = Hand(np.random.default_rng(hand_seed), arguments.channels, arguments.joints)
    dtype = row_type(arguments.layout, arguments.channels, arguments.joints)
    recordings = []
    for index, seed in enumerate(seeds):
        rng = np.random.default_rng(seed)
        recording = Recording.numbered(index, arguments.rows, arguments.seed)
        angles = hand.angles(rng, arguments.rows)
        table = np.empty(arguments.rows, dtype)
        table["time"] = recording.start + np.arange(arguments.rows) / SAMPLE_RATE
        table["emg"] = hand.emg(rng, angles, recording.user)
        # The muscles move on while the tracking fails.
        angles[ik_failures(rng, arguments.rows, arguments.failures)] = 0.0
        table["joint_angles"] = angles
        write_recording(
            arguments.dir / f"{recording.filename}.hdf5",
            recording,
            table,
            storage(arguments.layout, arguments.chunk, arguments.rows),
        )
        recordings.append(recording)

    if not arguments.no_metadata:
        splits = assign_splits(np.random.default_rng(split_seed), arguments.count)
        write_metadata(arguments.dir / "metadata.csv", recordings, splits)
    print(f"wrote {arguments.count} recordings to {arguments.dir}")


if __name__ == "__main__":
    main()
