"""The load: a Locust scenario over the real fixtures, the release gate, and the demo's evening."""
