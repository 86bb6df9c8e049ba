"""Files that the commands write: whole or not at all, and nobody else's."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EACCES, EINVAL, EISDIR
from pathlib import Path
from typing import Final, TextIO

STANDARD: Final = "-"  # as a file: standard input or output
_STANDARD_OUTPUT: Final = {STANDARD, "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"}
_DEVICES: Final = ("/dev/", "/proc/")
_PERMISSIONS: Final = 0o777


def is_standard(file: Path | None) -> bool:
    """Whether a file argument means standard output (or input, as a file to read)."""
    return file is None or str(file) in _STANDARD_OUTPUT


@contextmanager
def writing(file: Path | None) -> Iterator[TextIO]:
    """Standard output, a device, or a regular file that is there when all of it is.

    A new file is readable by its owner alone, one that is replaced keeps its mode.
    """
    if file is None or is_standard(file):
        yield sys.stdout
        return
    try:
        before = _replaceable(file)
        if before is None:
            with file.open("a", encoding="utf-8", newline="\n") as stream:
                yield stream
        else:
            with _replacing(*before) as stream:
                yield stream
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(file)) from None


def _replaceable(file: Path) -> tuple[Path, os.stat_result | None] | None:
    """The regular file that is to be written and what is there now; None for a device."""
    if file.is_symlink() and os.lstat(file).st_uid != os.geteuid():
        raise OSError(EACCES, "is a symbolic link of another user")
    real = Path(os.path.realpath(file))  # of a pipe in /dev/fd it is no path
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return real, None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
    if stat.S_ISREG(found.st_mode):
        return real, found
    if not os.path.abspath(file).startswith(_DEVICES) or stat.S_ISSOCK(found.st_mode):
        raise OSError(EINVAL, "is not a regular file")
    return None


@contextmanager
def _replacing(file: Path, before: os.stat_result | None) -> Iterator[TextIO]:
    """A new file (O_EXCL, 0600) in the same folder, which takes the place of this one."""
    descriptor, part = tempfile.mkstemp(dir=file.parent, prefix=".ltm-store-", suffix=".part")
    try:
        with os.fdopen(
            descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="\n"
        ) as stream:
            yield stream
            if before is not None:
                with suppress(PermissionError):  # only root gives files away
                    os.fchown(descriptor, before.st_uid, before.st_gid)
                os.fchmod(descriptor, before.st_mode & _PERMISSIONS)
            stream.flush()
            os.fsync(descriptor)
        os.replace(part, file)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(part)
        raise
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
