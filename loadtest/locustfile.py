"""What Locust loads: ``locust -f loadtest/locustfile.py`` opens its web interface on this scenario."""

import sys
from pathlib import Path

# Locust puts this file's own folder on the path; the packages stand beside that folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loadtest import exposition, scenario
from loadtest.scenario import Bettor

__all__ = ["Bettor"]

scenario.register()
exposition.register()
