import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from toplora_train.config.errors import Interrupted
from toplora_train.launch.command import signals_restored
from toplora_train.train.signals import SIGNALS, interrupt_at_once, interrupt_later


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_recorded_and_raised_where_the_loop_checks(signum: int, code: int):
    before = signal.getsignal(signum)
    with interrupt_later() as interruption:
        interruption.raise_if_interrupted()
        os.kill(os.getpid(), signum)
        assert interruption.signum == signum
        with pytest.raises(Interrupted) as caught:
            interruption.raise_if_interrupted()
    assert caught.value.exit_code == code
    assert signal.getsignal(signum) == before


def test_outside_the_loop_a_signal_raises_immediately():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        interrupt_at_once()
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        (["SIGINT", "SIGINT"], 130),
        (["SIGTERM", "SIGUSR1"], 5),  # SLURM's warning, late
        (["SIGUSR1", "SIGUSR1", "SIGTERM"], 5),  # what it warned of, while the run saves
        (["SIGUSR1", "SIGTERM", "SIGTERM"], 143),
    ],
)
def test_a_second_signal_exits_immediately_but_a_warning_does_not_count(signals, code):
    kills = "".join(f"    os.kill(os.getpid(), signal.{name})\n" for name in signals)
    script = (
        "import os, signal\n"
        "from toplora_train.train.signals import interrupt_later\n"
        f"with interrupt_later():\n{kills}"
        "    raise SystemExit(5)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == code


def test_in_another_thread_no_handler_is_installed_or_restored():
    before = [signal.getsignal(number) for number in SIGNALS]

    def work() -> None:
        with signals_restored():
            interrupt_at_once()

    with ThreadPoolExecutor(1) as threads:
        threads.submit(work).result()
    assert [signal.getsignal(number) for number in SIGNALS] == before
