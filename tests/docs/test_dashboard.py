"""The dashboard for Grafana: whole, and about metrics that there are."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from retryexec import RetryingExecutor
from retryexec.guards import CircuitBreaker
from retryexec.journal import MemoryJournal
from retryexec.telemetry.prometheus import Collector

FILE = Path(__file__).parents[2] / "docs/examples/grafana/retryexec.json"
BOARD: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = BOARD["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]


@pytest.fixture(scope="module")
def labels() -> dict[str, set[str]]:
    """The labels of each metric that there is."""
    journal = MemoryJournal(jobs={})
    with RetryingExecutor(1, guards=[CircuitBreaker()]) as plain:
        everything = Collector(plain, per_job=True, attempt_seconds=True, start_delay=True)
        plain.submit(len, "").result(10)
        with RetryingExecutor(1, journal=journal) as journaled:
            everything.add(journaled)
            found: dict[str, set[str]] = {}
            for family in everything.collect():
                for sample in family.samples:
                    found.setdefault(sample.name, set()).update(sample.labels)
    return found


def names_in(query: str) -> set[str]:
    return set(re.findall(r"\bretryexec_\w+", query))


def test_it_is_what_grafana_loads() -> None:
    assert isinstance(BOARD["schemaVersion"], int)
    assert BOARD["title"]
    assert "id" not in BOARD, "it would take the place of somebody's own"
    numbers = [panel["id"] for panel in PANELS]
    assert len(numbers) == len(set(numbers))
    for panel in PANELS:
        assert panel["type"] in {"timeseries", "stat"}
        assert panel["title"]
        assert panel["description"]
        assert panel["targets"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references))
        place = panel["gridPos"]
        assert 0 <= place["x"] <= place["x"] + place["w"] <= 24


def test_panels_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in PANELS]
    for one, other in combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)


def test_its_source_is_the_readers_own() -> None:
    """No name of a data source that is there on one machine alone."""
    sources = [item["datasource"] for panel in PANELS for item in (panel, *panel["targets"])]
    assert {source["uid"] for source in sources} == {"${datasource}"}
    variables = {variable["name"] for variable in BOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(PANELS))) - {"__rate_interval"}
    assert used == variables


@pytest.mark.parametrize("query", QUERIES)
def test_queries_are_about_metrics_and_labels_that_there_are(
    query: str, labels: dict[str, set[str]]
) -> None:
    names = names_in(query)
    assert names
    assert names <= set(labels)
    # Prometheus has a label `job` of its own, and calls ours `exported_job`.
    known = {label.replace("job", "exported_job") for name in names for label in labels[name]}
    grouped = {label for by in re.findall(r"by \(([^)]*)\)", query) for label in by.split(", ")}
    selected = set(re.findall(r"[{,](\w+)=", query))
    assert grouped | selected <= known
    assert query.count("(") == query.count(")")
    assert query.count("{") == query.count("}")


def test_every_metric_is_in_it(labels: dict[str, set[str]]) -> None:
    shown = set().union(*map(names_in, QUERIES))
    assert shown == {name for name in labels if not name.endswith(("_sum", "_count"))}


def test_legends_name_labels_of_their_queries() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert f"by ({label})" in target["expr"]
