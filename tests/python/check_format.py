#!/usr/bin/env python3
"""Checks that a store's bytes are what docs/store-format.md says. Prints `ok: N caches, M segments`."""

import json
import struct
import sys
from pathlib import Path

import numpy as np
from blake3 import blake3

BLOCK = 16 << 20
INNER_ROWS = 8192


def unsealed(path: Path) -> dict:
    """A JSON file that ends with its digest."""
    data = path.read_bytes()
    tail = len(',"digest":"') + 64 + len('"}\n')
    body, end = data[:-tail] + b"}", data[-tail:]
    assert end == b',"digest":"' + blake3(body).hexdigest().encode() + b'"}\n', path
    return json.loads(body)


def key_of(content: dict) -> str:
    return blake3(json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def check_shard(path: Path, rows: int, columns: int, dtype: str) -> np.ndarray:
    element = {"float32": "<f4", "float16": "<f2"}[dtype]
    row_bytes = columns * np.dtype(element).itemsize
    chunks = -(-rows // INNER_ROWS)
    data = path.read_bytes()
    index = b"".join(struct.pack("<QQ", i * INNER_ROWS * row_bytes, INNER_ROWS * row_bytes) for i in range(chunks))
    assert data[chunks * INNER_ROWS * row_bytes :] == index + struct.pack("<I", crc32c(index)), path
    assert not any(data[rows * row_bytes : chunks * INNER_ROWS * row_bytes]), path
    return np.frombuffer(data[: rows * row_bytes], element).reshape(rows, columns)


def check_segment(folder: Path) -> dict:
    segment = unsealed(folder / "segment.json")
    settings = segment["settings"]
    contents = [recording["blake3"] for recording in segment["recordings"]]
    versions = {"format": segment["format"], "normalizer": segment["normalizer"]}
    assert folder.name == key_of({"kind": "segment", **versions, "settings": settings, "recordings": contents})
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == sorted(["segment.json"] + [file["path"] for file in segment["files"]])
    for file in segment["files"]:
        data = (folder / file["path"]).read_bytes()
        blocks = [blake3(data[i : i + BLOCK]).hexdigest() for i in range(0, len(data), BLOCK)]
        assert (len(data), blocks) == (file["bytes"], file["blocks"]), file["path"]
    rows = segment["rows"]
    emg = check_shard(folder / "emg/c/0/0", rows, settings["emg_channels"], settings["dtype"])
    check_shard(folder / "joint_angles/c/0/0", rows, settings["joint_angles_channels"], settings["dtype"])
    first = 0
    for recording in segment["recordings"]:
        assert recording["first_row"] == first
        part = emg[first : first + recording["rows"]].astype(np.float64)
        if settings["emg_by_recording"] and recording["emg"]["n"] == recording["rows"]:
            assert np.abs(part.mean(axis=0)).max() < 1e-2 and np.abs(part.std(axis=0) - 1).max() < 1e-2
        first += recording["rows"]
        end = 0
        for start, length in recording["valid_runs"]:
            assert start >= end and length > 0
            end = start + length
        assert end <= recording["rows"]
    assert first == rows
    return segment


def check_cache(path: Path, segments: dict) -> None:
    cache = unsealed(path)
    labels = ["user", "session", "stage", "side", "generalization"]
    recordings = [[r["name"], r["blake3"], r["split"], [r[label] for label in labels]] for r in cache["recordings"]]
    for keyed, recording in zip(recordings, cache["recordings"]):
        keyed.extend([recording["labels"]] if "labels" in recording else [])
    versions = {"format": cache["format"], "normalizer": cache["normalizer"]}
    content = {"kind": "cache", **versions, "settings": cache["settings"], "recordings": recordings}
    assert path.stem == key_of(content), path
    assert recordings == sorted(recordings, key=lambda recording: recording[:2])
    for segment in cache["segments"]:
        folder = path.parent.parent / "segments" / segment["key"]
        assert blake3((folder / "segment.json").read_bytes()).hexdigest() == segment["blake3"]
        assert segment["bytes"] == sum(file["bytes"] for file in segments[segment["key"]]["files"])
    settings, windows = cache["settings"], dict.fromkeys(("train", "val", "test"), 0)
    for listed in cache["recordings"]:
        content = segments[cache["segments"][listed["segment"]]["key"]]["recordings"]
        recording = next(r for r in content if r["blake3"] == listed["blake3"])
        names = ("window_size", "stride") if listed["split"] == "train" else ("eval_window", "eval_stride")
        size, stride = (settings[name] for name in names)
        runs = recording["valid_runs"] if settings["skip_ik_failures"] else [[0, recording["rows"]]]
        windows[listed["split"]] += sum(len(range(0, length - size + 1, stride)) for _, length in runs)
    assert list(windows.values()) == cache["windows"]


def main() -> None:
    store = Path(sys.argv[1])
    assert (store / "format.json").read_bytes() == b'{"format": 1}'
    segments = {folder.name: check_segment(folder) for folder in (store / "segments").iterdir()}
    caches = list((store / "caches").iterdir())
    for path in caches:
        check_cache(path, segments)
    print(f"ok: {len(caches)} caches, {len(segments)} segments")


if __name__ == "__main__":
    main()
