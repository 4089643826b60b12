#!/usr/bin/env python3
"""Let system calls of small commands fail once, and check what comes of it: check_faults.py EMG_CACHE EMG_TRAIN

strace lets the K-th call of one kind fail with one error, counted in each thread and process of its own, so that a
fault may strike several of them. Each such command works in a folder of its own. It must end within a minute, by no
signal and no panic, and what it leaves must be whole: a file that it replaces is the old one or the new one. If it
exits with 0, it must have done all that an undisturbed command does. The next command in the same folder, undisturbed,
must succeed and give what an undisturbed command gives.

A `close` that fails may be the first that is heard of data that did not reach the disk (on NFS, over quota). Where a
file was not synced since it was written, a command must not exit with 0 without naming the error.

A scenario is one command. Of `build`, every call may fail. Of the others, only calls that concern files below their
folders may: the K of a call is taken from undisturbed runs whose K-th call named such a file. The scenarios `kill_...`
let the process die at a call instead. A scenario's name, `kill` (all of that kind) or `all` may be given as --scenario.
--sample takes as many faults of each scenario, as far as it has them.

What nobody can mend is only counted, as "not started": the dynamic loader or Rust's own start ended the program before
main (the last that they do in its first thread is to set a signal stack, so the log lacks that thread's sigaltstack),
or Rust aborted it because a new thread got no signal stack. Calls that cannot fail like this (kill, futex, ...) are
left alone.

ORT_DYLIB_PATH names ONNX Runtime's library, as for emg-train. Needs strace, h5py and numpy. Exits 0, 1 if there is any
violation, or 77 if strace cannot be used.
"""
import argparse
import collections
import errno
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from fault_scenarios import Bench, KILLED, SCENARIOS, Trial, names

ERRORS = ["EIO", "ENOSPC", "EMFILE", "ENOMEM", "EINTR", "ESTALE"]
CLOSE_ERRORS = ["EIO", "ENOSPC", "EDQUOT"]
CALLS = """access brk clone clone3 copy_file_range dup2 execve fadvise64 fallocate fcntl fdatasync flock fork fstat
    fsync ftruncate getcwd getdents64 ioctl link linkat lseek lstat madvise mkdir mkdirat mmap mprotect newfstatat open
    openat pipe2 poll ppoll pread64 preadv2 pwrite64 read readlink readlinkat readv rename renameat renameat2 rmdir
    sendfile socketpair stat statx symlink sync_file_range unlink unlinkat vfork wait4 waitid write writev""".split()
NOT_OURS = ["execve"]  # names a scenario's folder only because it is among the arguments
KILLING = """close fdatasync fsync link linkat mkdir mkdirat open openat rename renameat renameat2 rmdir unlink
    unlinkat""".split()
WRITING = ["write", "writev", "pwrite64", "ftruncate", "fallocate", "copy_file_range", "sendfile"]
SYNCING = ["fsync", "fdatasync"]
OPENING = ["open", "openat"]
RENAMING = ["rename", "renameat", "renameat2"]


def closes(lines):
    """For each line of a log, the file that it closes, if that was open for writing: (path, whether it was written
    since it was last synced), else None."""
    writable, dirty = set(), set()  # descriptors with the paths of their files, and paths
    for line in lines:
        call, rest = re.match(r"\d* *(\w*)\(?(.*)", line).groups()
        opened = re.search(r"O_(?:WRONLY|RDWR).* = (\d+<[^>]*>)", rest)
        files = re.findall(r"\d+<[^>]*>", rest)
        paths = [file.split("<")[1][:-1] for file in files]
        closed = None
        if call in RENAMING and rest.endswith(" = 0"):
            old, new = re.findall(r'"([^"]*)"', rest)  # a file, or a folder that it lies in
            writable = {file.replace(f"<{old}", f"<{new}") for file in writable}
            dirty = {new + path.removeprefix(old) if path.startswith(old) else path for path in dirty}
        elif call in OPENING and opened:
            writable.add(opened[1])
        elif call in WRITING and paths:
            dirty.add(paths[-1 if call == "copy_file_range" else 0])
        elif call in SYNCING and rest.endswith(" = 0"):
            dirty.difference_update(paths)
        elif call == "close" and files and files[0] in writable:
            closed = paths[0], paths[0] in dirty
            writable.discard(files[0])
        yield closed


