"""The machine behind an executor: jobs, their queue, the threads, and how it all comes to an end."""
