"""What benches/data and scripts/bench share: our programs, the data they work on, their peers, and the table.

EMG_BIN names the folder of the programs (default target/release), PYTHON an interpreter that has torch, h5py and numpy.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(os.environ.get("EMG_BIN", ROOT / "target/release"))
PYTHON = os.environ.get("PYTHON", "python3")
TOOLS = ROOT / ".tools/python"
THREADS = 2
WINDOW = 2000
# Bytes of a synthetic recording of a minute.
RECORDING = 60 * 2000 * 152
# Float32 bytes of a window's EMG and angles.
WINDOW_BYTES = WINDOW * 4 * (16 + 20)
MIB = 1 << 20
GIB = 1 << 30


def command_output(command: list, **env: str | Path) -> str:
    """Stdout of a command; the script ends where it fails."""
    result = subprocess.run([str(part) for part in command], env=environment(**env), capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit code {result.returncode}\n{result.stderr}")
    return result.stdout


def environment(**more: str | Path) -> dict[str, str]:
    return os.environ | {"RAYON_NUM_THREADS": str(THREADS)} | {name: str(value) for name, value in more.items()}


def prepare() -> None:
    """Builds the programs, unless EMG_BIN names them, and fetches what the scripts need."""
    if "EMG_BIN" not in os.environ:
        subprocess.run(["scripts/setup", "--test"], cwd=ROOT, check=True)
        subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=ROOT, check=True)


def peer(script: str, *arguments, **env: str | Path) -> dict:
    """What a peer prints: JSON on its last line."""
    return json.loads(command_output([PYTHON, ROOT / "benches" / script, *arguments], **env).splitlines()[-1])


def synth(folder: Path, gib: float, *more) -> Path:
    """Recordings without metadata.csv, so that all are training data."""
    count = max(1, round(gib * GIB / RECORDING))
    command_output([BIN / "emg-cache", "synth", folder, "--recordings", count, "--seconds", 60, *more])
    (folder / "metadata.csv").unlink()
    return folder


def part_of(recordings: Path, folder: Path, count: int) -> Path:
    """A folder with the first of these recordings."""
    folder.mkdir()
    for path in sorted(recordings.glob("*.hdf5"))[: max(1, count)]:
        (folder / path.name).symlink_to(path.resolve())
    return folder


def settings(values: dict) -> list[str]:
    return [part for name, value in values.items() for part in ("--set", f"{name}={json.dumps(value)}")]


@dataclass
class Store:
    """A store of one cache."""

    folder: Path
    key: str

    @staticmethod
    def build_command(recordings: Path, folder: Path, window: int = WINDOW, stride: int = WINDOW) -> list:
        windows = {"data.window_size": window, "data.stride": stride, "data.split_ratio": [1, 0, 0]}
        chosen = settings({"data.normalize": True} | windows)
        return [BIN / "emg-cache", "build", *chosen, "--store", folder, recordings]

    @classmethod
    def build(cls, recordings: Path, folder: Path, window: int = WINDOW, stride: int = WINDOW) -> "Store":
        command = cls.build_command(recordings, folder, window, stride)
        output = command_output(command, XDG_CACHE_HOME=folder.parent / "memo")
        return cls(folder, output.splitlines()[-1])

    def arguments(self) -> list:
        return ["--store", self.folder, "--cache", self.key]

    def shards(self) -> list[Path]:
        return sorted(self.folder.glob("segments/*/*/c/0/0"))

    def bench_command(self, options: list, batch: int, workers: int = THREADS, **more) -> list:
        """Takes batches; `more` are settings, with __ for the dot. The plain LSTM has no left context, so a window has the
        angles of all its rows, like those of the peers."""
        chosen = {"training.batch_size": batch, "training.num_workers": workers, "model.type": "lstm"}
        chosen |= {name.replace("__", "."): value for name, value in more.items()}
        return [BIN / "emg-train", "bench-data", *self.arguments(), *settings(chosen), *options, "--json"]

    def fit_command(self, run: Path, *options) -> list:
        """An epoch of the configuration's network, on the CPU."""
        chosen = {"training.num_epochs": 1, "training.num_workers": THREADS, "training.device": "cpu"}
        chosen |= {"training.monitor_metric": "train_loss", "logging.monitor": "train_loss"}
        return [BIN / "emg-train", "fit", *self.arguments(), *settings(chosen), *options, "--run", run]

    def bench(self, options: list, batch: int, workers: int = THREADS, **more) -> dict:
        """What bench-data measures."""
        return json.loads(command_output(self.bench_command(options, batch, workers, **more)))


