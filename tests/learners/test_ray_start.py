"""Starting Ray: clusters that are gone, folders whose path is too long. Each is one line, found within seconds."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.learners import ray_start


@pytest.fixture
def closed_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]  # bound, but nobody listens


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()


def leave_address(folder, address):
    """What `ray start` leaves behind."""
    (folder / "ray/ray_current_cluster").write_text(address)


def test_a_dead_address_is_named(monkeypatch, closed_port):
    for address in (f"127.0.0.1:{closed_port}", f"ray://127.0.0.1:{closed_port}"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(UserError, match=f"RAY_ADDRESS: no Ray answers at {address}"):
            ray_start.start_or_join()


@pytest.mark.parametrize("address", ["nonsense", "host:", "host:port", ":1234", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_named(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match="RAY_ADDRESS: "):
        ray_start.start_or_join()


def test_the_file_of_a_killed_cluster_is_left_alone(tmp_path, closed_port, listening, caplog):
    assert ray_start._cluster_address() is None
    leave_address(tmp_path, f"127.0.0.1:{closed_port}")
    assert ray_start._cluster_address() is None
    assert "does not answer; Ray is started here" in caplog.text
    leave_address(tmp_path, listening)
    assert ray_start._cluster_address() == listening


def test_auto_needs_a_cluster(monkeypatch, tmp_path, listening):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(UserError, match="RAY_ADDRESS: it says auto, and no Ray runs"):
        ray_start.start_or_join()
    leave_address(tmp_path, listening)
    assert ray_start._cluster_address() == listening
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert ray_start._cluster_address() is None


def test_a_long_folder_gives_way_to_a_short_one(monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/" + "a" * 80)
    with pytest.raises(UserError, match=r"RAY_TMPDIR: .* is too long for Ray's sockets"):
        ray_start.start_local()
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setenv("TMPDIR", "/" + "a" * 80)
    assert ray_start._temp_folder() == ray_start.SHORT_FOLDER
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert ray_start._temp_folder() is None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_of_one_process_needs_no_cluster_and_no_short_folder(closed_port, tmp_path):
    code = (
        "import ray; from sharegrpo_rl.config import resolve; from sharegrpo_rl.learners.placement import start_ray;"
        "start_ray(resolve('GRPO', {})); print('started', ray.is_initialized())"
    )
    folder = tmp_path / ("a" * 80)
    folder.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "RAY_TMPDIR"}
    environment |= {"RAY_ADDRESS": f"127.0.0.1:{closed_port}", "TMPDIR": str(folder), "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "started True" in done.stdout, done.stderr[-2000:]


@pytest.mark.slow
def test_a_cluster_that_asks_for_a_token_is_named(tmp_path, monkeypatch):
    """As `ray start --head` does once a local run has left ~/.ray/auth_token."""
    home, temp = tmp_path / "home", tempfile.mkdtemp(dir="/tmp")
    (home / ".ray").mkdir(parents=True)
    (home / ".ray/auth_token").write_text("0123456789abcdef" * 4)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray_program = str(Path(sys.executable).with_name("ray"))
    arguments = [
        "--head",
        f"--port={port}",
        f"--temp-dir={temp}",
        "--num-cpus=1",
        "--include-dashboard=false",
        "--block",
    ]
    environment = {**os.environ, "HOME": str(home), "RAY_AUTH_MODE": "token"}
    head = subprocess.Popen([ray_program, "start", *arguments], env=environment, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not ray_start._answers(f"127.0.0.1:{port}"):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        with pytest.raises(
            UserError, match=r"does not let this run in \(ConnectionError.*the head node's ~/.ray/auth_token"
        ):
            ray_start.start_or_join()
    finally:
        head.terminate()
        head.wait()
        shutil.rmtree(temp, ignore_errors=True)
