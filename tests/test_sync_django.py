"""The blocking functions in views of Django."""

from concurrent.futures import ThreadPoolExecutor
from string import ascii_lowercase

import pytest

from ltm_store import sync
from tests.forks import in_a_fork

django = pytest.importorskip("django")
from django import conf, http, test, urls  # noqa: E402

conf.settings.configure(ALLOWED_HOSTS=["testserver"], ROOT_URLCONF=__name__, LOGGING_CONFIG=None)
django.setup()

store: sync.Database


def remember(request, user):
    memory = sync.add_memory(store, user, request.POST["content"])
    return http.JsonResponse({"id": memory.id}, status=201)


def recall(request, user):
    hits = sync.search_memories(store, user, request.GET["q"])
    return http.JsonResponse([hit.content for hit in hits], safe=False)


async def recall_in_a_loop(request, user):
    return recall(request, user)


urlpatterns = [
    urls.path("<str:user>/add", remember),
    urls.path("<str:user>/search", recall),
    urls.path("<str:user>/async", recall_in_a_loop),
]


@pytest.fixture(autouse=True)
def opened(dsn):
    global store
    with sync.connect(dsn, max_size=4) as store:
        yield


def post(user: str, content: str) -> int:
    return int(test.Client().post(f"/{user}/add", {"content": content}).status_code)


def get(user: str, words: str) -> object:
    return test.Client().get(f"/{user}/search", {"q": words}).json()


def test_requests_of_several_threads_share_a_database():
    words = [letter * 5 for letter in ascii_lowercase[:24]]

    def visit(number: int) -> object:
        user = f"user{number % 3}"
        assert post(user, f"visited {words[number]}") == 201
        return get(user, words[number])

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(visit, range(24)))
    assert answers == [[f"visited {word}"] for word in words]
    assert get("user1", words[0]) == []
    assert store.stats().open <= 4


async def test_a_view_may_run_in_a_loop():
    sync.add_memory(store, "ada", "likes tea")
    answer = await test.AsyncClient().get("/ada/async", {"q": "tea"})
    assert answer.json() == ["likes tea"]


def test_a_server_that_forks_is_told_to_open_its_own():
    assert in_a_fork(lambda: get("ada", "tea")) == (
        "LtmError: this Database was opened before a fork: open one in each process"
    )
    assert get("ada", "tea") == []
