#!/usr/bin/env python3
"""Runs clang-tidy over files of a compile database, several at a time; prints findings only.

usage: tests/tidy.py BUILD_DIR JOBS FILE...     exit code 1 where anything is found
"""
import concurrent.futures
import json
import os
import re
import subprocess
import sys

NOISE = re.compile(r"^(\d+ warnings? (and \d+ errors? )?generated|\d+ errors? generated|Suppressed|Use -header-filter)")


def check(build, path):
    done = subprocess.run(
        ["clang-tidy", "-p", build, "--quiet", "--extra-arg=-Wthread-safety", path],
        capture_output=True, text=True, check=False)
    lines = [x for x in (done.stdout + done.stderr).splitlines() if not NOISE.match(x)]
    return path, done.returncode, "\n".join(lines)


def main():
    build, jobs, paths = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as database:
        known = {os.path.realpath(os.path.join(x["directory"], x["file"]))
                 for x in json.load(database)}
    unbuilt = [p for p in paths if os.path.realpath(p) not in known]
    for path in unbuilt:
        print(f"{path}: no target builds this file")
    paths = [p for p in paths if p not in unbuilt]
    # Large files first, so that the last to end is a short one.
    paths.sort(key=os.path.getsize, reverse=True)
    found = bool(unbuilt)
    shown = set()  # a finding in a header comes with every file that includes it
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        runs = [pool.submit(check, build, path) for path in paths]
        for count, run in enumerate(concurrent.futures.as_completed(runs), 1):
            path, code, text = run.result()
            print(f"[{count}/{len(paths)}] {path}", flush=True)
            if code != 0:
                found = True
                if text not in shown:
                    print(text, flush=True)
                shown.add(text)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
