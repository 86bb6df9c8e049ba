"""The blocking functions in tasks of Celery, run by a worker with threads."""

import threading

import pytest

from ltm_store import sync
from tests.forks import in_a_fork

celery = pytest.importorskip("celery")
from celery.contrib.testing.worker import start_worker  # noqa: E402
from celery.signals import setup_logging, worker_init, worker_shutdown  # noqa: E402
from celery.worker import state  # noqa: E402

setup_logging.connect(lambda **_: None, weak=False)  # the loggers of this process stay as they are
WAIT = {"timeout": 100, "interval": 0.01}  # seconds: for a worker that hangs, and between looks


class Worker:
    """A Celery application whose worker opens a Database and closes it."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.store: sync.Database
        self.closed = threading.Event()
        self.app = celery.Celery("memories", broker="memory://", backend="cache+memory://")
        self.app.conf.broker_transport_options = {"polling_interval": 0.01}

        @self.app.task(name="remember")
        def remember(user, content):
            return sync.add_memory(self.store, user, content).id

        @self.app.task(name="recall")
        def recall(user, words):
            return [hit.content for hit in sync.search_memories(self.store, user, words)]

        self.remember, self.recall = remember, recall

    def open(self, **_: object) -> None:
        self.store = sync.connect(self.dsn, max_size=4)

    def close(self, **_: object) -> None:
        self.store.close()
        self.closed.set()


def test_tasks_of_several_threads_share_a_database_which_closes_with_the_worker(dsn):
    worker = Worker(dsn)
    worker_init.connect(worker.open)
    worker_shutdown.connect(worker.close)
    with start_worker(
        worker.app, pool="threads", concurrency=4, loglevel="ERROR", perform_ping_check=False
    ):
        made = [
            worker.remember.delay(f"user {n % 3}", f"visited {chr(97 + n) * 5}") for n in range(12)
        ]
        assert len({task.get(**WAIT) for task in made}) == 12
        found = [worker.recall.delay(f"user {n % 3}", chr(97 + n) * 5) for n in range(12)]
        assert [task.get(**WAIT) for task in found] == [
            [f"visited {chr(97 + n) * 5}"] for n in range(12)
        ]
        assert worker.recall.delay("user 1", "aaaaa").get(**WAIT) == []
        state.should_stop = 0
        for _ in range(2):  # it looks after each message, or after two seconds, twice
            worker.recall.delay("nobody", "x")
        assert worker.closed.wait(100)
        state.should_stop = None
    with sync.connect(dsn) as store:
        counts = [
            m.access_count for n in range(3) for m in sync.iterate_memories(store, f"user {n}")
        ]
    assert counts == [1] * 12


def test_a_worker_that_forks_is_told_to_open_its_own(dsn):
    worker = Worker(dsn)
    worker.open()
    assert worker.remember.apply(("ada", "likes tea")).get() > 0
    assert in_a_fork(lambda: worker.recall.apply(("ada", "tea")).get()) == (
        "LtmError: this Database was opened before a fork: open one in each process"
    )

    def opened_there() -> object:
        worker.open()
        return worker.recall.apply(("ada", "tea")).get()

    assert in_a_fork(opened_there) == "['likes tea']"
    worker.close()
