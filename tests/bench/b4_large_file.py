"""B4: 4 KiB changed in a file of 1 GiB: bytes on the wire of each node, latency."""

import os
import random
import statistics
import time

from b1_visible import percentile
from cluster import Cluster
from peers import Lsyncd, rsync_once

BLOCK = 4096
CHANGES = 20


def make_file(path, size):
    """Random bytes, written by the megabyte."""
    with open(path, "wb") as out:
        for _ in range(size >> 20):
            out.write(os.urandom(1 << 20))


def overwrite(path, offset, data):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


def await_bytes(path, offset, data, patience):
    """Looks every 100 us until the bytes are there; by path, for peers replace the file."""
    deadline = time.monotonic() + patience
    while True:
        fd = os.open(path, os.O_RDONLY)
        try:
            if os.pread(fd, len(data), offset) == data:
                return
        finally:
            os.close(fd)
        if time.monotonic() > deadline:
            raise RuntimeError(f"the change did not arrive within {patience} s")
        time.sleep(0.0001)


def changes(settings, write, watch, size, count, seed, patience=60):
    """Sorted latencies in microseconds of `count` changes at random blocks."""
    generator = random.Random(seed)
    latencies = []
    for _ in range(count):
        offset = generator.randrange(size // BLOCK) * BLOCK
        data = os.urandom(BLOCK)
        begin = time.monotonic()
        overwrite(write, offset, data)
        await_bytes(watch, offset, data, patience)
        latencies.append((time.monotonic() - begin) * 1e6)
    return sorted(latencies)


def run(settings, report):
    size = (128 if settings.quick else 1024) << 20
    case = f"4 KiB in {size >> 20} MiB"
    p50, p99, sent, received = [], [], [], []
    report.progress(f"B4 {case}: cluster")
    with Cluster(settings, "b4", lambda lower: make_file(f"{lower}/large", size)) as cluster:
        for run_number in range(settings.runs):
            report.progress(f"B4 {case}, run {run_number + 1}")
            before_sent = cluster.wire_bytes("node-1")[0]
            before_received = cluster.wire_bytes("node-2")[1]
            values = changes(
                settings, f"{cluster.mount('node-1')}/large", f"{cluster.lower('node-2')}/large",
                size, CHANGES, run_number,
            )
            sent.append((cluster.wire_bytes("node-1")[0] - before_sent) / CHANGES)
            received.append((cluster.wire_bytes("node-2")[1] - before_received) / CHANGES)
            p50.append(percentile(values, 0.5))
            p99.append(percentile(values, 0.99))
        cluster.verify()
    ours = statistics.median(p50)
    report.add("B4", case, "p50", "us", p50)
    report.add("B4", case, "p99", "us", p99)
    limit = "8 KiB"
    report.add("B4", case, "wire from node-1 a change", "B", sent, limit, 8192, 1.0)
    report.add("B4", case, "wire to node-2 a change", "B", received, limit, 8192, 1.0)
    run_peers(settings, report, case, size, ours, statistics.median(sent))


def run_peers(settings, report, case, size, ours, wire_ours):
    work = settings.fresh("b4-rsync")
    os.makedirs(f"{work}/source")
    make_file(f"{work}/source/large", size)
    rsync_once(f"{work}/source", f"{work}/target")
    seconds, wire = [], []
    for run_number in range(settings.runs):
        report.progress(f"B4 rsync, run {run_number + 1}")
        overwrite(f"{work}/source/large", 4096 * run_number, os.urandom(BLOCK))
        took, _, sent = rsync_once(f"{work}/source", f"{work}/target")
        seconds.append(took * 1e6)
        wire.append(sent)
    report.add("B4", f"{case}, rsync pass", "latency", "us", seconds, "InterMezzo", ours)
    report.add("B4", f"{case}, rsync pass", "wire", "B", wire, "InterMezzo", wire_ours)
    for delay in (0, 1):
        work = settings.fresh(f"b4-lsyncd-{delay}")
        os.makedirs(f"{work}/source")
        make_file(f"{work}/source/large", size)
        with Lsyncd(f"{work}/source", f"{work}/target", delay, f"{work}/lsyncd") as peer:
            latencies = []
            for run_number in range(settings.runs):
                report.progress(f"B4 {peer.name}, run {run_number + 1}")
                latencies += changes(
                    settings, f"{work}/source/large", f"{work}/target/large", size, 1, run_number,
                    300,
                )
        report.add("B4", f"{case}, {peer.name}", "latency", "us", latencies, "InterMezzo", ours)
