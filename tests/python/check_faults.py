#!/usr/bin/env python3
"""Let every system call of a small build fail once, and check what comes of it: check_faults.py EMG_CACHE

strace lets the K-th call of one kind fail with one error, counted in each thread and process of its own, so that a
fault may strike several of them. Each such build has a store and a cache home of its own. It must end within a minute,
by no signal and no panic, and either give what an undisturbed build gives (and skip nothing) or fail. The same build is
then run again in the same store, undisturbed, and must give what an undisturbed build gives.

What nobody can mend is only counted, as "not started": the dynamic loader or Rust's own start ended the program before
main (the last that they do in its first thread is to set a signal stack, so the log lacks that thread's sigaltstack),
or Rust aborted it because a new thread got no signal stack. Calls that cannot fail like this (close, kill, futex, ...)
are left alone.

Needs strace, h5py and numpy. Exits 0, 1 if there is any violation, or 77 if strace cannot be used.
"""
import argparse
import collections
import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np

ERRORS = ["EIO", "ENOSPC", "EMFILE", "ENOMEM", "EINTR", "ESTALE"]
CALLS = """access brk clone clone3 copy_file_range dup2 execve fadvise64 fallocate fcntl fdatasync flock fork fstat 
    fsync ftruncate getcwd getdents64 ioctl link linkat lseek lstat madvise mkdir mkdirat mmap mprotect newfstatat open
    openat pipe2 poll ppoll pread64 preadv2 pwrite64 read readlink readlinkat readv rename renameat renameat2 rmdir
    socketpair stat statx symlink sync_file_range unlink unlinkat vfork wait4 waitid write writev""".split()
PATIENCE = 60
SETTINGS = ["data.window_size=50", "data.stride=50", "data.split_ratio=[1,0,0]", "data.on_bad_recording=skip"]


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


def tree(store):
    """The files of a store that a cache consists of, by their paths in it."""
    paths = [path for part in ("caches", "segments") for path in (store / part).rglob("*") if path.is_file()]
    return {str(path.relative_to(store)): path.read_bytes() for path in paths}


def differences(expected, found):
    paths = sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))
    said = {True: "other bytes in", False: "lacks"}
    return [f"{said[path in found] if path in expected else 'has too'} {path[:20]}..{path[60:]}" for path in paths]


