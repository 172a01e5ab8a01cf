"""The served page: what it answers to whom, that it only reads, and that it follows the run, in a real browser too."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from chromium import chromium
from run_maker import RunMaker, _row
from test_run_report import make_group

from sharegrpo_rl.cli import run as run_command
from sharegrpo_rl.envs.registry import make_bank
from sharegrpo_rl.reports import watch
from sharegrpo_rl.runs.journal import RolloutLog, group_entry
from sharegrpo_rl.search.file import resolve_search
from sharegrpo_rl.search.journal import EVENTS, PARAMS, Journal, search_params
from sharegrpo_rl.search.results import read_search

ROUTES = ("/", "/state", "/watch.js", "/rollout_browser.js", "/style.css")
SEARCH = {
    "run": "ShareGRPO",
    "env": "DrawnShapes-v0",
    "stop": {"training_iteration": 4},
    "config": {"num_questions": 2, "num_generations": {"choice": [3, 4]}, "lr": {"loguniform": [1e-4, 3e-2]}},
    "tune": {"num_samples": 3},
}


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every change is shown at once."""
    monkeypatch.setattr(watch, "PAUSE", 0.0)


@contextmanager
def served(folder: Path, read: watch.ReadSearch = read_search) -> Iterator[int]:
    """The port of a server in this process."""
    with watch.make_server(folder, 0, read) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def get(port: int, path: str = "/") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        return answer.read().decode()


