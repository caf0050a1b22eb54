"""B3: one changed file in trees of 10^3, 10^4 and 10^5 files: latency, CPU, bytes on the wire."""

import os
import statistics
import time

import trees
from b1_visible import percentile, probe, wait_for
from cluster import Cluster
from peers import Lsyncd, rsync_once

CHANGES = 50


def measure_cluster(settings, report, files):
    """Values of the runs: p50 in us, CPU ms a change, bytes a change sent by node-1, received by
    node-2."""
    p50, cpu, sent, received = [], [], [], []
    with Cluster(
        settings, f"b3-{files}", lambda lower: trees.flat_files(lower, files)
    ) as cluster:
        cluster.await_quiet()
        for run in range(settings.runs):
            report.progress(f"B3 {files} files, run {run + 1}")
            name = f"changed-{run}"
            os.mkdir(f"{cluster.mount('node-1')}/{name}")
            wait_for(f"{cluster.lower('node-2')}/{name}")
            cluster.settle()
            before_cpu = cluster.cpu_seconds()
            before_sent = cluster.wire_bytes("node-1")[0]
            before_received = cluster.wire_bytes("node-2")[1]
            values = probe(
                settings, f"{cluster.mount('node-1')}/{name}",
                f"{cluster.lower('node-2')}/{name}", "create", CHANGES, False, 1,
            )
            sent.append((cluster.wire_bytes("node-1")[0] - before_sent) / CHANGES)
            received.append((cluster.wire_bytes("node-2")[1] - before_received) / CHANGES)
            cpu.append((cluster.cpu_seconds() - before_cpu) * 1000 / CHANGES)
            p50.append(percentile(values, 0.5))
        cluster.verify()
    return p50, cpu, sent, received


def measure_rsync(settings, report, files):
    """One pass of rsync after one file changed: seconds, CPU, bytes."""
    work = settings.fresh(f"b3-rsync-{files}")
    trees.flat_files(f"{work}/source", files)
    rsync_once(f"{work}/source", f"{work}/target")
    seconds, cpu, wire = [], [], []
    for run in range(settings.runs):
        report.progress(f"B3 rsync {files} files, run {run + 1}")
        with open(f"{work}/source/changed-{run}", "wb") as out:
            out.write(os.urandom(1024))
        took, used, sent = rsync_once(f"{work}/source", f"{work}/target")
        seconds.append(took * 1e6)
        cpu.append(used * 1000)
        wire.append(sent)
    return seconds, cpu, wire


def measure_lsyncd(settings, report, files, delay):
    """Until the changed file is there."""
    work = settings.fresh(f"b3-lsyncd-{delay}-{files}")
    source, target = f"{work}/source", f"{work}/target"
    trees.flat_files(source, files)
    latency = []
    with Lsyncd(source, target, delay, f"{work}/lsyncd") as peer:
        for run in range(settings.runs):
            report.progress(f"B3 {peer.name} {files} files, run {run + 1}")
            begin = time.monotonic()
            with open(f"{source}/changed-{run}", "wb") as out:
                out.write(os.urandom(1024))
            while not os.path.exists(f"{target}/changed-{run}"):
                if time.monotonic() - begin > 60:
                    raise RuntimeError(f"{peer.name} did not copy within 60 s")
                time.sleep(0.001)
            latency.append((time.monotonic() - begin) * 1e6)
    return latency


def run(settings, report):
    sizes = (1000, 10000) if settings.quick else (1000, 10000, 100000)
    smallest = None
    for files in sizes:
        p50, cpu, sent, received = measure_cluster(settings, report, files)
        medians = [statistics.median(values) for values in (p50, cpu, sent, received)]
        smallest = smallest or medians
        case = f"one file of {files:,}"
        base = f"of {sizes[0]:,}"
        aim = 1.3 if files > sizes[0] else None
        report.add("B3", case, "p50", "us", p50, base, smallest[0], aim)
        report.add("B3", case, "CPU, all processes", "ms", cpu, base, smallest[1], aim)
        report.add("B3", case, "wire from node-1", "B", sent, base, smallest[2], aim)
        report.add("B3", case, "wire to node-2", "B", received, base, smallest[3], aim)

        seconds, used, wire = measure_rsync(settings, report, files)
        report.add("B3", f"{case}, rsync pass", "latency", "us", seconds, "InterMezzo", medians[0])
        report.add("B3", f"{case}, rsync pass", "CPU", "ms", used, "InterMezzo", medians[1])
        report.add("B3", f"{case}, rsync pass", "wire", "B", wire, "InterMezzo", medians[2])
        for delay in (0, 1):
            latency = measure_lsyncd(settings, report, files, delay)
            report.add(
                "B3", f"{case}, lsyncd delay {delay}", "latency", "us", latency, "InterMezzo",
                medians[0],
            )
