"""As much of Weights & Biases' server as `wandb sweep` and `wandb agent` need, on this machine.

It hands out trials of its own and keeps what it is asked. Runs are not its business: they are
offline in the tests.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

SWEEP_ID = "sw33p1d0"


class Server:
    """What the server knows.

    Args:
        trials: Arguments of the trials, handed out in this order.
    """

    def __init__(self, trials: list[dict]) -> None:
        self._waiting = list(trials)
        self.sweep_yaml = ""  # the configuration as the client sent it
        self.project = ""
        self.program = "segdcn"

    def answer(self, operation: str, variables: dict) -> dict:
        """Answer one GraphQL operation."""
        match operation:
            case "UpsertSweep":
                self.sweep_yaml, self.project = variables["config"], variables["projectName"]
                project = {"id": "p", "name": variables["projectName"], "entity": {"id": "e", "name": "someone"}}
                return {
                    "upsertSweep": {"sweep": {"name": SWEEP_ID, "project": project}, "configValidationWarnings": []}
                }
            case "SweepWithRuns":
                return {
                    "project": {
                        "sweep": {"id": "s", "name": SWEEP_ID, "config": self.sweep_yaml, "runs": {"edges": []}}
                    }
                }
            case "CreateAgent":
                return {"createAgent": {"agent": {"id": "agent"}}}
            case "Heartbeat":
                return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(self._command(variables))}}
        return VIEWER if "viewer" in operation.lower() else {}

    def _command(self, variables: dict) -> list[dict]:
        if json.loads(variables["runState"]):  # it is busy
            return []
        if not self._waiting:
            return [{"type": "exit"}]
        arguments = {name: {"value": value} for name, value in self._waiting.pop(0).items()}
        return [{"type": "run", "run_id": f"run{len(self._waiting)}", "program": self.program, "args": arguments}]


VIEWER = {"viewer": {"id": "v", "entity": "someone", "username": "someone", "flags": "{}", "teams": {"edges": []}}}


@contextmanager
def serving(server: Server) -> Iterator[str]:
    """Serve on a free port; gives the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802
            if self.path != "/graphql":  # telemetry
                self.send_error(404)
                return
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = re.search(r"(?:query|mutation)\s+(\w+)", body["query"])
            answer = server.answer(name[1] if name else "unnamed", body.get("variables") or {})
            text = json.dumps({"data": answer}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}"
    finally:
        listening.shutdown()
        listening.server_close()