def joined(log):
    """The lines of a log. Of a call that strace has split, all is where it ends; calls that never ended come last."""
    begun, lines = {}, []
    for line in log.splitlines():
        thread, _, rest = line.partition(" ")
        if rest.endswith("<unfinished ...>"):
            begun[thread], line = line.removesuffix("<unfinished ...>"), ""
        elif resumed := re.match(r" *<\.\.\. \w+ resumed>", rest):
            line = begun.pop(thread, f"{thread} ") + rest[resumed.end():]
        lines.append(line)
    return lines + list(begun.values())


def calls_of(scenario, log):
    """(call, K) for each call in a log that may fail."""
    lines = joined(log)
    counts, found = collections.Counter(), set()
    for line, closed in zip(lines, closes(lines)):
        if not (called := re.match(r"(\d+) +(\w+)\((.*)", line)):
            continue
        thread, call, rest = called.groups()
        counts[thread, call] += 1
        ours = scenario.bench.ours.search(rest) is not None
        if call == "close" and ours and closed or call in CALLS and (
                scenario.every_call or ours and call not in NOT_OURS):
            found.add((call, counts[thread, call]))
    return found


def survey(scenario):
    """All (call, K) that may fail."""
    scenario.prepare()
    found = set()
    for _ in range(3):  # threads do not share their work alike each time
        with Trial(scenario) as trial:
            status, stdout, stderr = trial.run(scenario.command(trial.folder), ["-e", "trace=all"])
            assert status == 0, (scenario.name, status, stderr)
            assert not (wrong := scenario.look(trial, 0, stdout)), (scenario.name, wrong)
            found |= calls_of(scenario, trial.log.read_text(errors="replace"))
    return sorted(found)


def faults(calls, kill):
    """(call, K, error) to try; the error KILL is a signal."""
    if kill:
        return [(call, k, "KILL") for call, k in calls if call in KILLING]
    errors = {"brk": ["ENOMEM"], "close": CLOSE_ERRORS}  # brk has only this one
    return [(call, k, error) for call, k in calls for error in errors.get(call, ERRORS)]


def injection(fault):
    """What strace is told."""
    call, k, error = fault
    # A brk that fails gives the old end, which no error code is. After a 0 the C library asks for the end anew.
    what = "signal=KILL" if error == "KILL" else "retval=0" if call == "brk" else f"error={error}"
    traced = [call, "sigaltstack", *(OPENING + WRITING + SYNCING + RENAMING if call == "close" else [])]
    fast = ["--seccomp-bpf"] * (error != "KILL")  # with which a signal would come to nothing
    return [*fast, "-e", f"trace={','.join(traced)}", "-e", f"inject={call}:{what}:when={k}"]


def plain(text, trial):
    """The last line of a message, without what is another in each run."""
    line = (text.strip().splitlines() or ["(no message)"])[-1].replace(str(trial.folder), "")
    return re.sub(r"0x[0-9a-f]+|[0-9a-f]{16,}|-\d+-\.*|, file descriptor.*|time = .*?, |/\S*/faults-\w+", "..", line)


def unsynced(bench, lines):
    """The files whose close failed while they were not synced since they were last written."""
    lost = [closed[0] for line, closed in zip(lines, closes(lines)) if closed and closed[1] and "(INJECTED)" in line]
    # A memo may be lost, and a build's lease matters only while it runs.
    return [path for path in lost if bench.ours.search(path) and "/memo/" not in path and not path.endswith("/lease")]


def name_of(path):
    """A file's name, without what is another in each run."""
    return re.sub(r"[0-9a-f]{16,}|\.\d{6,}\..*", "..", pathlib.Path(path).name)


