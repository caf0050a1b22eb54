"""Runs the benchmarks that are named on the command line, all where none is."""

import argparse
import fcntl
import os
import shutil
import signal
import socket
import struct
import sys

import b1_visible
import b2_extract
import b3_one_file
import b4_large_file
import b5_nginx
from cluster import prefer
from report import Report

BENCHES = {
    "B1": b1_visible.run,
    "B2": b2_extract.run,
    "B3": b3_one_file.run,
    "B4": b4_large_file.run,
    "B5": b5_nginx.run,
}


class Settings:
    """Where things are, and how thoroughly to measure."""

    def __init__(self, build, home, quick):
        self.bin = os.path.join(build, "bin")
        self.home = home
        self.quick = quick
        self.runs = 5

    def fresh(self, name):
        """A directory that nobody used before: ext4 is slow where much was just deleted."""
        path = os.path.join(self.home, name)
        os.makedirs(path)
        return path


def bring_loopback_up():
    """The namespace's loopback is down at first."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        siocgifflags, siocsifflags, iff_up = 0x8913, 0x8914, 1
        request = struct.pack("16sh", b"lo", 0)
        flags = struct.unpack("16sh", fcntl.ioctl(probe, siocgifflags, request))[1]
        fcntl.ioctl(probe, siocsifflags, struct.pack("16sh", b"lo", flags | iff_up))


def main():
    parser = argparse.ArgumentParser(prog="tests/bench/run.sh")
    parser.add_argument("benches", nargs="*", metavar="B1..B5")
    parser.add_argument("--quick", action="store_true", help="smaller trees, fewer samples")
    parser.add_argument("--json", metavar="FILE", help="also write the rows to FILE")
    parser.add_argument("--build", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--home", required=True, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = [name.upper() for name in arguments.benches] or list(BENCHES)
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        parser.error(f"no benchmark {unknown[0]}; there are {', '.join(BENCHES)}")

    bring_loopback_up()
    os.setsid()
    prefer()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    home = os.path.join(arguments.home, f"run-{os.getpid()}")
    settings = Settings(arguments.build, home, arguments.quick)
    os.makedirs(home)
    report = Report(arguments.json)
    failed = False
    try:
        for name in names:
            report.progress(name)
            try:
                BENCHES[name](settings, report)
            except Exception as error:  # the other benchmarks still run; this one is said to fail
                failed = True
                report.failure(name, error)
    finally:
        report.finish()
        shutil.rmtree(home, ignore_errors=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
