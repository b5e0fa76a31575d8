"""Programs as forks of one process that has imported what they import, which takes seconds.

python forks.py MODULE...
"""

import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time


class Fork:
    """A program that was started; as `subprocess.Popen`."""

    def __init__(self, forks, pid):
        self.pid = pid
        self._forks = forks

    def poll(self):
        """Returns what it ended with, None while it runs."""
        return self._forks.ask("poll", self.pid)

    def wait(self, timeout):
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("a fork", timeout)
            time.sleep(0.05)
        return code

    def kill(self):
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait(20)


class Forks:
    """Starts programs; none outlives it.

    Args:
        modules: Names of modules to import before. None of them may have started TensorFlow.
    """

    def __init__(self, *modules):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._server = subprocess.Popen([sys.executable, __file__, *modules], **pipes)
        self._started = []

    def start(self, program, arguments, log, **environment):
        """Starts a program, which writes into a log."""
        paths = str(program), [str(each) for each in arguments], str(log)
        self._started.append(Fork(self, self.ask("start", *paths, environment)))
        return self._started[-1]

    def ask(self, *question):
        print(json.dumps(question), file=self._server.stdin, flush=True)
        return json.loads(self._server.stdout.readline())

    def close(self):
        for fork in self._started:
            fork.kill()
        self._server.communicate(timeout=60)


def serve():
    """Answers questions, and runs programs in forks, which return from here, too."""
    codes = {}
    for line in sys.stdin:
        question, *details = json.loads(line)
        if question == "start":
            pid = os.fork()
            if pid == 0:
                return run(*details)
            codes[pid], answer = None, pid
        else:
            pid = details[0]
            if codes[pid] is None:
                ended, status = os.waitpid(pid, os.WNOHANG)
                codes[pid] = os.waitstatus_to_exitcode(status) if ended else None
            answer = codes[pid]
        print(json.dumps(answer), flush=True)


def run(program, arguments, log, environment):
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, sys.stdout.fileno())
    os.dup2(file, sys.stderr.fileno())
    os.environ.update(environment)
    sys.argv = [program, *arguments]
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        importlib.import_module(name)
    serve()
