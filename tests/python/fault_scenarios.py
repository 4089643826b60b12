"""The commands that check_faults.py disturbs, and what must hold of what they leave."""
import contextlib
import csv
import functools
import json
import os
import pathlib
import platform
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time

import h5py
import numpy as np

PATIENCE = 60
SMALL = ["data.window_size=50", "data.stride=50", "data.split_ratio=[1,0,0]", "data.on_bad_recording=skip"]
STAGES = "[{in_conv_kernel: 5, in_conv_stride: 4, num_blocks: 1, channels: 4, feature_width: 4, kernel_width: 5}]"
TRAINING = ["model.type=tds_mlp", f"model.tds_stages={STAGES}", "model.hidden_size=8", "data.window_size=400",
            "data.stride=400", "training.batch_size=8", "training.num_workers=1", "logging.save_best_only=false",
            "logging.save_every=1"]
EPOCHS = 3
TEMPORARY = re.compile(r"\..*[0-9a-f]{16}")


def sets(settings):
    return [part for setting in settings for part in ("--set", setting)]


def make_recordings(folder):
    """One contiguous recording with attributes, one of gzip chunks, one that only the HDF5 library can read."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    kinds = [("contiguous", "<f8", {}), ("gzip", "<f4", {"chunks": (64,), "compression": "gzip", "shuffle": True}),
             ("swapped", ">f4", {})]
    for name, angle, storage in kinds:
        fields = [("time", "<f8"), ("joint_angles", angle, (20,)), ("emg", angle[0] + "f4", (16,))]
        rows = np.zeros(300, np.dtype(fields))
        rows["time"] = np.arange(300) / 2000
        rows["joint_angles"] = rng.uniform(0.1, 1, (300, 20))
        rows["emg"] = rng.normal(size=(300, 16))
        with h5py.File(folder / f"{name}.hdf5", "w") as file:
            file.create_dataset("emg2pose/timeseries", data=rows, **storage)
            if name == "contiguous":
                file["emg2pose"].attrs.update({"user": "someone", "session": "a session", "sample_rate": 2000.0})
    (folder / "metadata.csv").write_text("filename,stage\n" + "".join(f"{name},walking\n" for name, _, _ in kinds))


def tree(folder, parts=("caches", "segments")):
    """The files below some parts of a folder, by their paths in it; for a store, what caches consist of."""
    paths = [path for part in parts for path in (folder / part).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def names(folder):
    """All that is below a folder: the bytes of files, None for folders."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def differences(expected, found):
    paths = sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))
    said = {True: "other bytes in", False: "lacks"}
    return [f"{said[path in found] if path in expected else 'has too'} {short(path)}" for path in paths]


def short(path):
    return f"{path[:20]}..{path[60:]}" if len(path) > 80 else path


def temporary(*folders):
    """What is left of files that were to replace others."""
    found = [path.name for folder in folders if folder.is_dir() for path in folder.iterdir()]
    return [f"leaves the temporary file {name[:-16]}.." for name in sorted(found) if TEMPORARY.fullmatch(name)]


def read_json(stdout):
    with contextlib.suppress(ValueError):
        return json.loads(stdout)


