"""``pilotage report`` of real sessions: the text, the files, and the page in a real browser."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import polars as pl
import pytest
from headless_browser import Browser, find_browser
from integration_support import PATIENCE_S, Campaign, Programs, eventually, shell

import pilotage as rp
from pilotage.analytics import Session
from pilotage.analytics.report import Report, build_report

pytestmark = pytest.mark.timeout(240)

# polars keeps a queue of events for the life of the process: it is there before the test looks at what it leaves behind.
pl.DataFrame({"begun": [True]}).lazy().collect()


def pilotage(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [sys.executable, "-m", "pilotage.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)


def report(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ``pilotage report``, which must succeed."""
    done = pilotage("report", *arguments)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    """The folder of a session that is over: executables that are done and that fail, and functions."""
    campaign = Campaign(place / "home" / "sessions")
    try:
        campaign.start()
        done = [shell("sleep 0.02", name=f"good {number}") for number in range(12)]
        failing = [shell(f"echo cannot open in{number}.dat >&2; exit 3", name=f"bad {number}") for number in range(4)]
        missing = [rp.TaskDescription(executable="/nowhere/at-all", name="missing <b>")]
        functions = [rp.TaskDescription(function=divide, args=[6, number], name="divide") for number in range(4)]
        campaign.run([*done, *failing, *missing, *functions])
    finally:
        campaign.session.close()
    return Path(campaign.session.path)


def divide(numerator: int, denominator: int) -> float:
    return numerator / denominator


@pytest.fixture(scope="module")
def page(finished: Path, place: Path) -> Path:
    """The page of the finished session."""
    path = place / "report.html"
    report(finished, "--html", path, "-f", "quiet")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = find_browser()
    browser = Browser()
    try:
        browser.start(program)
        yield browser
    finally:
        browser.stop()


# ----------------------------------------------------------------------------------------------------------- the command


def test_the_text_tells_what_ran_what_failed_and_why(finished: Path) -> None:
    told = report(finished.name).stdout
    lines = [" ".join(line.split()) for line in told.splitlines()]
    assert lines[0].startswith("15 of 21 tasks done, 6 failed in ")
    assert lines[1].startswith(f"{finished.name}: 1 pilot, 2 cores, ")
    assert "executable 17 12 5 0 0" in lines
    assert "function 4 3 1 0 0" in lines
    (cause,) = [line for line in lines if line.startswith("4 x EXITED")]
    assert cause.endswith("exited with code 3")
    assert any(line.startswith("cannot open in") for line in lines)
    assert any(line.startswith("1 x RAISED") and "ZeroDivisionError" in line for line in lines)
    assert "One cause is behind 4 of 6 failures" in lines
    assert {"completed in", "utilisation", "overhead", "started", "ended"} <= {
        " ".join(line.split()[:n]) for line in lines for n in (1, 2)
    }


def test_all_that_can_be_written_is_written(finished: Path, tmp_path: Path) -> None:
    exports = ["tasks.csv", "events.csv", "events.jsonl", "prof.csv", "trace.json"]
    options = [part for name in exports for part in ("--export", tmp_path / f"my-{name}")]
    told = report(finished, "--json", tmp_path / "numbers.json", "--plots", tmp_path / "plots", *options)
    assert told.stderr.count("wrote") == len(exports) + 2
    numbers = msgspec.json.decode((tmp_path / "numbers.json").read_bytes(), type=Report)
    again = build_report(Session.read(finished), state="closed", read_at=numbers.read_at)
    assert numbers == again
    with open(tmp_path / "my-tasks.csv") as file:
        assert [row["uid"] for row in csv.DictReader(file)] == Session.read(finished).tasks["uid"].to_list()
    assert len(json.loads((tmp_path / "my-trace.json").read_text())["traceEvents"]) > 20
    events = [json.loads(line) for line in (tmp_path / "my-events.jsonl").read_text().splitlines()]
    assert len(events) == len((tmp_path / "my-events.csv").read_text().splitlines()) - 1
    assert {event["name"] for event in events} >= {"task.submitted", "task.started", "task.final"}
    assert (tmp_path / "my-prof.csv").read_text().startswith("#time,event,comp")
    assert sorted(path.name for path in (tmp_path / "plots").glob("*.png")) == ["rates.png", "utilisation.png"]


