"""What a slide behind a URL costs against the same slide on disk: bytes moved and time, in one run on loopback.

nginx serves it over HTTP, and as S3 does, which for reading is HTTP with other headers; moto's server over S3 too. moto
reads the whole object for each request, so what a plain client waits for one range of it is told beside.
Whole processes, one after the other, each way in turn.

Run: python benchmarks/remote.py [--slide SLIDE.tif] [--side 38730] [--rounds 3]
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tnet_cli.inputs.options import DEMO_MODEL
from tnet_cli.synth.synthesis import write_synthetic_slide

BUCKET = "slides"

NGINX = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  log_format sent "$body_bytes_sent";
  access_log {folder}/access.log sent;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def web_server(slide: Path, folder: Path) -> Iterator[str]:
    """Serve a slide by nginx, in a folder named as the bucket; give the server's URL."""
    port = free_port()
    (folder / "www").mkdir()
    (folder / "www" / BUCKET).symlink_to(slide.parent)
    settings = folder / "nginx.conf"
    settings.write_text(
        "user root;" * (os.geteuid() == 0) + NGINX.format(folder=folder, port=port, root=folder / "www")
    )
    with subprocess.Popen(["nginx", "-c", str(settings)], stderr=subprocess.DEVNULL) as nginx:
        wait_for(port)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            nginx.terminate()


def s3_environment(endpoint: str) -> dict[str, str]:
    """Return the environment that leads to an S3 server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@contextmanager
def moto_server(slide: Path) -> Iterator[tuple[str, float]]:
    """Serve a slide by moto; give the server's URL, and the seconds a plain client waits for one range."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as moto:
        wait_for(port)
        try:
            os.environ.update(s3_environment(endpoint))
            import boto3

            client = boto3.client("s3")
            client.create_bucket(Bucket=BUCKET)
            client.upload_file(str(slide), BUCKET, slide.name)
            waits = []
            for number in range(9):
                started = time.perf_counter()
                wanted = f"bytes={number * 50_000}-{number * 50_000 + 15_000}"
                client.get_object(Bucket=BUCKET, Key=slide.name, Range=wanted)["Body"].read()
                waits.append(time.perf_counter() - started)
            yield endpoint, statistics.median(waits)
        finally:
            moto.terminate()


def wait_for(port: int) -> None:
    """Wait until somebody listens."""
    for _ in range(300):
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"nobody listens on port {port}")


def classify(where: str, model: str, out: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Classify in a new process; return its wall seconds, the slide's own, and the bytes it read."""
    command = [sys.executable, "-m", "tnet_cli", "classify", where, "-m", model, "-o", str(out)]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "--overwrite", "--no-overlay", "--json"],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    seconds = time.perf_counter() - started
    (row,) = json.loads(done.stdout)["slides"]
    details = json.loads((out / "slides" / row["slide"] / "result.json").read_text())
    return {
        "process_seconds": seconds,
        "slide_seconds": row["seconds"],
        "bytes": details["bytes_read"],
        "answer": (row["prediction"], row["probability"], row["locations"]),
    }


def measure(slide: Path, model: str, rounds: int, folder: Path) -> dict[str, Any]:
    """Measure all ways in turn."""
    size = slide.stat().st_size
    found: dict[str, list[dict[str, Any]]] = {"disk": [], "http": [], "s3 by nginx": [], "s3 by moto": []}
    logged: list[int] = []
    s3_url = f"s3://{BUCKET}/{slide.name}"
    with web_server(slide, folder) as web, moto_server(slide) as (moto, moto_wait_s):
        for _ in range(rounds):
            found["disk"].append(classify(str(slide), model, folder / "out", {}))
            (folder / "access.log").write_text("")
            found["http"].append(classify(f"{web}/{BUCKET}/{slide.name}", model, folder / "out", {}))
            logged.append(sum(int(line) for line in (folder / "access.log").read_text().split()))
            found["s3 by nginx"].append(classify(s3_url, model, folder / "out", s3_environment(web)))
            found["s3 by moto"].append(classify(s3_url, model, folder / "out", s3_environment(moto)))
    answers = {tuple(each["answer"]) for many in found.values() for each in many}
    summary: dict[str, Any] = {"slide_bytes": size, "same_answer": len(answers) == 1}
    for way, many in found.items():
        summary[way] = {
            name: statistics.median(each[name] for each in many)
            for name in ("process_seconds", "slide_seconds", "bytes")
        }
        summary[way]["fraction_of_bytes"] = summary[way]["bytes"] / size
        for name in ("process_seconds", "slide_seconds"):
            summary[way][f"{name}_against_disk"] = summary[way][name] / summary["disk"][name]
    summary["s3 by moto"]["seconds_for_one_range"] = moto_wait_s
    summary["http"]["fraction_of_bytes_by_the_server's_log"] = statistics.median(logged) / size
    return summary


def main() -> None:
    """Measure, and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--side", type=int, default=38_730)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default=DEMO_MODEL)
    given = parser.parse_args()
    if shutil.which("nginx") is None:
        sys.exit("nginx is not installed; it is needed to serve the slide")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        slide = given.slide
        if slide is None:
            slide = folder / "slide.tif"
            write_synthetic_slide(slide, seed=3, side_px=given.side, label="lesion")
        print(json.dumps(measure(slide.resolve(), given.model, given.rounds, folder), indent=2))


if __name__ == "__main__":
    main()