def first_batch_ms(store: Store) -> float:
    """From the start of the process to its first batch of 64. The program counts from `main` on; what comes before
    is counted as a start (and end) of the program that does nothing else."""
    start = time.perf_counter()
    command_output([BIN / "emg-train", "--version"])
    return 1e3 * (time.perf_counter() - start) + store.bench(["--seconds", 0.01], 64)["first_batch_ms"]


def read_through(paths: list[Path]) -> float:
    """Bytes per second of reading files front to back."""
    buffer, total, start = bytearray(16 << 20), 0, time.perf_counter()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return total / (time.perf_counter() - start)


def make_cold(paths: list[Path]) -> None:
    """Drops files from the page cache."""
    os.sync()
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def anonymous(pid: int) -> int:
    """Bytes of memory that are no file's, of a process and its descendants; what several share counts once."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        tasks = [(task / "children").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
        own = sum(int(rollup.split(f"\n{name}:")[1].split()[0]) for name in ("Pss_Anon", "Pss_Shmem"))
        return 1024 * own + sum(anonymous(int(child)) for children in tasks for child in children.split())
    except (OSError, IndexError):  # It ended meanwhile.
        return 0


def peak_memory(command: list, interval: float, **env: str | Path) -> int:
    """Peak of a command's anonymous memory in bytes. Looking slows it down (it walks the page tables, under the lock
    that allocations and page faults take), so its time is worth nothing."""
    command, peak = list(map(str, command)), 0
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, env=environment(**env), stdout=subprocess.DEVNULL, stderr=errors)
        while process.poll() is None:
            peak = max(peak, anonymous(process.pid))
            time.sleep(interval)
        if process.returncode:
            errors.seek(0)
            sys.exit(f"{' '.join(command)}: exit code {process.returncode}\n{errors.read()}")
    return peak


def turns(rounds: int, sides: dict[str, Callable[[], dict]]) -> dict[str, list[dict]]:
    """Results of sides that take turns; one that is not installed has one turn."""
    results: dict[str, list[dict]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            if not (results[name] and "unavailable" in results[name][0]):
                results[name].append(side())
    return results


def middle(results: list[dict], name: str) -> float | None:
    """The median of a figure; None for a side that is not installed."""
    values = [result[name] for result in results if result.get(name) is not None]
    return statistics.median(values) if values else None


def ratio(over: list[dict], under: list[dict], name: str) -> float:
    """The median of the rounds' ratios: what slows the machine down for some rounds slows both sides."""
    return statistics.median(a[name] / b[name] for a, b in zip(over, under, strict=True))


def remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def header(*names: str) -> None:
    row(*names)
    print("|---" * len(names) + "|", flush=True)


def load() -> str:
    """How many processes wanted to run in the last minute: others' count, too."""
    return f"{os.getloadavg()[0]:.1f}"


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), "an unknown processor")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB of memory; load {load()}"


def readahead(folder: Path) -> str:
    """How much the kernel reads around what is asked of a folder's disk: much of it makes a plain mapping fast."""
    device = folder.stat().st_dev
    kib = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/bdi/read_ahead_kb")
    if not kib.exists():
        kib = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    return f"{kib.read_text().strip()} KiB" if kib.exists() else "unknown"