def checkpoint(path):
    """The epoch of a checkpoint and its tensors' bytes by name. ValueError if it is not whole."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    progress = json.loads(header.pop("__metadata__")["emg"])["progress"]
    spans = {name: slice(*tensor["data_offsets"]) for name, tensor in header.items()}
    if len(data) - start != max(span.stop for span in spans.values()):
        raise ValueError("its length is not what its header says")
    if progress["batch"]:
        raise ValueError("it was saved within an epoch")
    return progress["epoch"], {name: data[start:][span] for name, span in spans.items()}


def epochs_of(run):
    """The whole lines of metrics.jsonl, without how long anything took, and what follows the last of them."""
    path = run / "metrics.jsonl"
    *lines, rest = (path.read_text() if path.exists() else "").split("\n")
    return [{key: value for key, value in json.loads(line).items() if not key.endswith("_seconds")}
            for line in lines], rest


class Bench:
    """What all scenarios share, made when it is needed: recordings, stores, trained runs."""

    def __init__(self, folder, emg_cache, emg_train):
        self.programs = {"emg-cache": emg_cache, "emg-train": emg_train}
        self.inputs, self.tries, self.home = (folder / name for name in ("inputs", "tries", "home"))
        for path in self.inputs, self.tries, self.home:
            path.mkdir()
        self.ours = re.compile(f"{re.escape(str(folder))}/(inputs|tries)/")

    def env(self, home):
        env = {k: v for k, v in os.environ.items() if k not in ("EMG_STORE", "RUST_BACKTRACE", "RUST_LOG")}
        return env | {"XDG_CACHE_HOME": str(home / "memo"), "HOME": str(home / "home")}

    def run(self, command, home=None, under=()):
        """The exit status (None: it hangs), stdout and stderr."""
        command = [*under, self.programs[command[0]], *map(str, command[1:])]
        process = subprocess.Popen(command, env=self.env(home or self.home), start_new_session=True, cwd="/", text=True,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   errors="replace")
        try:
            stdout, stderr = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, *process.communicate()
        return process.returncode, stdout, stderr

    def must(self, *command):
        """The stdout of a command that must succeed."""
        status, stdout, stderr = self.run(command)
        assert status == 0, (command, status, stderr)
        return stdout

    def build(self, store, settings, *recordings):
        """The key of a cache that it builds."""
        said = self.must("emg-cache", "build", "--json", "--store", store, *sets(settings), *recordings)
        return json.loads(said)["key"]

    @functools.cached_property
    def recordings(self):
        make_recordings(self.inputs / "recordings")
        return self.inputs / "recordings"

    @functools.cached_property
    def store(self):
        """A store with the cache that is trained on, and that cache's key."""
        self.must("emg-cache", "synth", self.inputs / "synth", "--recordings", 4, "--seconds", 1, "--users", 4)
        store = self.inputs / "store"
        return store, self.build(store, TRAINING, self.inputs / "synth")

    def fit(self, run, epochs, keep, *more):
        """The command that trains."""
        store, key = self.store
        settings = [*TRAINING, f"training.num_epochs={epochs}", f"logging.keep_last={keep}"]
        cache = [] if "--resume" in more else ["--cache", key]  # a run knows its own
        return ["emg-train", "fit", "--store", store, *cache, *sets(settings), "--run", run, *more]

    @functools.cached_property
    def whole(self):
        """A run of all epochs, with a checkpoint of each."""
        self.must(*self.fit(self.inputs / "whole", EPOCHS, 100))
        return self.inputs / "whole"

    @functools.cached_property
    def begun(self):
        """A run of one epoch."""
        self.must(*self.fit(self.inputs / "begun", 1, 2))
        return self.inputs / "begun"

    @functools.cached_property
    def resumed(self):
        """The same, continued to the last epoch, with a checkpoint of each."""
        run = self.inputs / "resumed"
        shutil.copytree(self.begun, run)
        self.must(*self.fit(run, EPOCHS, 100, "--resume"))
        return run


class Trial(contextlib.AbstractContextManager):
    """A folder for one command and those after it; it is removed in the end."""

    def __init__(self, scenario):
        self.bench = scenario.bench
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="faults-", dir=self.bench.tries))
        self.log = self.folder / "log"
        # Without a home, ONNX Runtime keeps no database there, whose calls would shift the counts.
        self.home = self.folder if scenario.has_memo else pathlib.Path("/dev/null")
        self.spoiled = False  # a wrong cache stays in the store, and a right one may then share its segments
        scenario.fill(self.folder)

    def __exit__(self, *_):
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, command, strace=None):
        under = ["strace", "-f", "-y", "-o", str(self.log), *strace] if strace else []
        status, stdout, stderr = self.bench.run(command, self.home, under)
        if strace:
            self.stderr = stderr  # of the disturbed command
        return status, stdout, stderr