class Build(contextlib.AbstractContextManager):
    """A build in a folder of its own, which is removed in the end."""

    def __init__(self, program, recordings):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="faults-"))
        self.store, self.log = self.folder / "store", self.folder / "log"
        sets = [part for setting in SETTINGS for part in ("--set", setting)]
        self.command = [program, "build", "--json", "--store", str(self.store), *sets, str(recordings)]
        self.env = {name: value for name, value in os.environ.items() if name not in ("EMG_STORE", "RUST_BACKTRACE")}
        self.env |= {"XDG_CACHE_HOME": str(self.folder / "memo"), "HOME": str(self.folder / "home")}

    def __exit__(self, *_):
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, strace=None):
        """The exit status (None: it hangs), stdout and stderr."""
        under = ["strace", "-f", "-o", str(self.log), *strace] if strace else []
        process = subprocess.Popen(under + self.command, env=self.env, start_new_session=True, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")
        try:
            stdout, stderr = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, *process.communicate()
        return process.returncode, stdout, stderr

    def compare(self, stdout, expected):
        """How what a successful build gave differs from (key, files), or from a key alone."""
        key, files = expected
        differs = [] if files is None else differences(files, tree(self.store))
        try:
            said = json.loads(stdout)
        except ValueError:
            return [f"stdout is no JSON: {stdout!r}", *differs]
        return [f"key {said['key']}"] * (said["key"] != key) + [f"skipped {why}" for why in said["skipped"]] + differs


def survey(program, recordings):
    """What an undisturbed build gives, and all (call, K, error)."""
    with Build(program, recordings) as build:
        status, stdout, stderr = build.run()
        assert status == 0 and not json.loads(stdout)["skipped"], stderr
        expected = json.loads(stdout)["key"], tree(build.store)
    most = collections.Counter()  # how often a call occurs in the thread where it occurs most often
    for _ in range(3):  # threads do not share their work alike each time
        with Build(program, recordings) as build:
            status, stdout, stderr = build.run(["-e", "trace=all"])
            assert status == 0 and not build.compare(stdout, expected), stderr
            calls = re.findall(r"^(\d+) +(\w+)\(", build.log.read_text(errors="replace"), re.M)
            for (_, call), count in collections.Counter(calls).items():
                most[call] = max(most[call], count)
    errors = {"brk": ["ENOMEM"]}  # the only one it has
    return expected, [(c, k + 1, error) for c in CALLS for k in range(most[c]) for error in errors.get(c, ERRORS)]


def plain(text, build):
    """The last line of a message, without what is another in each run."""
    line = (text.strip().splitlines() or ["(no message)"])[-1].replace(str(build.folder), "")
    return re.sub(r"0x[0-9a-f]+|[0-9a-f]{16,}|-\d+-\.*|, file descriptor.*|time = .*?, |/\S*/faults-\w+", "..", line)


def injected(log):
    """The lines of the calls that were made to fail, which strace may have split."""
    begun, lines = {}, []
    for thread, line in re.findall(r"^(\d+) +(.*)", log, re.M):
        begun[thread] = line if "<unfinished" in line else begun.get(thread, "")
        if "(INJECTED)" in line:
            lines.append(f"{thread} {begun[thread] if 'resumed>' in line else ''}{line}")
    return lines


def try_one(program, recordings, expected, triple):
    """(outcome, violations as (kind, triple, lines))"""
    call, k, error = triple
    # A brk that fails gives the old end, which no error code is. After a 0 the C library asks for the end anew.
    inject = f"inject={call}:{'retval=0' if call == 'brk' else 'error=' + error}:when={k}"
    with Build(program, recordings) as build:
        status, stdout, stderr = build.run(["--seccomp-bpf", "-y", "-e", f"trace={call},sigaltstack", "-e", inject])
        log = build.log.read_text(errors="replace")
        struck = injected(log)
        started = re.search(rf"^{log.split(' ', 1)[0]} +sigaltstack\({{", log, re.M)
        kinds, differs = [], []
        no_thread = status == -signal.SIGABRT and "alternative stack" in stderr
        if not started and status not in (0, None) or no_thread:
            outcome = "not started" + ": a thread" * no_thread
        elif status is None:
            kinds = ["hangs"]
        elif status < 0:
            kinds = [f"killed by {signal.Signals(-status).name}"]
        elif status == 101:  # what a Rust program that panics exits with
            kinds = ["panics"]
        elif status:
            outcome = f"refused ({status}): {plain(stderr, build)}"
        elif differs := build.compare(stdout, expected):
            kinds = ["exits with 0, but " + ("skips" if "skipped" in str(differs) else "gives something else")]
        else:
            outcome = "undisturbed result" if struck else "undisturbed result: no such call in this run"
        about = [f"exit status {status}", *differs, *struck, f"stderr: {stderr.strip()}"]
        if differs:  # a wrong cache stays in the store, and a right one may then share its segments
            expected = expected[0], None
        status, stdout, stderr = build.run()
        if differs := build.compare(stdout, expected) if status == 0 else [f"exit status {status}"]:
            kinds += [f"the next build {'hangs' if status is None else 'fails' if status else 'gives something else'}"]
            about += ["next build:", *differs, f"stderr: {stderr.strip()}"]
        return (kind := ", and ".join(kinds)) or outcome, [(kind, triple, about)] * bool(kinds)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("emg_cache")
    parser.add_argument("--sample", type=int, help="try so many at random, not all")
    parser.add_argument("--only", help="one system call")
    for name, default in ("--seed", 0), ("--jobs", 2):
        parser.add_argument(name, type=int, default=default)
    args = parser.parse_args()
    probe = subprocess.run(["sh", "-c", "strace -f --seccomp-bpf -o /dev/null true"], capture_output=True, text=True)
    if probe.returncode:
        print(f"skipped: {probe.stderr.strip()}")  # it is missing (sh says so), or may not trace
        return 77
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        program, recordings = os.path.abspath(args.emg_cache), pathlib.Path(folder) / "recordings"
        make_recordings(recordings)
        expected, triples = survey(program, recordings)
        print(f"{len(triples)} faults:", *(f"{call}:{k}" for call, k in {t[0]: t[1] for t in triples}.items()))
        triples = [triple for triple in triples if args.only in (None, triple[0])]
        if args.sample is not None:
            triples = random.Random(args.seed).sample(triples, min(args.sample, len(triples)))
        outcomes, violations = collections.Counter(), []
        with ThreadPoolExecutor(args.jobs) as pool:
            runs = pool.map(lambda triple: try_one(program, recordings, expected, triple), triples)
            for done, (outcome, violation) in enumerate(runs, 1):
                outcomes[outcome] += 1
                violations += violation
                if done % 100 == 0 or done == len(triples):
                    print(f"{done} of {len(triples)}, {len(violations)} violations", file=sys.stderr, flush=True)
    for kind, (call, k, error), about in sorted(violations, key=lambda violation: violation[0]):
        print(f"\nVIOLATION: {kind}: {call} {k} {error}", *about, sep="\n    ")
    print()
    for outcome, count in outcomes.most_common():
        print(f"{count:6} {outcome}")
    print(f"{len(triples)} faults tried, {len(violations)} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
