#!/usr/bin/env python3
"""Writes a checkpoint as PyTorch Lightning writes emg2pose's, without PyTorch: names and shapes as published, values made up.

    make_emg2pose_checkpoint.py NAMES.json PRESET OUT.ckpt EXPECTED.safetensors [--no-settings]

NAMES.json lists, in the state dict's order, published name, our name (null where we have no such tensor) and shape.
EXPECTED gets the values by our names.
"""

import collections
import json
import pickle
import sys
import types
import zipfile

import numpy as np
from safetensors.numpy import save_file


def stub(module: str, name: str, value: object) -> object:
    """Makes `module.name` importable, as pickling it by reference needs."""
    parts = module.split(".")
    for i in range(len(parts)):
        sys.modules.setdefault(".".join(parts[: i + 1]), types.ModuleType(parts[i]))
    value.__module__, value.__qualname__, value.__name__ = module, name, name
    setattr(sys.modules[module], name, value)
    return value


rebuild = stub("torch._utils", "_rebuild_tensor_v2", lambda *_: None)
STORAGES = {kind: stub("torch", kind, type(kind, (), {})) for kind in ("FloatStorage", "LongStorage")}
DictConfig = stub("omegaconf.dictconfig", "DictConfig", type("DictConfig", (), {}))


class Tensor:
    def __init__(self, key: str, values: np.ndarray):
        self.key, self.values = key, values

    def __reduce__(self):
        kind = "FloatStorage" if self.values.dtype == np.float32 else "LongStorage"
        stride = tuple(step // self.values.itemsize for step in self.values.strides)
        storage = Storage(STORAGES[kind], self.key, self.values.size)
        return rebuild, (storage, 0, self.values.shape, stride, False, collections.OrderedDict())


class Storage(tuple):
    def __new__(cls, *parts):
        return super().__new__(cls, parts)


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        if isinstance(value, Storage):
            kind, key, elements = value
            return ("storage", kind, key, "cuda:0", elements)
        return None


def main() -> None:
    names, preset, out, expected = sys.argv[1:5]
    state, ours, tensors = collections.OrderedDict(), {}, []
    for number, (published, own, shape) in enumerate(json.load(open(names))[preset]):
        rng = np.random.default_rng(number)
        values = rng.uniform(0.5, 1, shape).astype(np.float32) if own else np.array(7, np.int64)
        # Small, so that networks with these weights stay finite.
        values = values / np.float32(max(values.size, 1)) if own else values
        tensors.append(Tensor(str(number), values))
        state[published] = tensors[-1]
        if own:
            ours[own] = values
    # As PyTorch does: an attribute of the dictionary.
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    settings = DictConfig()
    settings._content = {"network": {"_target_": "emg2pose.networks"}, "list": [1, 2]}
    content = {"epoch": 3, "pytorch-lightning_version": "2.2.2", "state_dict": state, "lr_schedulers": []}
    content["optimizer_states"] = [{"state": {0: {"exp_avg": tensors[0]}}, "param_groups": [{"lr": 1e-3}]}]
    if "--no-settings" not in sys.argv:
        content["hyper_parameters"] = {"network_conf": settings, "provide_initial_pos": preset.startswith("tracking")}
    with zipfile.ZipFile(out, "w") as file:
        with file.open("archive/data.pkl", "w") as data:
            Pickler(data, protocol=2).dump(content)
        for tensor in tensors:
            file.writestr(f"archive/data/{tensor.key}", tensor.values.tobytes())
    save_file(ours, expected)


if __name__ == "__main__":
    main()
