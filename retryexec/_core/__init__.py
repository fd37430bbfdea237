"""The machine behind an executor: jobs, their queue, the threads, and the shutdown."""
