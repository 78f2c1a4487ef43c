import threading

from threadpoolctl import threadpool_info, threadpool_limits

from stackedae.blas import one_blas_thread


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_blas_uses_one_thread_while_any_task_runs():
    entered, leave = threading.Event(), threading.Event()

    def task():
        with one_blas_thread():
            entered.set()
            leave.wait(10)

    with threadpool_limits(2, user_api="blas"):
        other = threading.Thread(target=task)
        with one_blas_thread():
            other.start()
            entered.wait(10)
        assert blas_threads() == {1}  # the other one is still inside
        leave.set()
        other.join()
        assert blas_threads() == {2}


def test_threads_that_come_and_go_leave_no_trace():
    before = blas_threads()

    def task():
        with one_blas_thread():
            assert blas_threads() == {1}

    for _ in range(3):
        threads = [threading.Thread(target=task) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert blas_threads() == before
