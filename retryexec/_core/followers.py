"""Followers: the futures of replaced jobs, which end as the job does that replaced them."""

import weakref
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retryexec._core.controlled import ControlledJob


class Followers:
    """The futures that end as one job does: those of the jobs that it has replaced.

    A job may be replaced ten thousand times. So each follower refers to this object, and not to the
    job that came next, and is kept only while somebody holds it or a callback waits for its end.
    """

    __slots__ = ("_kept", "_merged_into", "_refs", "leader")

    def __init__(self, target: "ControlledJob[Any]") -> None:
        # What `target` is read from. None once these are part of others.
        self.leader: ControlledJob[Any] | None = target
        self._merged_into: Followers | None = None
        # Changed by one call into C at a time, from any thread. In the order they came.
        self._refs: dict[weakref.ref[ControlledJob[Any]], None] = {}
        self._kept: set[ControlledJob[Any]] = set()

    @property
    def target(self) -> "ControlledJob[Any]":
        """The job that they follow."""
        while (target := self._find().leader) is None:
            pass  # they have just become a part of others
        return target

    def _find(self) -> "Followers":
        """Return the followers that these have become a part of, at last; themselves as a rule."""
        found = self
        while found._merged_into is not None:
            found = found._merged_into
        return found

    def add(self, job: "ControlledJob[Any]") -> None:
        """Let *job*, whose `following` is this, end as the target does."""
        self._refs[weakref.ref(job, _Forget(self._refs))] = None
        if job.has_callbacks:
            self.keep(job)
        if self.target.done():  # meanwhile, so `end` may have missed this one
            self.end()

    def keep(self, job: "ControlledJob[Any]") -> None:
        """Keep *job* alive until its end: it has callbacks to run."""
        kept = self._find()._kept
        kept.add(job)
        if job.done():
            kept.discard(job)

    def merge_into(self, other: "Followers") -> "Followers":
        """Let these follow the target of *other*; return what holds all of both from now on.

        Called by workers alone: an interrupt could leave it half done.
        """
        # The smaller moves, so that no future moves more often than the logarithm of their number.
        small, large = (self, other) if len(self._refs) < len(other._refs) else (other, self)
        large.leader = other.leader
        small._merged_into = large
        small.leader = None  # it is soon replaced itself, and nobody else may hold it
        for _, job in small._alive():
            large.add(job)
        return large

    def _alive(self) -> "list[tuple[weakref.ref[ControlledJob[Any]], ControlledJob[Any]]]":
        return [(ref, job) for ref in list(self._refs) if (job := ref()) is not None]

    def end(self) -> None:
        """End them as the target has ended, if it has; `run_callbacks` is up to the caller."""
        target = self.target
        if target.done():
            for _, job in self._alive():
                job.end_as(target)

    def run_callbacks(self) -> None:
        """Run the callbacks of all that have ended, whatever one raises, and forget those."""
        interrupt = None
        for ref, job in self._alive():
            if job.done():
                try:
                    job.run_callbacks()
                except BaseException as error:
                    interrupt = interrupt or error
                    if current_thread() is main_thread():
                        continue  # it may have been struck: a worker calls this once more
                # Only this one: another may have been added meanwhile.
                self._refs.pop(ref, None)
                self._kept.discard(job)
        if interrupt is not None:
            raise interrupt


class _Forget:
    """Drops a weak reference whose object has gone."""

    __slots__ = ("_refs",)

    def __init__(self, refs: "dict[weakref.ref[ControlledJob[Any]], None]") -> None:
        self._refs = refs

    def __call__(self, ref: "weakref.ref[ControlledJob[Any]]") -> None:
        self._refs.pop(ref, None)
