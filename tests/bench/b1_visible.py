"""B1: how long until an update on node-1's mount is to be seen on node-2, the cluster being idle.

Seen in node-2's lower directory, by inotify (what a program on that machine that watches the disk
sees), and through node-2's mount, by looking every 20 us. The clock runs from before the first
system call of the update. The floor: two gRPC round trips on loopback and one synced RocksDB write;
a round trip is a unary call, or (the stricter one) a message and its answer on an open stream.
"""

import os
import statistics
import subprocess
import time

import trees
from cluster import Cluster
from peers import Lsyncd, RsyncLoop

OPERATIONS = {
    "create": "create 1 KiB",
    "append": "append 1 KiB",
    "overwrite": "overwrite 4 KiB",
    "rename": "rename",
    "unlink": "unlink",
}


def percentile(sorted_values, part):
    return sorted_values[min(len(sorted_values) - 1, int(part * len(sorted_values)))]


def probe(settings, write, watch, operation, count, polling, pause_ms=5):
    """Sorted latencies in microseconds."""
    command = [
        f"{settings.bin}/visible_probe", "--write", write, "--watch", watch,
        "--operation", operation, "--count", str(count), "--pause-ms", str(pause_ms),
    ]
    if polling:
        command.append("--poll")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return sorted(float(line) for line in done.stdout.split())


def floors(settings, report, count):
    """Medians over the runs of the floors' p50 and p99, by kind of round trip."""
    p50, p99 = {"unary": [], "stream": []}, {"unary": [], "stream": []}
    for run in range(settings.runs):
        report.progress(f"B1 floor, run {run + 1}")
        done = subprocess.run(
            [f"{settings.bin}/floor", "--data", settings.fresh(f"floor-{run}"),
             "--count", str(count)],
            capture_output=True, text=True, check=True,
        )
        columns = list(zip(*(map(float, line.split()) for line in done.stdout.splitlines())))
        for kind, column in (("unary", 0), ("stream", 1)):
            values = sorted(columns[column])
            p50[kind].append(percentile(values, 0.5))
            p99[kind].append(percentile(values, 0.99))
    for kind in ("unary", "stream"):
        report.add("B1", f"floor ({kind})", "p50", "us", p50[kind])
        report.add("B1", f"floor ({kind})", "p99", "us", p99[kind])
    return (
        {kind: statistics.median(values) for kind, values in p50.items()},
        {kind: statistics.median(values) for kind, values in p99.items()},
    )


def measure(settings, report, who, write_root, watch_root, count, polling):
    """For each operation the (p50s, p99s, maxima) of the runs."""
    result = {}
    for operation, title in OPERATIONS.items():
        p50, p99, most = [], [], []
        for run in range(settings.runs):
            report.progress(f"B1 {who}: {title}, run {run + 1}")
            name = f"{operation}-{'poll' if polling else 'inotify'}-{run}"
            os.mkdir(f"{write_root}/{name}")
            wait_for(f"{watch_root}/{name}")
            values = probe(
                settings, f"{write_root}/{name}", f"{watch_root}/{name}", operation, count, polling
            )
            p50.append(percentile(values, 0.5))
            p99.append(percentile(values, 0.99))
            most.append(values[-1])
        result[operation] = (p50, p99, most)
    return result


def wait_for(path):
    """Until the directory has arrived (bounded by the caller's patience: 60 s)."""
    deadline = time.monotonic() + 60
    while not os.path.isdir(path):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{path} did not arrive within 60 s")
        time.sleep(0.005)


def run(settings, report):
    count = 40 if settings.quick else 200
    floor50, floor99 = floors(settings, report, count)
    ours = {}
    report.progress("B1 cluster")
    with Cluster(settings, "b1", lambda lower: trees.flat_files(lower, 1000)) as cluster:
        for seen_in, polling in (("lower", False), ("mount", True)):
            watch = cluster.lower("node-2") if seen_in == "lower" else cluster.mount("node-2")
            measured = measure(
                settings, report, f"seen in node-2's {seen_in}", cluster.mount("node-1"), watch,
                count, polling,
            )
            if seen_in == "lower":
                ours = measured
            for operation, (p50, p99, most) in measured.items():
                case = f"{OPERATIONS[operation]}, seen in {seen_in}"
                name = "floor (unary) p50"
                report.add("B1", case, "p50", "us", p50, name, floor50["unary"], 3.0)
                name = "floor (unary) p99"
                report.add("B1", case, "p99", "us", p99, name, floor99["unary"], 10.0)
                report.add("B1", case, "max", "us", most)
                name = "floor (stream) p50"
                report.add("B1", case, "p50 to stream", "us", p50, name, floor50["stream"])
        cluster.settle()
        cluster.verify()

    for kind in ("rsync", "lsyncd-0", "lsyncd-1"):
        work = settings.fresh(f"b1-{kind}")
        source, target = f"{work}/source", f"{work}/target"
        trees.flat_files(source, 1000)
        if kind == "rsync":
            peer = RsyncLoop(source, target)
        else:
            peer = Lsyncd(source, target, int(kind[-1]), f"{work}/lsyncd")
        few = 3 if kind == "lsyncd-1" or settings.quick else 10
        with peer:
            measured = measure(settings, report, peer.name, source, target, few, True)
        for operation, (p50, _, most) in measured.items():
            case = f"{OPERATIONS[operation]}, {peer.name}"
            mine = statistics.median(ours[operation][0])
            report.add("B1", case, "p50", "us", p50, "InterMezzo p50 (lower)", mine)
            report.add("B1", case, "max", "us", most)
