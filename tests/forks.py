"""What a program gives that forks, as servers and workers do."""

import atexit
import os
import warnings
from collections.abc import Callable


def in_a_fork(work: Callable[[], object]) -> str:
    """What a function gives, or raises, in a forked process that then ends as programs end."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        child = os.fork()
    if child == 0:
        try:
            atexit._clear()  # what the tests have to end is the parent's
            told = str(work())
        except BaseException as error:
            told = f"{type(error).__name__}: {error}"
        finally:
            os.write(writer, told.encode())
            atexit._run_exitfuncs()
            os._exit(0)
    os.close(writer)
    with open(reader) as answer:
        told = answer.read()
    os.waitpid(child, 0)
    return told
