"""B5: nginx serving 10,000 files of 16 KiB from node-2's mount, from the bare directory and from
plain passthroughs: requests a second by wrk."""

import os
import re
import statistics
import subprocess
import time

from cluster import Cluster
from passthrough import Passthrough

NGINX_CONFIG = """
worker_processes 1;
daemon off;
pid {work}/nginx.pid;
error_log {work}/error.log;
user root;
events {{ worker_connections 256; }}
http {{
  access_log off;
  sendfile on;
  keepalive_requests 1000000;
  client_body_temp_path {work}/body;
  proxy_temp_path {work}/proxy;
  fastcgi_temp_path {work}/fastcgi;
  uwsgi_temp_path {work}/uwsgi;
  scgi_temp_path {work}/scgi;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""

WRK_SCRIPT = """
local files = {files}
math.randomseed(1)
request = function()
  return wrk.format("GET", "/f" .. math.random(0, files - 1))
end
"""


class Nginx:
    """nginx of one worker serving a directory."""

    def __init__(self, work, root, port):
        os.makedirs(work)
        self.port = port
        config = f"{work}/nginx.conf"
        with open(config, "w", encoding="utf-8") as out:
            out.write(NGINX_CONFIG.format(work=work, root=root, port=port))
        self.command = ["nginx", "-c", config, "-p", work]
        self.process = None

    def __enter__(self):
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10)


def load(port, script, seconds):
    """Requests a second; raises where a request failed."""
    command = [
        "wrk", "-t2", "-c16", f"-d{seconds}s", "-s", script, f"http://127.0.0.1:{port}/",
    ]
    deadline = time.monotonic() + 20
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0 or time.monotonic() > deadline:
            break
        time.sleep(0.1)  # nginx is not there yet
    found = re.search(r"Requests/sec:\s*([\d.]+)", done.stdout)
    if done.returncode != 0 or not found:
        raise RuntimeError(f"wrk failed: {done.stdout}{done.stderr}")
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise RuntimeError(f"requests failed: {done.stdout}")
    return float(found.group(1))


def make_files(directory, count):
    for i in range(count):
        with open(f"{directory}/f{i}", "wb") as out:
            out.write(os.urandom(16384))


def run(settings, report):
    files = 1000 if settings.quick else 10000
    seconds = 2 if settings.quick else 5
    work = settings.fresh("b5")
    script = f"{work}/random.lua"
    with open(script, "w", encoding="utf-8") as out:
        out.write(WRK_SCRIPT.replace("{files}", str(files)))
    report.progress("B5 cluster")
    with Cluster(settings, "b5-cluster", lambda lower: make_files(lower, files)) as cluster:
        # All serve the same files: node-2's lower directory, bare and below each driver.
        lower = cluster.lower("node-2")
        answering = Passthrough(settings, lower, answer_opens=True)
        answering.mount = f"{work}/answering"
        answering.command[2] = answering.mount
        skipping = Passthrough(settings, lower, answer_opens=False)
        skipping.mount = f"{work}/skipping"
        skipping.command[2] = skipping.mount
        with answering, skipping:
            roots = {
                "bare": lower,
                "mount": cluster.mount("node-2"),
                "passthrough, opens answered": answering.mount,
                "passthrough, opens skipped": skipping.mount,
            }
            rates = {case: [] for case in roots}
            servers = {
                case: Nginx(f"{work}/nginx-{i}", root, 8080 + i)
                for i, (case, root) in enumerate(roots.items())
            }
            for server in servers.values():
                server.__enter__()
            try:
                for case, server in servers.items():  # caches are warm before the clock runs
                    report.progress(f"B5 warming {case}")
                    load(server.port, script, seconds)
                for run_number in range(settings.runs):
                    for case, server in servers.items():
                        report.progress(f"B5 {case}, run {run_number + 1}")
                        rates[case].append(load(server.port, script, seconds))
            finally:
                for server in servers.values():
                    server.__exit__()
    bare = statistics.median(rates["bare"])
    for case, values in rates.items():
        baseline = None if case == "bare" else bare
        aim = ">=0.75" if case == "mount" else None
        report.add("B5", case, "requests", "1/s", values, "bare" if baseline else None, baseline,
                   aim)
