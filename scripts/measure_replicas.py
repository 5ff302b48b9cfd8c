#!/usr/bin/env python3
"""Measure answers per second of one server, of one behind HAProxy, and of several behind HAProxy, on this machine.

    scripts/measure_replicas.py --seconds 15 --clients 8 --replicas 3

Every server gets one thread per model, so that several of them use what one leaves free. `--task text` measures what
HAProxy itself costs, `--task ocr` what the replicas gain. Debian's HAProxy is needed (apt install haproxy).
"""

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "running")]

from server import Client, RunningServer, fill_cache, free_port  # noqa: E402 - of tests/
from test_haproxy import HaProxy, Request, ask, replica, requests  # noqa: E402

TASKS = {"image": 0, "ocr": 1, "text": 2}


def measure(port: int, request: Request, clients: int, seconds: float) -> tuple[float, float]:
    """Answers per second, and the median latency in ms, of clients that wait for each answer."""
    latencies: list[float] = []
    end = time.monotonic() + seconds

    def work() -> None:
        with Client(port) as client:
            while (begun := time.monotonic()) < end:
                ask(client, *request)
                latencies.append(time.monotonic() - begun)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(latencies) / (time.monotonic() - begun), statistics.median(latencies) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure one server against several behind HAProxy.")
    parser.add_argument("--task", choices=sorted(TASKS), default="ocr")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=2, help="each way so many times, in turn")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--replicas", type=int, default=3)
    options = parser.parse_args()
    request = requests()[TASKS[options.task]]
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        cache = fill_cache(folder / "cache")

        def started() -> RunningServer:
            return stack.enter_context(replica(cache, folder, free_port()))

        def proxied(servers: list[RunningServer]) -> int:
            where = Path(tempfile.mkdtemp(dir=folder))
            return stack.enter_context(HaProxy(where, [server.port for server in servers])).port

        servers = [started() for _ in range(options.replicas)]
        ways = {
            "one, directly": servers[0].port,
            "one, behind HAProxy": proxied(servers[:1]),
            f"{options.replicas}, behind HAProxy": proxied(servers),
        }
        for server in servers:
            measure(server.port, request, options.clients, 1)  # loads the model
        print(f"{options.task}, {options.clients} clients, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} before")
        for _ in range(options.rounds):
            for way, port in ways.items():
                rate, latency = measure(port, request, options.clients, options.seconds)
                print(f"  {way:22} {rate:7.1f}/s   median {latency:6.0f} ms", flush=True)


if __name__ == "__main__":
    main()