class Scenario:
    """A command, what must hold of what it leaves, and the next command."""

    has_memo = False  # a memo of its own is among its files
    every_call = False  # also those that concern no file of the scenario

    def __init__(self, bench):
        self.bench = bench

    @property
    def name(self):
        return re.sub(r"(?<!^)([A-Z])", r"_\1", type(self).__name__).lower()

    def prepare(self):
        """Makes what its trials share."""

    def fill(self, folder):
        """Makes what the command starts from."""

    def command(self, folder):
        raise NotImplementedError

    def next_command(self, folder):
        return self.command(folder)

    def look(self, trial, status, stdout):
        """What is wrong after the disturbed command."""
        raise NotImplementedError

    def leaves(self, trial, fault):
        """What else a command must not leave that was not killed."""
        return []

    def kind_of(self, differs):
        """The kind of what is wrong, for a summary."""
        return differs[0]

    def remark(self, trial):
        """What to add to the outcome of a disturbed command that did nothing wrong."""
        return ""

    def finish(self, trial, stdout):
        """What is wrong after the next command, which exited with 0."""
        return self.look(trial, 0, stdout)


class Build(Scenario):
    """A build of three recordings into a new store."""

    has_memo = every_call = True

    def prepare(self):
        with Trial(self) as trial:
            status, stdout, stderr = trial.run(self.command(trial.folder))
            assert status == 0 and not json.loads(stdout)["skipped"], stderr
            self.key, self.files = json.loads(stdout)["key"], tree(trial.folder / "store")

    def command(self, folder):
        return ["emg-cache", "build", "--json", "--store", folder / "store", *sets(SMALL), self.bench.recordings]

    def look(self, trial, status, stdout):
        if status != 0:
            return []
        differs = [] if trial.spoiled else differences(self.files, tree(trial.folder / "store"))
        said = read_json(stdout)
        if said is None:
            return [f"stdout is no JSON: {stdout!r}", *differs]
        skipped = [f"skipped {why}" for why in said["skipped"]]
        return [f"key {said['key']}"] * (said["key"] != self.key) + skipped + differs

    def kind_of(self, differs):
        return "skips" if "skipped" in str(differs) else "gives something else"


class Fit(Scenario):
    """A training of three epochs, with checkpoints of the last two."""

    def prepare(self):
        self.learn(self.bench.whole)

    def learn(self, run):
        """Takes an undisturbed run as what is right."""
        found = [checkpoint(path) for path in (run / "checkpoints").glob("*.safetensors")]
        self.states = {epoch: tensors for epoch, tensors in found}
        self.best = checkpoint(run / "checkpoints/best.safetensors")
        self.lines = epochs_of(run)[0]
        assert sorted(self.states) == [1, 2, 3] and len(self.lines) == EPOCHS, (sorted(self.states), self.lines)
        # The number of checkpoints to keep is another.
        config = (run / "config.yaml").read_text().replace("keep_last: 100", "keep_last: 2")
        self.right = {"model.onnx": [(run / "model.onnx").read_bytes()], "config.yaml": [config.encode()]}
        self.least = 0  # lines that are there in any case

    def command(self, folder):
        return self.bench.fit(folder / "run", EPOCHS, 2)

    def next_command(self, folder):
        more = ["--resume"] * (folder / "run/config.yaml").exists()
        return self.bench.fit(folder / "run", EPOCHS, 2, *more)

    def look(self, trial, status, stdout):
        run = trial.folder / "run"
        if (wrong := self.broken(run)) or status != 0:
            return wrong
        warned = "warning: cannot write" in trial.stderr  # which may cost lines of metrics
        return [lack for lack in self.unfinished(run) if not (warned and lack.startswith("metrics"))]

    def finish(self, trial, stdout):
        run = trial.folder / "run"
        return self.broken(run) or self.unfinished(run) + temporary(run, run / "checkpoints")

    def broken(self, run):
        """What of a run is not whole, or not of this training."""
        wrong = [f"{path.name}: {why}" for path in sorted((run / "checkpoints").glob("*.safetensors"))
                 if (why := self.wrong_checkpoint(path))]
        wrong += [f"{name} is neither old nor new" for name, right in self.right.items()
                  if (run / name).exists() and (run / name).read_bytes() not in right]
        try:
            lines, rest = epochs_of(run)
        except ValueError as error:
            return [*wrong, f"metrics.jsonl: {error}"]
        if rest or lines != self.lines[:len(lines)] or len(lines) < self.least:
            wrong.append(f"metrics.jsonl holds epochs {[line['epoch'] for line in lines]}, then {rest[:20]!r}")
        return wrong

    def wrong_checkpoint(self, path):
        try:
            epoch, tensors = checkpoint(path)
        except (ValueError, KeyError) as error:
            return f"not whole: {error!r}"
        if path.stem not in ("best", "last", f"epoch_{epoch:05}"):
            return f"is of epoch {epoch}"
        if epoch == 0:  # its weights are right if training that continues from it ends right
            return "moments of a start are not 0" if any(tensors["moment1"]) or any(tensors["moment2"]) else None
        return None if self.states.get(epoch) == tensors else f"other tensors than epoch {epoch} has"

    def unfinished(self, run):
        """What a whole run has that this one lacks."""
        lacks = [f"lacks {name}" for name in self.right if not (run / name).exists()]
        lacks += [f"{name} is the old one" for name, right in self.right.items()
                  if (run / name).exists() and (run / name).read_bytes() == right[0] and len(right) > 1]
        for name, right in ("last", (EPOCHS, self.states[EPOCHS])), ("best", self.best):
            path = run / f"checkpoints/{name}.safetensors"
            if not path.exists() or self.wrong_checkpoint(path) or checkpoint(path) != right:
                lacks.append(f"{name}.safetensors is not that of the end")
        if (count := len(epochs_of(run)[0])) != EPOCHS:
            lacks.append(f"metrics.jsonl has {count} epochs")
        rows = list(csv.DictReader((run / "metrics.csv").open())) if (run / "metrics.csv").exists() else []
        if [row.get("epoch") for row in rows] != [str(line["epoch"]) for line in self.lines]:
            lacks.append(f"metrics.csv has {len(rows)} epochs")
        return lacks


