"""Loads a run's TensorBoard events with the tensorboard package: check_tensorboard.py RUN EPOCHS"""

import csv
import json
import struct
import sys
import zlib

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

run, epochs = sys.argv[1], int(sys.argv[2])
events = EventAccumulator(run, size_guidance={"scalars": 0, "histograms": 0, "images": 0})
events.Reload()
tags = events.Tags()
with open(f"{run}/metrics.jsonl") as file:
    lines = [json.loads(line) for line in file]
assert [line["epoch"] for line in lines] == list(range(1, epochs + 1)), lines
for tag, key in [("train/loss", "train_loss"), ("val/loss", "val_loss"), ("val/mae_deg", "val_mae_deg"),
                 ("train/mae_deg", "train_mae_deg"), ("val/rmse_deg", "val_rmse_deg"), ("learning_rate", "learning_rate")]:
    got = [(event.step, event.value) for event in events.Scalars(tag)]
    assert [step for step, _ in got] == [line["epoch"] for line in lines], (tag, got)
    assert all(abs(value - line[key]) <= 1e-6 * abs(line[key]) for (_, value), line in zip(got, lines)), (tag, got)
assert len(events.Scalars("speed/windows_per_second")) == epochs
joints = [tag for tag in tags["histograms"] if tag.startswith("val_error_deg/")]
assert len(joints) == 20 and "val_error_deg/index_PIP_FE" in joints, joints
for tag in joints:
    for event in events.Histograms(tag):
        histogram = event.histogram_value
        assert histogram.num == sum(histogram.bucket) > 0 and 0 <= histogram.min <= histogram.sum / histogram.num <= histogram.max
# Over all joints the errors' mean is near the validation mae: they are of a part of its windows.
last = [events.Histograms(tag)[-1].histogram_value for tag in joints]
mean = sum(h.sum for h in last) / sum(h.num for h in last)
assert abs(mean - lines[-1]["val_mae_deg"]) < 0.3 * lines[-1]["val_mae_deg"], (mean, lines[-1])
images = [tag for tag in tags["images"] if tag.startswith("val_window/")]
assert images, tags
for tag in images:
    assert [event.step for event in events.Images(tag)] == list(range(1, epochs + 1))
    image = events.Images(tag)[-1]
    png = image.encoded_image_string
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", png[16:24]) == (image.width, image.height)
    data, at = b"", 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, body, crc = png[at + 4 : at + 8], png[at + 8 : at + 8 + length], png[at + 8 + length : at + 12 + length]
        assert zlib.crc32(kind + body) == struct.unpack(">I", crc)[0], kind
        data += body if kind == b"IDAT" else b""
        at += 12 + length
    pixels = zlib.decompress(data)
    assert len(pixels) == image.height * (1 + 3 * image.width)
    assert b"\xe0\x64\x1e" in pixels and b"\x28\x2c\x34" in pixels, "both lines are drawn"
if len(sys.argv) > 3:
    open(sys.argv[3], "wb").write(events.Images(images[0])[-1].encoded_image_string)
with open(f"{run}/metrics.csv") as file:
    rows = list(csv.DictReader(file))
assert [{key: float(value) for key, value in row.items()} for row in rows] == [
    {key: float(value) for key, value in line.items()} for line in lines
]
print(f"ok: {epochs} epochs, {len(tags['scalars'])} scalars, {len(joints)} histograms, {len(images)} images")