def where(scenario, struck):
    """What to say if no file of the scenario was struck."""
    if not struck:
        return ": no such call in this run"
    ours = scenario.every_call or any(scenario.bench.ours.search(line) for line in struck)
    return "" if ours else ": another file was struck"


def struck_by(fault, lines):
    """The lines of the calls that were made to fail, or that the process died at."""
    call, _, error = fault
    died = re.compile(rf"\d+ +{call}\([^=]*(= \?)?$" if error == "KILL" else "$.")
    return [line for line in lines if "(INJECTED)" in line or died.match(line)]


def has_started(log):
    """Whether main has begun."""
    return re.search(rf"^{log.split(' ', 1)[0]} +sigaltstack\({{", log, re.M)


def silent_loss(scenario, trial, fault, lines):
    """The kind of violation if data may be lost by a failed close, and a command that exits with 0 does not say so."""
    call, _, error = fault
    lost = unsynced(scenario.bench, lines) if call == "close" and error != "KILL" else []
    if not lost or os.strerror(getattr(errno, error)) in trial.stderr:
        return []
    return [f"exits with 0 without a word, but the close of {name_of(lost[0])} failed, and no sync came before"]


def judge(scenario, trial, fault, status, differs):
    """(outcome, kinds of violations, the calls that were struck)"""
    log = trial.log.read_text(errors="replace")
    lines = joined(log)
    struck = struck_by(fault, lines)
    outcome = f"undisturbed result{where(scenario, struck)}{scenario.remark(trial)}"
    no_thread = status == -signal.SIGABRT and "alternative stack" in trial.stderr
    kinds = []
    if fault[2] == "KILL" and status == -signal.SIGKILL:
        outcome = "killed"
    elif not has_started(log) and status not in (0, None) or no_thread:
        return "not started" + ": a thread" * no_thread, [], struck
    elif status is None:
        kinds = ["hangs"]
    elif status < 0:
        kinds = [f"killed by {signal.Signals(-status).name}"]
    elif status == 101:  # what a Rust program that panics exits with
        kinds = ["panics"]
    elif status in (1, 2):
        outcome = f"refused ({status}): {plain(trial.stderr, trial)}"
    elif status:
        kinds = [f"exits with {status}"]
    elif differs:
        kinds = [f"exits with 0, but {scenario.kind_of(differs)}"]
    else:
        kinds = silent_loss(scenario, trial, fault, lines)
    if differs and status != 0:
        kinds.append(f"after that {scenario.kind_of(differs)}")
    return outcome, kinds, struck


def try_one(scenario, fault):
    """(outcome, violations as (kind, fault, lines))"""
    with Trial(scenario) as trial:
        status, stdout, stderr = trial.run(scenario.command(trial.folder), injection(fault))
        differs = scenario.look(trial, status, stdout) + scenario.leaves(trial, fault)
        outcome, kinds, struck = judge(scenario, trial, fault, status, differs)
        trial.spoiled = bool(differs)
        about = [f"exit status {status}", *differs, *struck, f"stderr: {stderr.strip()}"]
        status, stdout, stderr = trial.run(scenario.next_command(trial.folder))
        differs = scenario.finish(trial, stdout) if status == 0 else [f"exit status {status}"]
        if differs:
            ends = "hangs" if status is None else "fails" if status else f"ends wrong: {scenario.kind_of(differs)}"
            kinds.append(f"the next command {ends}")
            about += ["next command:", *differs, f"stderr: {stderr.strip()}"]
        kind = ", and ".join(kinds)
        return kind or outcome, [(kind, fault, about)] * bool(kinds)


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("emg_cache")
    parser.add_argument("emg_train")
    parser.add_argument("--scenario", action="append", help="one, or kill for all kill_..; may be repeated")
    parser.add_argument("--sample", type=int, help="try so many at random, as many of each scenario, not all")
    parser.add_argument("--only", help="one system call")
    for name, default in ("--seed", 0), ("--jobs", 2):
        parser.add_argument(name, type=int, default=default)
    return parser.parse_args()


