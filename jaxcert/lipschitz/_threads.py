"""Small matrix products gain nothing from threads, and on a busy machine wait for each other."""

import contextlib
import functools

import threadpoolctl


@functools.cache
def _controller() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()


def one_blas_thread() -> contextlib.AbstractContextManager[object]:
    """A context in which BLAS and LAPACK calls of this process use one thread each."""
    return _controller().limit(limits=1, user_api="blas")
