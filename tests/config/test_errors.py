"""The ways in which a run ends other than well."""

import signal

from toplora_train.config.errors import Interrupted


def test_an_interruption_has_the_exit_code_that_shells_expect():
    assert Interrupted(signal.SIGINT).exit_code == 130
    assert Interrupted(signal.SIGTERM).exit_code == 143