def test_json_on_stdout_is_one_document(finished: Path) -> None:
    told = json.loads(report(finished.name, "-f", "json").stdout)
    assert told["report"]["figures"]["failed"] == 6


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["no-such-session"], "there is no session 'no-such-session'"),
        (["./no-such-folder"], "there is no folder './no-such-folder'"),
        (["--html", "/no/such/folder/page.html"], "--html /no/such/folder/page.html: there is no folder /no/such/folder"),
        (["--export", "trace.txt"], "--export trace.txt: its name does not say what to write"),
    ],
)
def test_mistakes_are_told_in_one_line(finished: Path, arguments: list[str], complaint: str) -> None:
    told = pilotage("report", *arguments)
    assert told.returncode == 2
    assert complaint in told.stderr
    assert told.stderr.count("\n") == 1 and not told.stdout


# ----------------------------------------------------------------------------------------------------------- the browser


def test_the_page_is_drawn_without_a_complaint_or_a_request(page: Path, browser: Browser) -> None:
    browser.requests.clear()
    browser.open(page)
    assert browser.complaints == []
    assert browser.requests == [page.as_uri()]
    marks = browser.evaluate(
        "Object.fromEntries([...document.querySelectorAll('svg')].map((drawing) => [drawing.id,"
        " [...drawing.querySelectorAll('[data-s], .heat')].filter((mark) => {"
        "   const box = mark.getBoundingClientRect(); return box.width > 0 && box.height >= 0;"
        " }).length]))"
    )
    assert marks.keys() >= {"plot-cores", "plot-working", "plot-rates", "plot-stages", "plot-machine"}
    assert all(count > 0 for count in marks.values()), marks
    # Each task that ran is a bar: 20 of the 21, one could not be started.
    assert marks["plot-machine"] == 20


