"""B2: a tar shaped like WordPress, extracted on the bare file system, on a plain libfuse
passthrough, on node-1's mount; and until both other replicas are the same."""

import os
import statistics
import subprocess
import time

import trees
from cluster import Cluster
from passthrough import Passthrough
from peers import Lsyncd, RSYNC


def extract(archive, directory):
    """Seconds that tar takes."""
    os.mkdir(directory)
    begin = time.monotonic()
    subprocess.run(["tar", "-xf", archive, "-C", directory], check=True)
    return time.monotonic() - begin


def same_trees(left, right):
    """True where rsync, by content and metadata, finds nothing to do."""
    done = subprocess.run(
        [*RSYNC, "-n", "--itemize-changes", left + "/", right + "/"],
        capture_output=True, check=False,
    )
    return done.returncode == 0 and not done.stdout


def run(settings, report):
    archive = os.path.join(settings.fresh("b2"), "wordpress.tar")
    trees.wordpress_tar(archive)
    bare, plain, plain_skip, mount, complete = [], [], [], [], []
    bare_dir = settings.fresh("b2-bare")
    pass_dir = settings.fresh("b2-passthrough")
    skip_dir = settings.fresh("b2-passthrough-skip")
    # Cases take turns, so that a busy moment of the machine meets all of them.
    with Cluster(settings, "b2-cluster") as cluster, Passthrough(
        settings, pass_dir, answer_opens=True
    ) as passthrough, Passthrough(settings, skip_dir, answer_opens=False) as skipping:
        for turn in range(settings.runs):
            report.progress(f"B2 run {turn + 1}")
            bare.append(extract(archive, f"{bare_dir}/{turn}"))
            plain.append(extract(archive, f"{passthrough.mount}/{turn}"))
            plain_skip.append(extract(archive, f"{skipping.mount}/{turn}"))
            begin = time.monotonic()
            mount.append(extract(archive, f"{cluster.mount('node-1')}/{turn}"))
            cluster.settle()
            complete.append(time.monotonic() - begin)
        cluster.verify()
    base = statistics.median(bare)
    best_plain = min(statistics.median(plain), statistics.median(plain_skip))
    report.add("B2", "bare ext4", "extract", "s", bare)
    report.add("B2", "passthrough, opens answered", "extract", "s", plain, "bare", base)
    report.add("B2", "passthrough, opens skipped", "extract", "s", plain_skip, "bare", base)
    report.add("B2", "mount", "extract", "s", mount, "passthrough", best_plain, 1.5)
    own = statistics.median(mount)
    report.add("B2", "both replicas", "complete", "s", complete, "mount extract", own, 1.2)
    run_peers(settings, report, archive, statistics.median(complete))


def run_peers(settings, report, archive, ours):
    """Extraction on the bare disk and until the copy is the same."""
    for kind in ("rsync", "lsyncd-0", "lsyncd-1"):
        seconds = []
        name = kind
        for turn in range(settings.runs):
            work = settings.fresh(f"b2-{kind}-{turn}")
            source, target = f"{work}/source", f"{work}/target"
            os.makedirs(source)
            os.makedirs(target)
            report.progress(f"B2 {kind}, run {turn + 1}")
            if kind == "rsync":
                name = "an rsync pass after it"
                begin = time.monotonic()
                extract(archive, f"{source}/tree")
                # The pass that runs while tar works is of no use; the one after it counts.
                subprocess.run([*RSYNC, source + "/", target + "/"], check=True)
                seconds.append(time.monotonic() - begin)
                continue
            with Lsyncd(source, target, int(kind[-1]), f"{work}/lsyncd") as peer:
                name = peer.name
                begin = time.monotonic()
                extract(archive, f"{source}/tree")
                while not same_trees(source, target):
                    if time.monotonic() - begin > 300:
                        raise RuntimeError(f"{name} did not finish within 300 s")
                    time.sleep(0.05)
                seconds.append(time.monotonic() - begin)
        report.add("B2", f"one copy by {name}", "complete", "s", seconds, "InterMezzo", ours)
