"""What tests share: jobs, clocks and timers moved by hand, processes to kill, an interrupt."""

from pathlib import Path

TESTS = Path(__file__).parents[1]
"""The folder of all tests: on the PYTHONPATH of a process that a test starts, for its imports."""
