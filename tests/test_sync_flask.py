"""The blocking functions in a Flask application."""

from concurrent.futures import ThreadPoolExecutor
from string import ascii_lowercase

import pytest

from ltm_store import sync
from tests.forks import in_a_fork

flask = pytest.importorskip("flask")


class Application:
    """A Flask application that opens its Database at the first request."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.store: sync.Database | None = None
        self.flask = flask.Flask(__name__)
        self.flask.testing = True  # an error in a view is one of the request here
        self.flask.post("/<user>/memories")(self.remember)
        self.flask.get("/<user>/memories")(self.recall)

    def opened(self) -> sync.Database:
        if self.store is None:
            self.store = sync.connect(self.dsn, max_size=4)
        return self.store

    def remember(self, user):
        memory = sync.add_memory(self.opened(), user, flask.request.json["content"])
        return {"id": memory.id}, 201

    def recall(self, user):
        hits = sync.search_memories(self.opened(), user, flask.request.args["q"])
        return [hit.content for hit in hits]

    def post(self, user: str, content: str) -> int:
        answer = self.flask.test_client().post(f"/{user}/memories", json={"content": content})
        return int(answer.status_code)

    def get(self, user: str, words: str) -> object:
        return self.flask.test_client().get(f"/{user}/memories?q={words}").json


@pytest.fixture
def app(dsn):
    application = Application(dsn)
    yield application
    if application.store is not None:
        application.store.close()


def test_requests_of_several_threads_share_a_database(app):
    store = app.opened()

    words = [letter * 5 for letter in ascii_lowercase[:24]]

    def visit(number: int) -> object:
        user = f"user {number % 3}"
        assert app.post(user, f"visited {words[number]}") == 201
        return app.get(user, words[number])

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(visit, range(24)))
    assert answers == [[f"visited {word}"] for word in words]
    assert app.get("user 1", words[0]) == []
    assert app.store is store
    assert store.stats().open <= 4


def test_a_server_that_forks_is_told_to_open_its_own(app, dsn):
    """And one that does writes its accesses when it ends."""
    assert app.post("ada", "likes tea") == 201
    told = in_a_fork(lambda: app.get("ada", "tea"))
    assert told == ("LtmError: this Database was opened before a fork: open one in each process")
    assert in_a_fork(lambda: Application(dsn).get("ada", "tea")) == "['likes tea']"
    assert app.get("ada", "tea") == ["likes tea"]
    store = app.opened()
    store.flush()
    assert sync.search_memories(store, "ada")[0].access_count == 2
