"""Latency, throughput and memory of one model or of many; see docs/timing.md."""
