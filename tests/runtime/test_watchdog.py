"""Who is ended when a stub dies, and who is not when it leaves in good order."""

import subprocess
import sys

import pytest

from nemotron_deploy.runtime.triton.watchdog import Watchdog

DIES = """\
import os, signal, sys
from nemotron_deploy.runtime.triton.watchdog import Watchdog
Watchdog(int(sys.argv[1]))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def server():
    """Some process in the server's place."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_the_server_ends_when_its_stub_is_killed(server):
    subprocess.run([sys.executable, "-c", DIES, str(server.pid)], check=False)
    assert server.wait(timeout=20) != 0


def test_the_server_lives_on_when_the_watchdog_is_dismissed(server):
    Watchdog(server.pid).dismiss()
    with pytest.raises(subprocess.TimeoutExpired):
        server.wait(timeout=0.5)