def ask(port: int, method: str, path: str, hosts: tuple[str, ...] = ("127.0.0.1",)) -> http.client.HTTPResponse:
    """A request as it is given, without what urllib would put right."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest(method, path, skip_host=True)
    for host in hosts:
        connection.putheader("Host", host)
    connection.endheaders()
    return connection.getresponse()


def version_of(port: int) -> str:
    return json.loads(get(port, "/state"))["version"]


def add_rollouts(run: Path, iteration: int, groups: int) -> None:
    bank = make_bank("DrawnShapes-v0", {"max_questions": 200}, "train")
    made = [make_group(i, 10 * iteration + i) for i in range(groups)]
    RolloutLog(run).append(iteration, [group_entry(g, bank[g.question_index], p) for g, p in made])


def add_row(run: Path, iteration: int) -> None:
    with (run / "result.json").open("a") as file:
        file.write(json.dumps(_row(iteration, 0)) + "\n")


@pytest.fixture
def run(maker: RunMaker) -> Path:
    """Two of four iterations, with rollouts of the first."""
    path = maker.run("ShareGRPO", sets=("config.num_variants=2",), finished=False)
    add_rollouts(path, 1, 3)
    return path


@pytest.fixture
def search(tmp_path: Path) -> Path:
    """A search with one trial over and one on its way, of three."""
    folder = tmp_path / "search"
    folder.mkdir()
    params = search_params(resolve_search("shapes", SEARCH), 0, {})
    (folder / PARAMS).write_text(json.dumps(params))
    journal = Journal(folder / EVENTS, planned=4)
    for name, lr, iterations in (("0001", 1e-3, 4), ("0002", 2e-2, 2)):
        journal.append({"event": "trial", "trial": name, "values": {"config.num_generations": 3, "config.lr": lr}})
        trial = folder / "trials" / name
        trial.mkdir(parents=True)
        for i in range(1, iterations + 1):
            score = 0.2 * i + lr
            row = _row(i, 0) | {"evaluation": {"accuracy": score}}
            with (trial / "result.json").open("a") as file:
                file.write(json.dumps(row) + "\n")
            happened = {"iteration": i, "score": score, "completions": 12, "decision": "CONTINUE"}
            journal.append({"event": "result", "trial": name, **happened})
    journal.append({"event": "failure", "trial": "0002", "error": "MemoryError: <b>"})
    return folder


@pytest.fixture
def comparison(maker: RunMaker) -> Path:
    """Two methods with three planned seeds, of which nothing is finished yet."""
    maker.run("GRPO", 0, finished=False)
    methods = [
        {"label": label, "control_of": None, "runs": {str(s): f"runs/{name}-{s}" for s in range(3)}}
        for label, name in (("plain", "grpo"), ("sharing", "sharegrpo"))
    ]
    (maker.folder / "methods.json").write_text(json.dumps({"methods": methods}))
    return maker.folder


def test_it_serves_its_routes_and_nothing_else(run: Path) -> None:
    with served(run) as port:
        for route in ROUTES:
            got, head = (ask(port, method, route) for method in ("GET", "HEAD"))
            assert (got.status, head.status) == (200, 200)
            assert got.headers["X-Content-Type-Options"] == "nosniff"
            assert got.headers["Cache-Control"] == "no-store"
            assert "script-src 'self'" in got.headers["Content-Security-Policy"]
            assert "unsafe" not in got.headers["Content-Security-Policy"]
            assert "Access-Control-Allow-Origin" not in got.headers
            assert head.headers["Content-Length"] == str(len(got.read()))
            assert head.read() == b""
        for path in (
            "/params.json",
            "/../params.json",
            "/watch.js/",
            "/?",
            f"http://127.0.0.1:{port}/",
            "/%2e%2e/",
        ):
            assert ask(port, "GET", path).status == 404
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "NONSENSE"):
            assert ask(port, method, "/").status == 405


@pytest.mark.parametrize(
    ("hosts", "status"),
    [
        (("127.0.0.1",), 200),
        (("localhost:9000",), 200),  # through an ssh tunnel
        (("evil.example",), 403),
        (("127.0.0.1.evil.example:80",), 403),
        (("localhost", "evil.example"), 403),
        ((), 403),
    ],
)
def test_it_answers_to_names_of_this_machine_only(run: Path, hosts: tuple[str, ...], status: int) -> None:
    with served(run) as port:
        answer = ask(port, "GET", "/style.css", hosts)
        assert answer.status == status
        assert (b"color" in answer.read()) == (status == 200)


@pytest.mark.parametrize("kind", ["run", "search", "comparison"])
def test_it_writes_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(kind)

    def snapshot() -> dict[str, Any]:
        paths = [folder, *folder.rglob("*")]
        return {str(p): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else None) for p in paths}

    before = snapshot()
    with served(folder) as port:
        for route in ROUTES:
            assert get(port, route)
    assert snapshot() == before


def test_the_page_follows_the_run_and_is_made_once_for_a_version(run: Path) -> None:
    with served(run) as port:
        first, page = version_of(port), get(port)
        assert f'data-version="{first}"' in page
        assert "2 of 4 iterations are done" in page
        assert version_of(port) == first
        add_row(run, 3)
        second = version_of(port)
        assert second != first
        assert "3 of 4 iterations are done" in get(port)
        with (run / "result.json").open("a") as file:
            file.write('{"training_iteration": 4, "env_run')  # the run is writing it
        assert "3 of 4 iterations are done" in get(port)
        with (run / "result.json").open("r+") as file:
            file.truncate(file.read().rindex("\n") + 1)
        add_row(run, 4)
        assert "4 of 4 iterations are done" in get(port)


def test_many_tabs_make_one_page(search: Path) -> None:
    made = []

    def count(folder: Path) -> tuple[Mapping[str, Any], Mapping[str, bytes]]:
        made.append(folder)
        return read_search(folder)

    with served(search, count) as port, ThreadPoolExecutor(8) as tabs:
        pages = list(tabs.map(lambda _: get(port), range(8)))
        assert len(made) == 1
        assert len(set(pages)) == 1
        Journal(search / EVENTS, planned=4).append({"event": "end", "trial": "0002", "status": "stopped"})
        assert "2 of 3 trials are over" in list(tabs.map(lambda _: get(port), range(8)))[-1]
        assert len(made) == 2


def test_a_page_costs_a_part_of_the_time_only(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PAUSE", 1e6)
    with served(run) as port:
        first = version_of(port)
        add_row(run, 3)
        assert version_of(port) == first


def test_a_damaged_file_is_said_on_the_page_and_ends_nothing(run: Path, capsys: pytest.CaptureFixture) -> None:
    content = (run / "params.json").read_text()
    with served(run) as port:
        (run / "params.json").write_text("{")
        assert "params.json: empty or damaged, no JSON object" in get(port)
        (run / "params.json").write_text("{}")  # what nobody foresaw is told loudly, here and there
        assert "The page could not be made: KeyError" in get(port)
        assert "Traceback" in capsys.readouterr().err
        (run / "params.json").write_text(content)
        assert "2 of 4 iterations are done" in get(port)
        (run / "rollouts.jsonl").write_text("?\n")
        assert "rollouts.jsonl line 1" in get(port)
        (run / "rollouts.jsonl").unlink()
        assert "kept no rollouts yet" in get(port)


def test_it_waits_for_what_is_not_there_yet(maker: RunMaker, tmp_path: Path) -> None:
    path = maker.run("GRPO")
    whole = {file.name: file.read_text() for file in path.iterdir()}
    folder = tmp_path / "new"
    folder.mkdir()
    with served(folder) as port:
        assert "Nothing has begun in this folder yet; waiting for params.json" in get(port)
        assert json.loads(get(port, "/state"))["seconds"] is None
        (folder / "params.json").write_text(whole["params.json"])
        assert "Waiting for the warm start and the first evaluation" in get(port)
        (folder / "before.json").write_text(whole["before.json"])
        assert "Waiting for the first iteration" in get(port)
        for name, text in whole.items():
            (folder / name).write_text(text)
        assert "Greedy accuracy" in get(port)
        assert "Not finished" not in get(port)
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        assert "Nothing has begun" in get(port)


def test_a_comparison_shows_what_is_finished_and_what_goes_on(comparison: Path, maker: RunMaker) -> None:
    with served(comparison) as port:
        page = get(port)
        assert "No run is finished yet" in page
        named = (comparison / "methods.json").read_text()
        (comparison / "methods.json").write_text(named[:-9])
        assert "methods.json: empty or damaged" in get(port)
        (comparison / "methods.json").write_text(named)
        assert "0 of 6 runs are finished." in page
        assert "2 of 4" in page
        assert page.count("not begun") == 5
        assert page.count("data:image/png") > 3  # curves of the run that goes on
        for seed in range(1, 3):
            maker.run("GRPO", seed, 0.5 + 0.1 * seed)
            maker.run("ShareGRPO", seed, 0.9)
        page = get(port)
        assert "4 of 6 runs are finished." in page
        assert "plain lacks seed 0 (2 of 4 iterations)" in page
        assert "sharing and plain: 25.0 points apart" in page
        maker.run("ShareGRPO", 0, 0.8)
        for seed in range(3):
            maker.run("GRPO", seed, 0.5 + 0.1 * seed, name=f"again-{seed}")
        (comparison / "methods.json").write_text(named.replace("runs/grpo-", "runs/again-"))
        page = get(port)
        assert "<h2>Progress</h2>" not in page
        assert "Partial results" not in page


def test_a_comparison_keeps_the_settings_of_its_report(comparison: Path, maker: RunMaker) -> None:
    for seed in range(3):
        maker.run("ShareGRPO", seed, 0.8)
    (comparison / "report.json").write_text(
        json.dumps({"metric": "gain", "confidence": 0.8, "command": "sharegrpo-rl compare a"})
    )
    with served(comparison) as port:
        page = unescape(get(port))
    assert "gain in greedy accuracy" in page
    assert "80 %" in page
    assert "<pre>sharegrpo-rl compare a</pre>" in page


def test_a_search_shows_its_trials_and_curves(search: Path) -> None:
    with served(search) as port:
        page = get(port)
        assert "Search over Share-GRPO on DrawnShapes-v0, seed 0" in page
        assert "Not finished: 1 of 3 trials are over; the best so far is 0001 with evaluation/accuracy 0.801." in page
        assert page.index("0001, the best") < page.index("<td>0002</td>")
        assert "<td>2 of 4</td>" in page
        assert "MemoryError: &lt;b&gt;" in page
        assert page.count("data:image/png") == 2
        (search / "search.json").write_text(json.dumps({"ended": "budget"}))
        assert "The search has ended (budget): 1 of 3 trials are over" in get(port)


def refused(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    assert run_command(["watch", *map(str, arguments)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def test_wrong_use_is_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert "no such folder; begin the run first" in refused(capsys, tmp_path / "nothing")
    assert f"name one of them, such as {run}" in refused(capsys, run.parent)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.json").write_text("{}")
    assert "open" in refused(capsys, tmp_path / "report")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        line = refused(capsys, run, "--port", port)
    assert (
        line
        == f"error: --port {port}: cannot be had (another program has it); give another --port, or 0 for any free one\n"
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it(run: Path, number: signal.Signals, code: int) -> None:
    command = [sys.executable, "-m", "sharegrpo_rl.cli", "watch", str(run), "--port", "0"]
    ignored = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}  # as shells start what ends in "&"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **ignored) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        port = int(line.rpartition(":")[2].partition("/")[0])
        assert line == f"watching {run} at http://127.0.0.1:{port}/ (Ctrl-C ends it)\n"
        assert "2 of 4 iterations are done" in get(port)
        process.send_signal(number)
        assert process.wait(timeout=60) == code
        assert "Traceback" not in process.stderr.read()


def test_a_browser_shows_what_comes_and_keeps_what_the_reader_did(run: Path, tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as tab, served(run) as port:
        tab.open(f"http://127.0.0.1:{port}/#verdict=wrong")
        assert tab.wait("document.getElementById('count').textContent") == "24 of 36 pairs in 3 of 3 groups"
        tab.value(
            """(() => {
              window.opened_once = true;
              document.querySelector("#filters [name=iteration]").value = "1";
              document.querySelector("#filters [name=search]").value = "no";
              document.getElementById("filters").dispatchEvent(new Event("input"));
              [...document.querySelectorAll("details")].find((d) => d.innerText.startsWith("Settings")).open = true;
              window.curve = document.querySelector("figure img");
              window.curve_before = curve.src;
              window.group = document.querySelector("#groups article");
              scrollTo(0, 600);
            })()"""
        )
        count = tab.value("document.getElementById('count').textContent")
        add_rollouts(run, 3, 2)
        add_row(run, 3)
        tab.wait("document.querySelector('header').textContent.includes('3 of 4 iterations are done')")
        tab.wait("document.getElementById('count').textContent.endsWith('of 5 groups')")
        assert tab.value("document.getElementById('count').textContent") == count.replace(
            "of 36 pairs", "of 60 pairs"
        ).replace("of 3 groups", "of 5 groups")
        assert tab.value("[...document.querySelectorAll('[name=iteration] option')].map((o) => o.value)") == [
            "",
            "3",
            "1",
        ]
        kept = "[...document.querySelectorAll('#filters [name]')].map((f) => f.value).filter((v) => v)"
        assert tab.value(kept) == ["1", "wrong", "no"]
        assert tab.value("[...document.querySelectorAll('details')].filter((d) => d.open).length") == 1
        assert tab.value("[window.opened_once, scrollY]") == [True, 600]
        assert tab.value("curve === document.querySelector('figure img') && curve.src !== curve_before")
        assert tab.value("group === document.querySelector('#groups article')")  # drawn once
        assert tab.value("document.getElementById('live').textContent").startswith("live")

        content = (run / "params.json").read_text()
        (run / "params.json").write_text("{")
        tab.wait("document.querySelector('main').textContent.includes('empty or damaged')")
        (run / "params.json").write_text(content)
        tab.wait("document.querySelector('header').textContent.includes('3 of 4 iterations are done')")
        tab.wait(f"{kept}.join() === '1,wrong,no'")  # from the page's address
        tab.wait("document.getElementById('count').textContent.endsWith('of 5 groups')")


def test_a_browser_page_that_began_empty_gets_its_rollouts_and_the_end_is_said(maker: RunMaker, tmp_path: Path) -> None:
    run = maker.run("ShareGRPO", sets=("config.num_variants=2",), finished=False)
    with chromium(tmp_path / "profile") as tab:
        with served(run) as port:
            tab.open(f"http://127.0.0.1:{port}/")
            tab.wait("document.body.innerText.includes('kept no rollouts yet')")
            add_rollouts(run, 2, 1)
            tab.wait("document.querySelectorAll('#groups article').length === 1")
        assert "has ended" in tab.wait("document.querySelector('#live.lost')?.textContent")
        assert tab.value("document.querySelectorAll('#groups article').length") == 1
