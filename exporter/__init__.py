"""What every process counted, added up and exposed to Prometheus."""
