"""``retryexec plan``: a backoff as a table, and as a picture."""

from collections.abc import Iterator
from pathlib import Path

from retryexec.cli._output import show
from retryexec.cli._schedule import Plan, simulate


def plan(
    spec: str, *, attempts: int, max_elapsed: float | None, seed: int, file: Path | None
) -> int:
    """Print the plan of *spec*, and draw it into *file* if that is given; return 0.

    Raises:
        Misuse: an argument cannot be right, or *file* cannot be written.
    """
    simulated = simulate(spec, attempts=attempts, max_elapsed=max_elapsed, seed=seed)
    if file is not None:
        # Before the table: whoever cannot have the picture should not have to scroll for why.
        from retryexec.cli._plot import plot

        plot(simulated, file)
    show("\n".join(_table(simulated)))
    if file is not None:
        show(f"drawn into {file}")
    return 0


def _table(plan: Plan) -> Iterator[str]:
    if plan.exact:
        yield f"{plan.spec}: exact, nothing in it is left to chance; times in seconds"
        yield ""
        yield "attempt      delay      start"
        for step in plan.steps:
            yield f"{step.attempt:7}  {_cell(step.delay.median)}  {_cell(step.start.median)}"
    else:
        yield f"{plan.spec}: {plan.runs:,} simulated runs (seed {plan.seed}); times in seconds"
        yield ""
        yield "          delay before it                  start of the attempt"
        yield "attempt     median        5 %       95 %     median        5 %       95 %  reached"
        for step in plan.steps:
            cells = "  ".join(
                _cell(value)
                for spread in (step.delay, step.start)
                for value in (spread.median, spread.low, spread.high)
            )
            yield f"{step.attempt:7}  {cells}  {step.reached:7.0%}"
    yield from _remarks(plan)


def _remarks(plan: Plan) -> Iterator[str]:
    last = len(plan.steps)
    if plan.max_elapsed is not None:
        yield ""
        yield f"No attempt starts later than {plan.max_elapsed:g} s after the first."
    elif last < plan.attempts:
        yield ""
        yield f"The backoff ends here: attempt {last} is the last."


def _cell(seconds: float) -> str:
    return f"{seconds:9.3f}"
