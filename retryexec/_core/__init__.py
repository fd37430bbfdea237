"""The machine behind the executor."""
