"""How long ComfyUI takes to start with this pack and without it.

    python -m benchmarks.bench_comfyui_start --comfy <checkout> --python <its python> --times 3 --out start.json

Seconds from the start of the process to the first answer of /object_info, on the CPU, in turn; and the seconds that
ComfyUI itself says the import of the pack took.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def start(comfy: Path, python: str, home: Path, arguments: list[str]) -> tuple[float, float | None]:
    """Seconds until the server of base folder `home` answers, and those of importing the pack, None without it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [python, str(comfy / "main.py"), "--cpu", "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--base-directory", str(home), "--database-url", f"sqlite:///{home}/comfyui.db"]
    command += ["--disable-auto-launch", *arguments]
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(home.parent / "pyc"), "PYTHONUNBUFFERED": "1"}
    log = home / "server.log"
    with open(log, "w") as file:
        begin = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"the server ended:\n{log.read_text()[-2000:]}")
            try:
                with _OPENER.open(f"http://127.0.0.1:{port}/object_info", timeout=60) as answer:
                    has_pack = "DWPoseEstimate" in json.load(answer)
                break
            except urllib.error.URLError:
                time.sleep(0.05)
        seconds = time.perf_counter() - begin
    finally:
        process.terminate()
        process.wait(60)
    assert has_pack == (home.name == "with")
    found = re.search(r"([\d.]+) seconds[^\n]*dwpose-pack", log.read_text())
    return seconds, float(found[1]) if found else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comfy", type=Path, required=True, help="a ComfyUI checkout")
    parser.add_argument("--python", default="python", help="a Python with its requirements")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--argument", action="append", default=[], help="another argument for main.py; repeat")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    version = re.search(r'__version__ = "([^"]+)"', (args.comfy / "comfyui_version.py").read_text())[1]
    seconds: dict[str, list[float]] = {"without": [], "with": []}
    imports = []
    with tempfile.TemporaryDirectory() as folder:
        for name in seconds:
            for sub in ("models", "custom_nodes", "input", "output", "temp", "user"):
                (Path(folder) / name / sub).mkdir(parents=True)
        os.symlink(ROOT, Path(folder) / "with" / "custom_nodes" / "dwpose-pack")
        start(args.comfy, args.python, Path(folder) / "with", args.argument)  # byte code and disk cache
        for _ in range(args.times):
            for name, values in seconds.items():
                took, imported = start(args.comfy, args.python, Path(folder) / name, args.argument)
                values.append(round(took, 2))
                imports += [imported] if imported is not None else []
                print(f"{name}: {took:.2f} s", flush=True)
    result = {
        "comfyui": version,
        "seconds": seconds,
        "median": {name: statistics.median(values) for name, values in seconds.items()},
        "import_of_the_pack": imports,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
