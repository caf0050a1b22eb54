"""A trial cluster for measurements, by the functions of deploy/cluster.sh."""

import json
import os
import re
import shlex
import subprocess
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TICKS = os.sysconf("SC_CLK_TCK")
# Ethernet, IPv4 and TCP with timestamps: what a segment costs beside its bytes.
SEGMENT_OVERHEAD = 14 + 20 + 32
NODES = ("node-1", "node-2", "node-3")


def prefer(pid="self"):
    """With autogroups the scheduler weighs sessions, and a process's nice value only counts within
    its own: so the session gets the value of run.sh, too."""
    try:
        with open(f"/proc/{pid}/autogroup", "w", encoding="ascii") as autogroup:
            autogroup.write("-10")
    except OSError:
        pass  # no autogroups in this kernel


class Cluster:
    """Three services and three nodes with the collection www. Use it in a `with`."""

    def __init__(self, settings, name, fill=None):
        """`fill(directory)` makes the tree that node-1 begins with."""
        self.bin = settings.bin
        self.home = settings.fresh(name)
        self.fill = fill

    def __enter__(self):
        try:
            self.shell("cluster_make_directories; start_services")
            for node in NODES:
                os.makedirs(self.lower(node))
            if self.fill:
                self.fill(self.lower("node-1"))
            self.mezzo("collection", "create", "www")
            for node in NODES:
                self.shell(f"start_node {node}")
                self.mezzo(
                    "replica", "add", "www", node, "--lower", self.lower(node),
                    "--mount", self.mount(node), "--wait", "--timeout", "30m",
                )
            for name in self.processes():
                prefer(self.pid(name))
            self.settle()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.shell("cluster_down")

    def shell(self, script):
        """Runs `script` with the functions of deploy/cluster.sh."""
        prelude = (
            "set -euo pipefail\n"
            f"CLUSTER_HOME={shlex.quote(self.home)} CLUSTER_BIN={shlex.quote(self.bin)}\n"
            f"source {shlex.quote(TOP)}/deploy/cluster.sh\n"
        )
        done = subprocess.run(
            ["bash", "-c", prelude + script], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{script}: {done.stderr.strip()}")
        return done.stdout

    def lower(self, node):
        return f"{self.home}/nodes/{node}/www"

    def mount(self, node):
        return f"{self.home}/mnt/{node}/www"

    def mezzo(self, *arguments):
        done = subprocess.run(
            [f"{self.bin}/mezzo", *arguments],
            env={**os.environ, "MEZZO_CONFIG": f"{self.home}/mezzo.yaml"},
            capture_output=True, text=True, check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"mezzo {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def settle(self):
        """Until every replica has everything."""
        self.mezzo("wait", "www", "--settled", "--timeout", "30m")

    def verify(self):
        """Raises where the replicas differ."""
        self.mezzo("verify", "www", "--timeout", "30m")

    def pid(self, name):
        return int(self.shell(f"pid_of {name}"))

    def processes(self):
        return self.shell("cluster_processes").split()

    def cpu_seconds(self):
        """CPU time that all processes of the cluster have used so far."""
        total = 0
        for name in self.processes():
            with open(f"/proc/{self.pid(name)}/stat", encoding="ascii") as stat:
                fields = stat.read().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def await_quiet(self):
        """Until what the import left to do in the background is done (or a minute is over)."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            before = self.cpu_seconds()
            time.sleep(1)
            if self.cpu_seconds() - before < 0.1:
                return

    def server_ports(self):
        addresses = self.shell(
            'for name in "${CLUSTER_SERVICES[@]}"; do address_of "$name" grpc; done'
        )
        return [line.rpartition(":")[2] for line in addresses.split()]

    def wire_bytes(self, node):
        """(sent, received) of the node's sidecar on its connections to the services so far, with
        the headers of the segments."""
        pid = self.pid(f"sidecar-{node}")
        ports = " or ".join(f"dport = :{port}" for port in self.server_ports())
        listing = subprocess.run(
            ["ss", "-tinpHO", "state", "established", f"( {ports} )"],
            capture_output=True, text=True, check=True,
        ).stdout
        sent = received = 0
        for line in listing.splitlines():
            if f"pid={pid}," not in line:
                continue

            def field(name, line=line):
                found = re.search(rf"\b{name}:(\d+)", line)
                return int(found.group(1)) if found else 0

            sent += field("bytes_sent") + SEGMENT_OVERHEAD * field("segs_out")
            received += field("bytes_received") + SEGMENT_OVERHEAD * field("segs_in")
        return sent, received

    def head(self):
        return json.loads(self.mezzo("journal", "show", "www", "-o", "json"))
