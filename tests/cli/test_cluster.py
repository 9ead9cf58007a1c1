"""A run on a Dask cluster: the rows of a local run, whatever becomes of the workers."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.fatal_slides import make_slides_fatal
from tnet_cli.classification.cluster import connected
from tnet_cli.classification.run import RunRequest, run_classify
from tnet_cli.errors import UsageError
from tnet_cli.inference.progress import Progress

# Dask's own threads and sockets end when they like.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.timeout(280),
]


@pytest.fixture(scope="module")
def slides(drawn_slide, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of slides that end in every way."""
    folder = tmp_path_factory.mktemp("slides")
    for number in range(6):
        shutil.copy(drawn_slide(), folder / f"s{number}.tif")
    (folder / "broken.svs").write_bytes(b"not a slide at all")
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two worker processes on this machine."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", silence_logs="CRITICAL"
    ) as running:
        yield running


def run(out: Path, slides: Path, model: Path, **named: Any) -> list[dict[str, str]]:
    progress = named.pop("progress", None)
    run_classify(RunRequest(inputs=[str(slides)], out=out, model=str(model), **named), progress)
    with (out / "predictions.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def local_rows(slides: Path, untrained_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """The rows of a run without a cluster."""
    return run(tmp_path_factory.mktemp("local"), slides, untrained_model)


def almost(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Round what the number of threads may change in its last digit."""
    return [
        {
            key: round(float(value), 4) if key.startswith("prob") and value and key != "prediction" else value
            for key, value in row.items()
        }
        for row in rows
    ]


def test_rows_files_and_messages_are_those_of_a_local_run(cluster, slides, untrained_model, local_rows, tmp_path):
    rows = run(tmp_path, slides, untrained_model, cluster=cluster.scheduler_address)
    assert almost(rows) == almost(local_rows)
    assert [row["status"] for row in rows].count("failed") == 1
    files = {path.name for path in (tmp_path / "slides" / "s0").iterdir()}
    assert files == {"result.json", "regions.csv", "regions.geojson", "overlay.png"}
    again: list[int] = []

    class Counting(Progress):
        def start(self, slides, introduction):
            again.append(slides)

    assert run(tmp_path, slides, untrained_model, cluster=cluster.scheduler_address, progress=Counting()) == rows
    assert again == [1], "only the slide that failed is tried again"


def test_workers_on_this_machine_by_one_word_and_a_slide_that_ends_them(
    tnet, slides, untrained_model, tmp_path, monkeypatch
):
    make_slides_fatal(tmp_path / "site", monkeypatch)
    shutil.copy(slides / "s0.tif", tmp_path / "fatal.tif")
    command = ["classify", "fatal.tif", slides / "s0.tif", "-m", untrained_model, "-o", "out", "--json"]
    ran = tnet(*command, "--cluster", "local", "--workers", "1")
    assert ran.code == 6, ran.err
    assert [row["status"] for row in json.loads(ran.out)["slides"]] == ["failed", "ok"]
    assert "fatal.tif: reading it ended the process that read it alone (killed by signal SIGABRT)" in ran.err
    assert "Traceback" not in ran.err
    assert (tmp_path / "out" / "report.html").exists()


def test_nobody_else_can_talk_to_workers_on_this_machine():
    distributed = pytest.importorskip("distributed")
    with connected("local", 1) as client:
        address = client.scheduler.address
        assert address.startswith("tls://127.0.0.1:")
        with pytest.raises(OSError, match="TLS certificate does not match"):
            distributed.Client(address, security=distributed.Security.temporary(), timeout=1)
        port = client.scheduler_info()["services"]["dashboard"]
        for page in ("", "info/main/workers.html", "json/identity.json", "status", "health"):
            with pytest.raises(HTTPError, match="404"):
                urlopen(f"http://127.0.0.1:{port}/{page}", timeout=10)


def test_nobody_at_the_address(tmp_path, slides, untrained_model, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("tnet_cli.classification.cluster.CONNECT_S", 0.5)
    with pytest.raises(UsageError, match=r"--cluster tcp://127\.0\.0\.1:9: no Dask scheduler answers there"):
        run(tmp_path, slides, untrained_model, cluster="tcp://127.0.0.1:9")
    with pytest.raises(UsageError, match="no Dask scheduler answers there"):
        run(tmp_path, slides, untrained_model, cluster="nonsense://")


def test_the_package_that_is_missing_is_named(tmp_path, slides, untrained_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"install them with: pip install 'tnet-cli\[cluster\]'"):
        run(tmp_path, slides, untrained_model, cluster="tcp://127.0.0.1:9")


def test_another_version_on_the_workers_is_named(cluster, tmp_path, slides, untrained_model, monkeypatch):
    monkeypatch.setattr("tnet_cli.inference.worker.version", lambda _name: "0.0.1")
    with pytest.raises(UsageError, match=r"a worker of the cluster has tnet .*, and this is tnet 0\.0\.1"):
        run(tmp_path, slides, untrained_model, cluster=cluster.scheduler_address)


SCHEDULER = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None) as it:
        print(it.scheduler_address, flush=True)
        sys.stdin.read()
"""


def test_a_scheduler_that_dies_ends_the_run_in_one_sentence(tnet, slides, untrained_model, tmp_path, monkeypatch):
    command = [sys.executable, "-c", SCHEDULER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as scheduler:
        assert scheduler.stdout is not None
        address = scheduler.stdout.readline().strip()
        monkeypatch.setattr("tnet_cli.classification.cluster.CONNECT_S", 3)
        monkeypatch.setattr("tnet_cli.cli.terminal.SlideProgress.slide_done", lambda *_: scheduler.kill())
        ran = tnet("classify", slides, "-m", untrained_model, "--no-overlay", "--cluster", address)
    assert ran.code == 6
    sentence = f"tnet: --cluster {address}: the cluster is gone; what is done is kept; run the same command again"
    assert ran.err.splitlines()[-1] == sentence
    assert len(ran.err.strip().splitlines()) <= 3, ran.err
    with (tmp_path / "tnet-out" / "predictions.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) >= 1


def test_a_worker_that_is_killed_loses_nothing(cluster, slides, untrained_model, local_rows, tmp_path):
    victims = [worker.process.pid for worker in cluster.workers.values()]

    class Killing(Progress):
        def slide_done(self, row):
            if victims:
                os.kill(victims.pop(), signal.SIGKILL)

    rows = run(tmp_path, slides, untrained_model, cluster=cluster.scheduler_address, progress=Killing())
    assert victims == []
    assert almost(rows) == almost(local_rows)
