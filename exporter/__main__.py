"""``python -m exporter``: serve the metrics of a directory until told to stop."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from exporter.app import create_app
from exporter.logs import set_up_logs
from exporter.serving import AddressError, check_address, read_port, serve
from smartcache.config import CacheConfig
from smartcache.errors import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the exporter; it ends with 0 when it was told to stop and answers 2 when it cannot start."""
    parser = argparse.ArgumentParser("python -m exporter", description="Expose smartcache's metrics to Prometheus.")
    parser.add_argument("--dir", help="folder of metrics files (SMARTCACHE_METRICS_DIR)")
    parser.add_argument("--host", help="address to listen on (EXPORTER_HOST, 127.0.0.1)")
    parser.add_argument("--port", help="port to listen on (EXPORTER_PORT, 9464)")
    given = parser.parse_args(arguments)
    set_up_logs()
    try:
        config = CacheConfig.from_env()
        directory = given.dir or config.metrics_dir
        host = given.host or os.environ.get("EXPORTER_HOST") or "127.0.0.1"
        port = read_port(given.port or os.environ.get("EXPORTER_PORT") or "9464", "EXPORTER_PORT")
        app = create_app(Path(directory) if directory else None, config.resets)
        check_address(host, port, "EXPORTER")
    except (ConfigError, AddressError) as error:
        print(f"exporter: {error}", file=sys.stderr)
        return 2
    return serve(app, host, port, f"exporter: ready on http://{host}:{port}/metrics")


if __name__ == "__main__":
    sys.exit(main())
