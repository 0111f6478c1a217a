"""What traces cost: single readings over 64 connections, synced, by what the settings say of a collector.

    python benchmarks/traces.py --rounds 6 --seconds 1

Platforms without a collector, a second one of these as a control (what the machine's noise alone makes of it), with one
and a share of 0, and with one and a share of 0.01. All run all the while and are loaded in turns, each equally often at
each place. Prints one JSON line: medians of requests a second and of CPU, and the cost against the first of each round.
"""

from __future__ import annotations

import argparse
import statistics
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from door import cuts, in_turns
from stack import say, stack

SHARES = {"off": None, "control": None, "share 0": "0", "share 0.01": "0.01"}


class Collector(BaseHTTPRequestHandler):
    """Takes everything and looks at nothing."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=1)
    arguments = parser.parse_args()
    collector = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{collector.server_address[1]}"
    with ExitStack() as stacks:
        ways = {
            name: (
                stacks.enter_context(
                    stack(**({} if share is None else {"otlp__endpoint": endpoint, "otlp__ratio": share}))
                ),
                {},
            )
            for name, share in SHARES.items()
        }
        for platform, _ in ways.values():
            platform.organizations("bench", 1)
        found = in_turns(ways, arguments.rounds, arguments.seconds)
        lost = {name: platform.metrics().get("spans_lost_total", 0.0) for name, (platform, _) in ways.items()}
    costs = {
        name: [
            100 * (1 - one["requests_per_s"] / off["requests_per_s"]) for off, one in zip(found["off"], of, strict=True)
        ]
        for name, of in found.items()
        if name != "off"
    }
    say(
        benchmark="traces",
        rounds=arguments.rounds,
        requests_per_s={
            name: round(statistics.median(one["requests_per_s"] for one in of)) for name, of in found.items()
        },
        cpu_us_of_a_request={
            name: round(statistics.median(sum(one["cpu_us"].values()) for one in of), 1) for name, of in found.items()
        },
        cost_percent={name: [round(cut, 1) for cut in cuts(of)] for name, of in costs.items()},
        spans_lost=lost,
        shares_cores=True,
    )


if __name__ == "__main__":
    main()
