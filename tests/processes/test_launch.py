"""`trainkit launch` starts processes, passes signals on, and ends all of them when one fails."""

import os
import signal
import subprocess
import sys
import time

import pytest

from trainkit.cli import launch
from trainkit.cli.main import main

WAITS = "import time; print('waits', flush=True); time.sleep(600)"


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def launched(*arguments):
    return main(["launch", *arguments])


def python(text):
    return ["--", sys.executable, "-c", text]


def test_every_line_says_which_process_it_is_of(capsys):
    text = "import os; print(*(os.environ[n] for n in ('JAX_PROCESS_ID', 'JAX_NUM_PROCESSES')))"
    assert launched("-n", "2", *python(text)) == 0
    assert sorted(capsys.readouterr().out.split("\n")) == ["", "[0] 0 2", "[1] 1 2"]


def test_each_has_its_devices_and_all_have_one_address(capsys):
    text = "import os; print(os.environ['JAX_COORDINATOR_ADDRESS'], os.environ['XLA_FLAGS'])"
    assert launched("-n", "2", "--devices-per-process", "3", *python(text)) == 0
    first, second = sorted(capsys.readouterr().out.splitlines())
    assert first[4:] == second[4:]
    assert first.count("device_count") == 1
    assert "--xla_force_host_platform_device_count=3" in first


def test_one_that_fails_ends_the_others_and_gives_the_status(capsys, monkeypatch):
    monkeypatch.setattr(launch, "ALONE", 0.3)
    text = f"import os, sys; os.environ['JAX_PROCESS_ID'] == '1' and sys.exit(7)\n{WAITS}"
    begin = time.monotonic()
    assert launched("-n", "2", *python(text)) == 7
    assert time.monotonic() - begin < 30
    assert "Process 1 of 2 has ended with status 7; the others end too." in capsys.readouterr().out


def test_one_that_does_not_heed_sigterm_is_killed(capsys, monkeypatch):
    monkeypatch.setattr(launch, "ALONE", 0.2)
    monkeypatch.setattr(launch, "TERMINATED", 0.2)
    text = (
        "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"os.environ['JAX_PROCESS_ID'] == '0' and os.kill(os.getpid(), 9)\n{WAITS}"
    )
    assert launched("-n", "2", *python(text)) == 128 + signal.SIGKILL
    assert "Process 0 of 2 was ended by SIGKILL" in capsys.readouterr().out


def test_the_waiting_for_others_is_less_than_a_minute():
    assert launch.ALONE + launch.TERMINATED < 45


def test_a_signal_reaches_all_and_the_death_of_the_launcher_too():
    text = "import os; print('pid', os.getpid(), flush=True)\n" + WAITS
    command = [sys.executable, "-m", "trainkit", "launch", "-n", "2", *python(text)]
    for number, status in ((signal.SIGTERM, 128 + 15), (signal.SIGKILL, -9)):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        lines = [process.stdout.readline() for _ in range(4)]
        pids = [int(line.split()[2]) for line in lines if "pid" in line]
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode == status
        assert len(pids) == 2
        until = time.monotonic() + 20
        while any(map(alive, pids)) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(map(alive, pids))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-n", "2"], "there is no command: write it after --"),
        (["-n", "0", "--", "true"], "at least one process"),
        (["--", "true"], "required: -n"),
    ],
)
def test_what_is_wrong_is_said(arguments, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        launched(*arguments)
    assert words in capsys.readouterr().err


def test_a_command_that_is_not_there(capsys):
    assert launched("-n", "2", "--", "no-such-program") == 127
    assert "no program no-such-program" in capsys.readouterr().err


def test_help_teaches(capsys):
    with pytest.raises(SystemExit, match="0"):
        launched("--help")
    text = capsys.readouterr().out
    for word in ("trainkit.distributed.initialize()", "-- python script.py", "exit status"):
        assert word in text
