"""Debian's Prometheus on the configuration that Ray writes, and the queries of our Grafana dashboard."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from tests.limits import HANG_S, wait_until

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "cluster" / "grafana" / "rlhf.json"
INSTALL = "this test needs Prometheus: apt-get install prometheus"
SCRAPE = "scrape_interval: 10s"


@dataclass(frozen=True)
class Query:
    """What a panel asks for, with the dashboard's variables filled in as Grafana does for `All`."""

    panel: str
    expression: str


def panels() -> list[dict[str, Any]]:
    """Every panel that draws something."""
    content = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [panel for panel in content["panels"] if panel["type"] != "row"]


def queries() -> list[Query]:
    """Every query of every panel."""
    return [
        Query(panel["title"], target["expr"].replace("$run", ".*"))
        for panel in panels() for target in panel["targets"]
    ]


@dataclass(frozen=True)
class Prometheus:
    """A server that scrapes a cluster."""

    url: str

    def series(self, expression: str) -> list[dict[str, Any]]:
        """What an instant query returns: labels and value of each series. AssertionError where it is refused."""
        with urlopen(f"{self.url}/api/v1/query?{urlencode({'query': expression})}", timeout=HANG_S) as answer:
            content = json.load(answer)
        assert content["status"] == "success" and content["data"]["resultType"] == "vector", content
        return content["data"]["result"]

    def returns(self, query: Query) -> bool:
        """Whether a query brings at least one number."""
        return any(series["value"][1] != "NaN" for series in self.series(query.expression))

    def is_ready(self) -> bool:
        try:
            with urlopen(f"{self.url}/-/ready", timeout=HANG_S) as answer:
                return answer.status == 200
        except (URLError, ConnectionError):
            return False


@contextmanager
def scraping(written_by_ray: Path, directory: Path, port: int) -> Iterator[Prometheus]:
    """Prometheus on Ray's own configuration, only that it looks every five seconds instead of every ten."""
    text = written_by_ray.read_text()
    assert SCRAPE in text
    config = directory / "prometheus.yml"
    config.write_text(text.replace(SCRAPE, "scrape_interval: 5s"))
    command = [
        str(shutil.which("prometheus")), f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]
    log = directory / "prometheus.log"
    with open(log, "w") as stream:
        server = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
    found = Prometheus(f"http://127.0.0.1:{port}")
    try:
        wait_until(found.is_ready, lambda: server.poll() is None, f"Prometheus ({log})")
        yield found
    finally:
        server.terminate()
        server.wait(HANG_S)
