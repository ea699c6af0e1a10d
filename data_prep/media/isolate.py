"""Decoding in a child process: a file that crashes or hangs a decoder, or raises what nobody foresaw, costs one clip,
not the job."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TypeVar

from pebble import ProcessExpired, ProcessPool

from data_prep.media.errors import MediaError, internal_error

Result = TypeVar("Result")


class Isolated:
    """One child process that calls functions by reference; replaced when it dies.

    Args:
        memory_gb: address space of the child (a hostile header may ask for terabytes); 0 for no limit.
    """

    def __init__(self, memory_gb: float = 8.0):
        self._memory_gb = memory_gb
        self._pool = self._start()

    def _start(self) -> ProcessPool:
        with _without_main():
            return ProcessPool(
                max_workers=1,
                context=multiprocessing.get_context("spawn"),  # forking a threaded Ray worker deadlocks
                initializer=_limit,
                initargs=[self._memory_gb],
            )

    def call(self, function: Callable[..., Result], *args: object, timeout_s: float) -> Result:
        """Call function(*args) in the child.

        Raises:
            MediaError: what the function raised; internal_error for any other exception; timed_out; crashed (with the
                signal); out_of_memory.
        """
        with _without_main():  # a replacement child is spawned here too
            try:
                if not self._pool.active:  # it gave up: the machine had no room for another process
                    self._pool = self._start()
                return self._pool.schedule(_guarded, args=[function, *args], timeout=timeout_s).result()
            except MediaError:
                raise
            except FutureTimeout:
                raise MediaError("timed_out", f"no answer within {timeout_s:.0f} s") from None
            except ProcessExpired as error:
                raise MediaError("crashed", f"the decoding process ended with code {error.exitcode}") from None
            except MemoryError:
                raise MediaError("out_of_memory", "decoding wanted more than the child may use") from None
            except Exception as error:
                raise internal_error(error) from None

    def close(self) -> None:
        """End the child."""
        self._pool.stop()
        self._pool.join()


def _guarded(function: Callable[..., Result], *args: object) -> Result:
    """Call function(*args); in the child, where the traceback is whole."""
    try:
        return function(*args)
    except (MediaError, MemoryError):
        raise
    except Exception as error:
        raise internal_error(error) from None


def _limit(memory_gb: float) -> None:
    if memory_gb:
        resource.setrlimit(resource.RLIMIT_AS, (int(memory_gb * 2**30),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")  # libraries' remarks on damaged files, in the files' own words
    import cv2

    cv2.setNumThreads(1)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep children from importing the parent's main script, as spawned ones do: a Ray worker's would start Ray."""
    main = sys.modules["__main__"]
    before = {name: getattr(main, name, None) for name in ("__file__", "__spec__")}
    try:
        if before["__file__"]:
            del main.__file__
        main.__spec__ = None
        yield
    finally:
        for name, value in before.items():
            if value is not None:
                setattr(main, name, value)