def chosen(args, bench):
    """(name, scenario, whether the process is killed) of the scenarios that were asked for."""
    made = {kind: kind(bench) for kind in SCENARIOS}
    known = [(made[kind].name, made[kind], False) for kind in SCENARIOS]
    known += [(f"kill_{made[kind].name}", made[kind], True) for kind in KILLED]
    wanted = args.scenario or ["all"]
    groups = {name: {name, "all", "kill" if kill else name} for name, _, kill in known}
    if unknown := [name for name in wanted if not any(name in group for group in groups.values())]:
        sys.exit(f"unknown scenario {unknown[0]}; there are: kill {' '.join(name for name, _, _ in known)}")
    return [entry for entry in known if groups[entry[0]] & set(wanted)]


def sample(tries, count, seed):
    """So many faults at random: as many of each scenario, as far as it has them."""
    left, taken = count, {}
    for i, (name, found) in enumerate(sorted(tries.items(), key=lambda entry: len(entry[1]))):
        share = min(len(found), left // (len(tries) - i))
        taken[name] = random.Random(f"{seed} {name}").sample(found, share)
        left -= share
    return {name: taken[name] for name in tries}


def try_all(name, scenario, tries, jobs):
    """Tries the faults of one scenario; gives how often each outcome was, and the violations."""
    start, outcomes, violations = time.monotonic(), collections.Counter(), []
    with ThreadPoolExecutor(jobs) as pool:
        for done, (outcome, violation) in enumerate(pool.map(lambda fault: try_one(scenario, fault), tries), 1):
            outcomes[outcome] += 1
            violations += [(name, *rest) for rest in violation]
            if done % 100 == 0 or done == len(tries):
                print(f"{name}: {done} of {len(tries)}, {len(violations)} violations", file=sys.stderr, flush=True)
    if len(tries) >= 10 and all("no such call" in outcome for outcome in outcomes):
        violations.append((name, "strace let nothing fail", tries[0], []))
    seconds = time.monotonic() - start
    return outcomes, violations, f"{seconds:.0f} s, {len(tries) / max(seconds, 1e-3):.1f}/s"


def main():
    args = arguments()
    probe = subprocess.run(["sh", "-c", "strace -f --seccomp-bpf -o /dev/null true"], capture_output=True, text=True)
    if probe.returncode:
        print(f"skipped: {probe.stderr.strip()}")  # it is missing (sh says so), or may not trace
        return 77
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        bench = Bench(pathlib.Path(folder).resolve(), os.path.abspath(args.emg_cache), os.path.abspath(args.emg_train))
        scenarios, surveyed, tries = chosen(args, bench), {}, {}
        for name, scenario, kill in scenarios:
            if scenario not in surveyed:
                surveyed[scenario] = survey(scenario)
            tries[name] = [f for f in faults(surveyed[scenario], kill) if args.only in (None, f[0])]
            most = collections.Counter(call for call, _, _ in tries[name])
            print(f"{name}: {len(tries[name])} faults:", *(f"{call}:{n}" for call, n in most.items()), flush=True)
        if args.sample is not None:
            tries = sample(tries, args.sample, args.seed)
        outcomes, violations, speeds = {}, [], {}
        for name, scenario, _ in scenarios:
            outcomes[name], found, speeds[name] = try_all(name, scenario, tries[name], args.jobs)
            violations += found
    for name, kind, (call, k, error), about in sorted(violations, key=lambda violation: violation[:2]):
        print(f"\nVIOLATION: {name}: {kind}: {call} {k} {error}", *about, sep="\n    ")
    for name in outcomes:
        print(f"\n{name}: {len(tries[name])} faults tried in {speeds[name]}")
        for outcome, count in outcomes[name].most_common():
            print(f"{count:6} {outcome}")
    print(f"\n{sum(map(len, tries.values()))} faults tried, {len(violations)} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
