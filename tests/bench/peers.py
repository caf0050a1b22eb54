"""What people use instead: rsync in a loop, and lsyncd."""

import os
import resource
import signal
import subprocess
import threading
import time

# Without --modify-window=-1 rsync overlooks a change of equal size within one second.
RSYNC = ["rsync", "-aHAX", "--delete", "--modify-window=-1"]


class RsyncLoop:
    """rsync over and over from one directory to another. `passes` counts the ended ones."""

    name = "rsync loop"

    def __init__(self, source, target):
        self.source, self.target = source, target
        self.passes = 0
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def __enter__(self):
        os.makedirs(self.target, exist_ok=True)
        self._once()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()

    def _once(self):
        # 24: a file went away while it looked, 23: so did a directory; the next pass has it.
        done = subprocess.run(
            [*RSYNC, self.source + "/", self.target + "/"], capture_output=True, check=False
        )
        if done.returncode not in (0, 23, 24):
            raise RuntimeError(done.stderr.decode())
        self.passes += 1

    def _run(self):
        while not self.stopping.is_set():
            self._once()


class Lsyncd:
    """lsyncd with its rsync layer and a delay in seconds."""

    def __init__(self, source, target, delay, work):
        self.name = f"lsyncd delay {delay}"
        self.source, self.target = source, target
        os.makedirs(work, exist_ok=True)
        os.makedirs(target, exist_ok=True)
        self.log = os.path.join(work, "lsyncd.log")
        self.config = os.path.join(work, "lsyncd.lua")
        with open(self.config, "w", encoding="utf-8") as out:
            out.write(
                f'settings {{ logfile = "{self.log}", nodaemon = true, insist = true }}\n'
                f'sync {{ default.rsync, source = "{source}", target = "{target}", '
                f"delay = {delay}, rsync = {{ archive = true, hard_links = true, acls = true, "
                f'xattrs = true, _extra = {{ "--modify-window=-1" }} }} }}\n'
            )
        self.process = None

    def __enter__(self):
        with open(self.log + ".out", "wb") as out:
            self.process = subprocess.Popen(
                ["lsyncd", self.config], stdout=out, stderr=subprocess.STDOUT
            )
        # It is ready when a file made now has arrived.
        marker = "lsyncd-is-ready"
        deadline = time.monotonic() + 300
        with open(os.path.join(self.source, marker), "wb"):
            pass
        while not os.path.exists(os.path.join(self.target, marker)):
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.__exit__()
                raise RuntimeError(f"lsyncd did not start: {self.log}")
            time.sleep(0.02)
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def children_cpu_seconds():
    """CPU time of this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def rsync_once(source, target):
    """(seconds, CPU seconds, bytes on the wire) of one pass, with deltas as over a network."""
    cpu = children_cpu_seconds()
    begin = time.monotonic()
    done = subprocess.run(
        [*RSYNC, "--no-whole-file", "--stats", source + "/", target + "/"],
        capture_output=True, text=True, check=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    seconds = time.monotonic() - begin
    wire = 0
    for line in done.stdout.splitlines():
        if line.startswith(("Total bytes sent:", "Total bytes received:")):
            wire += int(line.rpartition(":")[2].strip().replace(",", ""))
    return seconds, children_cpu_seconds() - cpu, wire
