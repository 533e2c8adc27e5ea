"""Real processes on loopback for tests and benchmarks: Redis, web, workers, a proxy, two releases."""