class Resume(Fit):
    """The same, continued after one epoch."""

    def prepare(self):
        self.learn(self.bench.resumed)
        self.least = 1
        for name, right in self.right.items():
            right.insert(0, (self.bench.begun / name).read_bytes())

    def fill(self, folder):
        shutil.copytree(self.bench.begun, folder / "run")

    def command(self, folder):
        return self.next_command(folder)

    def broken(self, run):
        lost = [f"has lost {name}" for name in ("checkpoints/last.safetensors", "checkpoints/best.safetensors",
                                                "metrics.jsonl", *self.right) if not (run / name).exists()]
        return lost + super().broken(run)


class Gc(Scenario):
    """Removes an unpinned cache, a segment that no cache uses, and builds that are dead, from a store with a pinned
    cache. All is old."""

    has_memo = True

    def prepare(self):
        self.store = self.bench.inputs / "store-gc"
        names_of = [self.bench.recordings / f"{name}.hdf5" for name in ("contiguous", "gzip", "swapped")]
        self.pinned, _, orphan = [self.bench.build(self.store, SMALL, recording) for recording in names_of]
        self.bench.must("emg-cache", "pin", self.pinned, "--store", self.store)
        (self.store / f"caches/{orphan}.json").unlink()
        for name in self.dead_builds():
            (self.store / "tmp" / name / "emg").mkdir(parents=True)
            (self.store / "tmp" / name / "emg/zarr.json").write_text("{}")
        age(self.store)
        (self.store / "tmp/elsewhere-boot-1-1").mkdir()  # young, and of another machine, so that it stays
        self.before = names(self.store)
        with Trial(self) as trial:
            self.bench.must(*self.command(trial.folder))
            self.after = names(trial.folder / "store")
        counts = [len(list((self.store / part).iterdir())) for part in ("caches", "segments", "tmp")]
        left = sum(path.count("/") == 1 for path in self.after)
        assert counts == [2, 3, 3] and left == 4, (counts, left)  # a cache, its pin and segment, a young build

    def dead_builds(self):
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text()
        plain = [re.sub("[^0-9A-Za-z]", "", text) for text in (platform.node(), boot)]
        return ["-".join([*plain, "4194305", "0"]), "elsewhere-boot-1-0"]

    def fill(self, folder):
        shutil.copytree(self.store, folder / "store")

    def command(self, folder):
        return ["emg-cache", "gc", "--unpinned", "--json", "--store", folder / "store"]

    def look(self, trial, status, stdout):
        store = trial.folder / "store"
        now = names(store)
        kept = ("caches/", "segments/", "pins/", "format.json")
        wrong = [f"has changed {short(path)}" for path in now if path.startswith(kept) and
                 (path not in self.before or self.before[path] != now[path])]
        wrong += [f"has lost {short(path)}" for path in self.after if path not in now]
        for manifest in (store / "caches").glob("*.json"):
            for segment in json.loads(manifest.read_text())["segments"]:
                folder = f"segments/{segment['key']}/"
                wrong += [f"a cache that is there lacks {short(path)}" for path in self.before
                          if path.startswith(folder) and path not in now]
        trial.warned = any(word in trial.stderr + stdout for word in ("warning:", "os error"))
        if trial.run(["emg-cache", "verify", self.pinned, "--store", store])[0] != 0:
            wrong.append("the pinned cache does not verify")
        return wrong + (self.said(stdout) if status == 0 else [])

    def said(self, stdout):
        """What is there although it is said to be removed."""
        said = read_json(stdout)
        if said is None:
            return [f"stdout is no JSON: {stdout!r}"]
        return [f"{removal['why']} is there" for removal in said.get("removed", []) if os.path.exists(removal["path"])]

    def remark(self, trial):
        less = len(names(trial.folder / "store")) > len(self.after)
        return (", but removes less, " + ("and says why" if trial.warned else "without a word")) * less

    def finish(self, trial, stdout):
        now = names(trial.folder / "store")
        # An empty young folder in tmp might be that of a build that just begins.
        begun = [path for path in now if re.fullmatch("tmp/[^/]*", path) and path not in self.after and
                 not any(other.startswith(f"{path}/") for other in now)]
        return differences(self.after, {path: now[path] for path in now if path not in begun}) + self.look(
            trial, 0, stdout)


