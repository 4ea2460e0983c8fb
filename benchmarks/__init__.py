"""Speed, measured by one command: python -m benchmarks.speed."""
