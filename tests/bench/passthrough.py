"""The plain libfuse passthrough that the mount is compared with."""

import os
import subprocess
import time


class Passthrough:
    """tests/bench/passthrough over a directory. Use it in a `with`."""

    def __init__(self, settings, lower, answer_opens):
        self.lower = lower
        self.mount = lower + ".mnt"
        self.command = [f"{settings.bin}/passthrough", lower, self.mount]
        if answer_opens:
            self.command.append("--answer-opens")
        self.process = None

    def __enter__(self):
        os.makedirs(self.mount, exist_ok=True)
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 20
        while not os.path.ismount(self.mount):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.command} did not mount")
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", "-l", self.mount], check=False)
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
