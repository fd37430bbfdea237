"""Numbers and traces for the systems that programs are watched with.

`retryexec.telemetry.prometheus` and `retryexec.telemetry.opentelemetry`, each with an extra of its
name.
"""
