"""The engines' own HTTP servers on a CPU, started and ended by tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1", "VLLM_SERVER_DEV_MODE": "1",
}  # fmt: skip
_COMMANDS = {
    "vllm": [
        "vllm.entrypoints.openai.api_server", "--enforce-eager", "--dtype", "float32", "--enable-prompt-tokens-details",
    ],
    "sglang": [
        "sglang.launch_server", "--device", "cpu", "--attention-backend", "torch_native", "--sampling-backend",
        "pytorch", "--grammar-backend", "none", "--disable-cuda-graph", "--disable-overlap-schedule",
        "--skip-server-warmup", "--sleep-on-idle", "--dtype", "float32", "--enable-cache-report",
    ],
}  # fmt: skip
_EVENTS = {
    "vllm": '{"enable_kv_cache_events": true, "publisher": "zmq", "endpoint": "%s", "topic": "kv"}',
    "sglang": '{"publisher": "zmq", "endpoint": "%s", "topic": "kv"}',
}


class Server:
    """One real server of a `kind`, vllm or sglang, in a session of its own, so that it ends with all its children.

    `options` are its sizes, on its command line. Its log and the socket of its events are in `folder`.
    """

    def __init__(self, kind: str, model: Path, folder: str, options: Sequence[str]) -> None:
        self.kind = kind
        self.events = f"ipc://{folder}/{kind}"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = Path(folder, f"{kind}.log")
        self._command = [sys.executable, "-m", *_COMMANDS[kind], *options, "--port", str(self.port)]
        self._command += ["--model" if kind == "vllm" else "--model-path", str(model), "--served-model-name", "small"]
        self._command += ["--kv-events-config", _EVENTS[kind] % self.events]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it answers some time later."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=os.environ | ENVIRONMENT, start_new_session=True
            )

    def kill(self) -> None:
        """End it now, with all that it started. Killing twice is harmless."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def log(self) -> str:
        """Return the last of what it wrote."""
        return self._log.read_text(errors="replace")[-3000:]
