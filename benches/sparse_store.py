#!/usr/bin/env python3
"""Writes a store with as many windows as wanted, whose rows are holes: to measure what opening costs.

    benches/sparse_store.py MODEL STORE RECORDINGS

MODEL is a store with one cache of one recording, whose settings, statistics and runs every recording of STORE gets; each
is as long as a minute at 2 kHz. Follows docs/store-format.md. Prints the cache's key.
"""

import copy
import json
import struct
import sys
from pathlib import Path

from blake3 import blake3

ROWS = 120_000
INNER_ROWS = 8192
BLOCK = 16 << 20
SEGMENT_BYTES = 4 << 30


def text(document) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def sealed(document: dict) -> bytes:
    body = text(document)
    return body[:-1] + b',"digest":"' + blake3(body).hexdigest().encode() + b'"}\n'


def unsealed(path: Path) -> dict:
    document = json.loads(path.read_text())
    del document["digest"]
    return document


def crc32c(data: bytes) -> int:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def write_shard(path: Path, rows: int, row_bytes: int) -> int:
    chunk = INNER_ROWS * row_bytes
    chunks = -(-rows // INNER_ROWS)
    index = b"".join(struct.pack("<QQ", i * chunk, chunk) for i in range(chunks))
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.truncate(chunks * chunk)
        file.seek(chunks * chunk)
        file.write(index + struct.pack("<I", crc32c(index)))
        return file.tell()


def write_segment(store: Path, like: Path, hashes: list[str]) -> dict:
    """Writes a segment of these recordings, each like the only one of the segment `like`; gives its SegmentRef."""
    segment = unsealed(like / "segment.json")
    pattern = segment["recordings"][0]
    segment["recordings"] = []
    for i, name in enumerate(hashes):
        place = {"blake3": name, "first_row": i * ROWS, "rows": ROWS, "valid_runs": [[0, ROWS]]}
        segment["recordings"].append(copy.deepcopy(pattern) | place)
    segment["rows"] = rows = len(hashes) * ROWS
    versions = {"format": segment["format"], "normalizer": segment["normalizer"]}
    key = blake3(
        text({"kind": "segment", **versions, "settings": segment["settings"], "recordings": hashes})
    ).hexdigest()
    folder = store / "segments" / key
    columns = {"emg": segment["settings"]["emg_channels"], "joint_angles": segment["settings"]["joint_angles_channels"]}
    for file in segment["files"]:
        if file["path"].endswith("zarr.json"):
            content = (like / file["path"]).read_text()
            old, new = f"{like_rows(like)},", f"{rows},"
            content = content.replace(old, new, 1) if "/" in file["path"] else content
            inner = INNER_ROWS * -(-rows // INNER_ROWS)
            old_inner = INNER_ROWS * -(-like_rows(like) // INNER_ROWS)
            content = content.replace(f"{old_inner},", f"{inner},", 1)
            (folder / file["path"]).parent.mkdir(parents=True, exist_ok=True)
            (folder / file["path"]).write_text(content)
            file["bytes"] = len(content)
        else:
            array = file["path"].split("/")[0]
            file["bytes"] = write_shard(folder / file["path"], rows, 4 * columns[array])
        file["blocks"] = [pattern["blake3"]] * -(-file["bytes"] // BLOCK)
    content = sealed(segment)
    (folder / "segment.json").write_bytes(content)
    total = sum(file["bytes"] for file in segment["files"])
    return {"key": key, "blake3": blake3(content).hexdigest(), "bytes": total}


def like_rows(like: Path) -> int:
    return unsealed(like / "segment.json")["rows"]


def merged(moments: dict, count: int) -> dict:
    """`count` equal statistics, merged in order, as the library does."""
    total = {"n": 0, "mean": [0.0] * len(moments["mean"]), "m2": [0.0] * len(moments["mean"])}
    for _ in range(count):
        a, b = float(total["n"]), float(moments["n"])
        total["n"] += moments["n"]
        n = float(total["n"])
        for i, mean in enumerate(moments["mean"]):
            delta = mean - total["mean"][i]
            total["mean"][i] += delta * b / n
            total["m2"][i] += moments["m2"][i] + delta * delta * a * b / n
    return total


def main() -> None:
    model, store, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    cache = unsealed(next((model / "caches").iterdir()))
    like = model / "segments" / cache["segments"][0]["key"]
    per_segment = SEGMENT_BYTES // (ROWS * 144)
    hashes = [blake3(str(i).encode()).hexdigest() for i in range(count)]
    groups = [hashes[i : i + per_segment] for i in range(0, count, per_segment)]
    (store / "caches").mkdir(parents=True)
    (store / "format.json").write_text('{"format": 1}')
    pattern, recording = cache["recordings"][0], unsealed(like / "segment.json")["recordings"][0]
    cache["segments"] = [write_segment(store, like, group) for group in groups]
    place = lambda i: {"name": f"recording{i:06}", "blake3": hashes[i], "split": "train", "segment": i // per_segment}
    cache["recordings"] = [pattern | place(i) for i in range(count)]
    cache["train_emg"], cache["train_joint_angles"] = (
        merged(recording["emg"], count),
        merged(recording["joint_angles"], count),
    )
    settings = cache["settings"]
    cache["windows"] = [count * ((ROWS - settings["window_size"]) // settings["stride"] + 1), 0, 0]
    labels = ["user", "session", "stage", "side", "generalization"]
    listed = [[r["name"], r["blake3"], r["split"], [r[label] for label in labels]] for r in cache["recordings"]]
    versions = {"format": cache["format"], "normalizer": cache["normalizer"]}
    key = blake3(text({"kind": "cache", **versions, "settings": settings, "recordings": listed})).hexdigest()
    (store / "caches" / f"{key}.json").write_bytes(sealed(cache))
    print(key)


if __name__ == "__main__":
    main()