def test_the_numbers_in_the_tables_are_those_of_analytics(page: Path, finished: Path, browser: Browser) -> None:
    browser.open(page)
    tables = browser.evaluate(
        "Object.fromEntries([...document.querySelectorAll('table')].map((table) => [table.caption?.innerText ?? '',"
        " [...table.rows].map((row) => [...row.cells].map((cell) => cell.innerText.trim()))]))"
    )
    session = Session.read(finished)
    kinds = {row[0]: [int(cell) for cell in row[1:]] for row in tables["Tasks by kind and how they ended"][1:]}
    assert kinds == {"executable": [17, 12, 5, 0, 0], "function": [4, 3, 1, 0, 0]}
    # A folded table has no text that is to be seen; its cells have.
    rows = browser.evaluate(
        "[...[...document.querySelectorAll('caption')].find((one) => one.textContent === 'Tasks working over time (tasks)')"
        ".parentElement.rows].map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    running = rows[0].index("running")
    expected = session.concurrency("running")["count"].to_list()
    assert [float(row[running].replace(",", "")) for row in rows[1:]] == pytest.approx(expected, rel=5e-3, abs=1e-6)
    shares = browser.evaluate(
        "[...document.querySelectorAll('#utilisation table.legend tbody tr')].map((row) => row.innerText)"
    )
    used = {line.split("\t")[0].strip(): line.split("\t")[-1].strip() for line in shares}
    books = session.utilization(by="kind")
    for part, share in books.select("part", "share").iter_rows():
        if share:
            assert float(used[part].removesuffix(" %")) == pytest.approx(100 * share, rel=5e-3), part


def test_a_pointer_finds_values_and_marks_a_series(page: Path, browser: Browser) -> None:
    browser.open(page)
    assert browser.evaluate("document.getElementById('tip').hidden")
    browser.point_at("#plot-cores", 0.5, 0.5)
    assert "cores" in browser.evaluate("document.getElementById('tip').innerText")
    browser.point_at("#plot-machine rect.bar")
    told = browser.evaluate("document.getElementById('tip').innerText")
    assert "task.0000" in told and "node" not in told.splitlines()[0]
    assert browser.evaluate("document.querySelector('#plot-machine .cross').x1.baseVal.value") > 0
    browser.point_at("#rates [data-key=started]", click=True)
    assert browser.evaluate("document.querySelector('#rates figure').className") == "dim"
    assert browser.evaluate("[...document.querySelectorAll('#plot-rates .on')].every((mark) => mark.dataset.s === 'started')")
    browser.point_at("#rates [data-key=started]", click=True)
    browser.point_at("h1")
    assert browser.evaluate("document.querySelector('#rates figure').className") == ""
    assert browser.evaluate("document.getElementById('tip').hidden")
    assert browser.complaints == []


CONTRAST = """
(() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((value) => value / 255)
    .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const found = {};
  const names = ["h1", ".lead", ".muted", "td", "caption", "summary", ".badge", ".tile.bad dd", "pre", "nav a", "svg text"];
  for (const name of names) {
    for (const element of document.querySelectorAll(name)) {
      const style = getComputedStyle(element);
      const pair = [light(parse(name === "svg text" ? style.fill : style.color)), light(behind(element))].sort((a, b) => b - a);
      const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
      found[name] = Math.min(found[name] ?? 99, ratio);
    }
  }
  return found;
})()
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_can_be_read_in_light_and_in_dark(page: Path, browser: Browser, dark: bool, tmp_path: Path) -> None:
    browser.open(page, dark=dark)
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(background) < 150) == dark
    ratios = browser.evaluate(CONTRAST)
    assert len(ratios) == 11
    assert min(ratios.values()) >= 4.5, ratios
    picture = browser.picture(tmp_path / "page.png")
    assert picture.startswith(b"\x89PNG") and len(picture) > 50_000
    # Nothing is wider than the window, on a small one neither: what must be wide scrolls in its place.
    for width in (1180, 420):
        browser.open(page, dark=dark, width=width)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width


# ----------------------------------------------------------------------------------------------------------- not finished


def test_a_running_session_has_a_report(campaign: Campaign, tmp_path: Path, browser: Browser) -> None:
    gate = tmp_path / "gate"
    task = campaign.tasks.submit_tasks(shell(f"while [ ! -e {gate} ]; do sleep 0.02; done"))
    try:
        eventually(lambda: task.state == rp.AGENT_EXECUTING, "the task runs")
        path = tmp_path / "running.html"
        report(campaign.session.path, "--html", path, "-f", "quiet")
        browser.open(path)
        assert browser.evaluate("document.querySelector('h1').innerText") == "0 of 1 task done, 1 to go"
        assert browser.evaluate("document.querySelector('.state').innerText") == "running now"
        assert browser.complaints == []
    finally:
        gate.touch()
        campaign.tasks.wait_tasks(timeout=PATIENCE_S)


def test_a_crashed_session_has_a_report(place: Path, programs: Programs) -> None:
    program = programs.start(
        """
        import os, signal, sys
        import pilotage as rp

        if __name__ == "__main__":
            session = rp.Session(base=sys.argv[1])
            pilots, tasks = rp.PilotManager(session), rp.TaskManager(session)
            tasks.add_pilots(pilots.submit_pilots(rp.PilotDescription(resource="local.localhost", cores=1, runtime=10)))
            first = tasks.submit_tasks(rp.TaskDescription(executable="/bin/true"))
            tasks.wait_tasks([first.uid])
            tasks.submit_tasks(rp.TaskDescription(executable="/bin/sleep", arguments=["60"])).wait(rp.AGENT_EXECUTING)
            print(session.path, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        place / "home" / "sessions",
    )
    out, err = program.communicate(timeout=PATIENCE_S)
    assert program.returncode == -signal.SIGKILL, err
    folder = Path(out.strip())
    try:
        lines = report(folder).stdout.splitlines()
        assert lines[0].startswith("1 of 2 tasks done, 1 unfinished") and lines[0].endswith("(crashed)")
        assert any("did not come to an end" in line for line in lines)
        assert any(f"pilotage session resume {folder.name}" in line for line in lines)
    finally:
        removed = pilotage("session", "rm", "--force", folder.name)
        assert removed.returncode == 0, removed.stderr


def test_an_empty_session_has_a_report(place: Path, tmp_path: Path, browser: Browser) -> None:
    with rp.Session(base=place / "home" / "sessions") as session:
        folder = session.path
    path = tmp_path / "empty.html"
    report(folder, "--html", path)
    browser.open(path)
    assert browser.evaluate("document.querySelector('h1').innerText") == "No tasks yet"
    assert browser.complaints == []
