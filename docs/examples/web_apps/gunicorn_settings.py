"""For Flask and Django: each worker process has an executor, from its start to its end."""

workers = 2
graceful_timeout = 30


def post_worker_init(_worker: object) -> None:
    """Take over what dead processes have left, before the first request comes."""
    from background import saver

    saver()


def worker_exit(_server: object, _worker: object) -> None:
    """Let attempts come to their ends; the journal keeps the other jobs for the next worker."""
    from background import saver

    saver().shutdown(timeout=3)  # far below graceful_timeout