def age(folder):
    """Makes all below a folder two days old."""
    then = time.time() - 2 * 86400
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


class Repair(Scenario):
    """Repairs a shard and a small file of a segment that were damaged."""

    has_memo = True

    def prepare(self):
        self.store = self.bench.inputs / "store-repair"
        self.key = self.bench.build(self.store, SMALL, self.bench.recordings)
        self.right = tree(self.store)
        for name in "emg/c/0/0", "joint_angles/zarr.json":
            (path,) = self.store.glob(f"segments/*/{name}")
            data = bytearray(path.read_bytes())
            data[100] ^= 1
            path.write_bytes(data)
        self.damaged = tree(self.store)

    def fill(self, folder):
        shutil.copytree(self.store, folder / "store")

    def command(self, folder):
        return ["emg-cache", "repair", "--store", folder / "store", *sets(SMALL), self.key, self.bench.recordings]

    def look(self, trial, status, stdout):
        found = tree(trial.folder / "store")
        if status == 0:
            return differences(self.right, found)
        neither = [path for path in self.right if found.get(path) not in (self.right[path], self.damaged[path])]
        return [f"{short(path)} is neither old nor right" for path in neither] + [
            f"has too {short(path)}" for path in found if path not in self.right]

    def finish(self, trial, stdout):
        store = trial.folder / "store"
        left = any(path.is_file() for path in (store / "tmp").rglob("*"))
        wrong = self.look(trial, 0, stdout) + ["leaves files in tmp"] * left
        if trial.run(["emg-cache", "verify", "--store", store])[0] != 0:
            wrong.append("the store does not verify")
        return wrong


class Stage(Scenario):
    """Evaluates a run on a copy of its cache, which it makes."""

    def prepare(self):
        with Trial(self) as trial:
            self.figures = json.loads(self.bench.must(*self.command(trial.folder)))
        (self.segment,) = (self.bench.store[0] / "segments").iterdir()

    def command(self, folder):
        return ["emg-train", "eval", self.bench.whole, "--stage", folder / "stage", "--json"]

    def look(self, trial, status, stdout):
        if status != 0:
            return []
        wrong = ["gives other figures"] if read_json(stdout) != self.figures else []
        return wrong + differences(tree(self.segment.parent, ["."]), self.copies(trial.folder / "stage"))

    def copies(self, stage):
        """The files of segments in a staging folder, wherever in it they lie, without what staging notes about them."""
        found = {path[path.find(self.segment.name):]: data for path, data in tree(stage, ["."]).items()
                 if self.segment.name in path}
        return {path: data for path, data in found.items() if not path.endswith("/stamps.json")}


