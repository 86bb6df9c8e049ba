"""Whatever two users do, the store ends as a model of it in plain Python does."""

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests import histories

FEW = settings(max_examples=6, stateful_step_count=25, derandomize=True, database=None)


def test_histories_of_two_users_end_as_the_model_does(dsn: str) -> None:
    histories.run(dsn, lambda machine: run_state_machine_as_test(machine, settings=FEW))
