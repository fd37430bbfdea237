"""What telemetry needs is asked for when it is used, and says which extra brings it."""

import subprocess
import sys

import pytest


def run(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


@pytest.mark.parametrize(
    ("extra", "module"),
    [("prometheus", "prometheus_client"), ("opentelemetry", "opentelemetry.trace")],
)
def test_a_missing_package_is_named_with_its_extra(extra: str, module: str) -> None:
    missing = f"import sys; sys.modules[{module!r}] = None"
    done = run(f"{missing}; import retryexec.telemetry.{extra}")
    assert done.returncode == 1
    told = f"retryexec.telemetry.{extra} needs {module}: pip install 'retryexec[{extra}]'"
    assert done.stderr.splitlines()[-1] == f"ImportError: {told}"


def test_an_executor_imports_none_of_it() -> None:
    done = run("import sys; from retryexec import RetryingExecutor; print(*sys.modules)")
    loaded = done.stdout.split()
    assert "retryexec._core.pool" in loaded
    assert not {"retryexec._core.observed", "retryexec.telemetry"} & {*loaded}
    assert not [name for name in loaded if name.startswith(("opentelemetry", "prometheus"))]


@pytest.mark.parametrize("extra", ["prometheus", "opentelemetry"])
def test_telemetry_imports_no_journal(extra: str) -> None:
    done = run(f"import sys, retryexec.telemetry.{extra}; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    assert not [name for name in loaded if name.startswith(("retryexec.journal", "msgspec"))]
