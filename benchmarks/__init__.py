"""Measurements, each by one command: python -m benchmarks.speed."""