class Replace(Scenario):
    """A command that replaces a file by another."""

    file = ""
    versions = ()  # the older and the newer file

    def prepare(self):
        self.versions = [self.made(older) for older in (True, False)]
        assert self.versions[0] != self.versions[1]

    def made(self, older):
        with Trial(self) as trial:
            self.bench.must(*self.make(trial.folder, older))
            return (trial.folder / "out" / self.file).read_bytes()

    def fill(self, folder):
        (folder / "out").mkdir()
        if self.versions:
            (folder / "out" / self.file).write_bytes(self.versions[0])

    def make(self, folder, older):
        """The command for the older or the newer file."""
        raise NotImplementedError

    def command(self, folder):
        return self.make(folder, False)

    def look(self, trial, status, stdout):
        path = trial.folder / "out" / self.file
        if not path.exists():
            return [f"{self.file} is missing"]
        data = path.read_bytes()
        if data not in self.versions:
            return [f"{self.file} is neither old nor new ({'empty' if not data else 'not empty'})"]
        if status == 0 and data != self.versions[1]:
            return [f"{self.file} is the old one"]
        return []

    def leaves(self, trial, fault):
        call, _, error = fault
        return [] if error == "KILL" or call in ("unlink", "unlinkat") else temporary(trial.folder / "out")


class PredictHdf5(Replace):
    file = "predicted.hdf5"

    def make(self, folder, older):
        model = (self.bench.begun if older else self.bench.whole) / "model.onnx"
        recording = self.bench.inputs / "synth/synth-00000_left.hdf5"
        return ["emg-train", "predict", model, recording, "--out", folder / "out" / self.file]


class PredictCsv(PredictHdf5):
    file = "predicted.csv"


class Report(Replace):
    file = "report.html"

    def make(self, folder, older):
        run = self.bench.begun if older else self.bench.whole
        return ["emg-train", "report", run, "--no-eval", "--out", folder / "out" / self.file]


class Export(Replace):
    file = "model.onnx"

    def make(self, folder, older):
        run = self.bench.begun if older else self.bench.whole
        return ["emg-train", "export", run, "--out", folder / "out" / self.file]


class Plot(Replace):
    file = "cache.svg"

    def prepare(self):
        self.store = self.bench.inputs / "store-plot"
        files = [self.bench.recordings / f"{name}.hdf5" for name in ("contiguous", "gzip")]
        self.keys = [self.bench.build(self.store, SMALL, file) for file in files]
        super().prepare()

    def make(self, folder, older):
        key = self.keys[0 if older else 1]
        return ["emg-cache", "info", key, "--store", self.store, "--plot", folder / "out" / self.file]


class Pin(Scenario):
    """Pins a cache of a store."""

    has_memo = True

    def prepare(self):
        self.store = self.bench.inputs / "store-pin"
        self.key = self.bench.build(self.store, SMALL, self.bench.recordings / "contiguous.hdf5")
        self.before = names(self.store)
        self.after = self.before | {"pins": None, f"pins/{self.key}": b""}

    def fill(self, folder):
        shutil.copytree(self.store, folder / "store")

    def command(self, folder):
        return ["emg-cache", "pin", self.key, "--store", folder / "store"]

    def look(self, trial, status, stdout):
        now = names(trial.folder / "store")
        done = self.after if status == 0 else {path: data for path, data in self.after.items() if path in now}
        return differences(self.before | done, now)


SCENARIOS = [Build, Fit, Resume, Gc, Repair, Stage, PredictHdf5, PredictCsv, Report, Export, Plot, Pin]
KILLED = [Build, Fit, Gc, Repair, PredictHdf5, PredictCsv]
