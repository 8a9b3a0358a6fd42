"""``pilotage task``: what became of tasks, what they wait for, what they printed; and cancelling them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pilotage.cli.options import FormatOption, SessionOption
from pilotage.cli.renderers import Column, Format, is_terminal, note, plural, print_json, print_one, print_rows
from pilotage.cli.selection import MetadataOption, NameOption, Selection, StateOption, UidsArgument
from pilotage.errors import BackendError, InvalidRequest

if TYPE_CHECKING:
    from pilotage.core.client.state import ClientState, TaskRecord
    from pilotage.outputs.reader import StreamName

app = typer.Typer(help="List, show, explain, cancel tasks, and print their output.", no_args_is_help=True)

LIMIT_ON_TERMINAL = 100

TaskArgument = Annotated[str, typer.Argument(metavar="UID", help="The task, or how its uid begins or ends.")]

_COLUMNS = (
    Column("uid", "TASK"),
    Column("name", "NAME"),
    Column("state", "STATE"),
    Column("pilot", "PILOT"),
    Column("exit_code", "EXIT", right=True),
    Column("ran_s", "RAN", right=True, kind="span"),
    Column("reason", "REASON"),
)
_DETAILS = (
    Column("uid", "task"),
    Column("name", "name"),
    Column("state", "state"),
    Column("ending", "ending"),
    Column("reason", "reason"),
    Column("exit_code", "exit code"),
    Column("pilot", "pilot"),
    Column("attempt", "attempt"),
    Column("mode", "mode"),
    Column("command_line", "command"),
    Column("ranks", "ranks"),
    Column("cores_per_rank", "cores per rank"),
    Column("gpus_per_rank", "GPUs per rank"),
    Column("memory_per_rank_mib", "memory per rank (MiB)"),
    Column("timeout_s", "timeout", kind="span"),
    Column("retries", "retries"),
    Column("environment", "environment"),
    Column("accepted", "accepted", kind="age"),
    Column("started", "started", kind="age"),
    Column("ended", "ended", kind="age"),
    Column("ran_s", "ran", kind="span"),
    Column("sandbox", "sandbox"),
    Column("stdout", "stdout"),
    Column("stderr", "stderr"),
    Column("detail", "detail"),
)


@app.command("list")
def list_(
    session: SessionOption = "",
    state: StateOption = None,
    name: NameOption = "",
    metadata: MetadataOption = None,
    limit: Annotated[
        int, typer.Option(min=-1, help=f"Print only so many. 0: all. Default: {LIMIT_ON_TERMINAL} on a terminal.")
    ] = -1,
    format: FormatOption = Format.TABLE,
) -> None:
    """List the tasks of a session."""
    from pilotage.cli.lookup import find_session, read_state, task_row

    folder = find_session(session)
    state_of_session = read_state(folder)
    selection = Selection((), name, state, metadata)
    found = selection.of(state_of_session, folder)
    if limit < 0:
        limit = LIMIT_ON_TERMINAL if format is Format.TABLE and is_terminal(sys.stdout) else 0
    shown = found[:limit] if limit else found
    print_rows("tasks", [task_row(record) for record in shown], _COLUMNS, format)
    if format is Format.TABLE and not found:
        note(f"session {folder.name} has no {'such ' if selection else ''}tasks")
    if format is Format.TABLE and len(shown) < len(found):
        note(f"{len(shown):,} of {plural(len(found), 'task')} are shown; --limit 0 shows all")


@app.command("show")
def show_(uid: TaskArgument, session: SessionOption = "", format: FormatOption = Format.TABLE) -> None:
    """Show one task: what it ran, how it ended, where its files are."""
    import shlex

    from pilotage.cli.lookup import task_details

    folder, state, record = _find(session, uid)
    details = task_details(folder, state, record)
    if format is Format.TABLE:
        details["command_line"] = shlex.join(details["command"]) if details["command"] else ""
        details = {key: value for key, value in details.items() if value != 0 or key == "exit_code"}
    print_one("task", details, _DETAILS, format)


@app.command()
def why(uid: TaskArgument, session: SessionOption = "", format: FormatOption = Format.TABLE) -> None:
    """Say in a sentence what a task waits for or does, or how it ended."""
    from pilotage.cli.lookup import full_outcome, pilot_folder
    from pilotage.cli.observer import Observer

    folder, state, record = _find(session, uid)
    answer: dict[str, Any] = {"uid": record.row.uid, "state": record.state, "source": "log"}
    outcome = full_outcome(folder, record)
    if outcome is not None:
        how = outcome.ending.name.lower().replace("_", " ")
        answer["why"] = f"has ended: {outcome.message or how}"
    elif record.row.uid in state.held:
        from pilotage.core.client.holding import waiting_for

        answer["why"] = waiting_for(state.held[record.row.uid], state)
    elif not record.pilot:
        pilots = [pilot for pilot in state.pilots.values() if pilot.usable]
        answer["why"] = (
            f"waits for a pilot with room: {', '.join(f'{pilot.uid} is {pilot.state}' for pilot in pilots)}"
            if pilots
            else "waits for a pilot: its session has none that takes tasks"
        )
        answer["why"] += _left_alone(folder)
    elif not state.pilots[record.pilot].numbered:
        from pilotage.client.job_words import reason_of

        reason = reason_of(state.pilots[record.pilot])
        answer["why"] = f"is sent to {record.pilot} when that is active{f': {reason}' if reason else ''}{_left_alone(folder)}"
    else:
        pilot = state.pilots[record.pilot]
        observer = Observer.of(pilot_folder(folder, pilot), folder)
        if observer is None:
            answer["why"] = (
                f"was given to {record.pilot}, whose agent is gone or elsewhere; the last that the client knows is "
                f"{record.state}. What became of it is known after: pilotage session resume {folder.name}"
            )
        else:
            with observer:
                told = observer.ask(record.row.uid)
            answer |= {key: value for key, value in told.items() if key != "state"} | {"source": "agent"}
            answer["agent_state"] = told.get("state")
    if format is Format.JSON:
        print_json({"task": answer})
    elif format is Format.QUIET:
        print(record.row.uid)
    else:
        print(f"{record.row.uid} {answer['why']}")


def _left_alone(folder: Path) -> str:
    """Return what there is to be said of a session that no program has open; empty if one has."""
    from pilotage.cli.lookup import session_state

    if session_state(folder) == "open":
        return ""
    return f", and no program has the session open; see: pilotage session resume {folder.name}"


@app.command()
def cancel(
    uids: UidsArgument = None,
    session: SessionOption = "",
    name: NameOption = "",
    state: StateOption = None,
    metadata: MetadataOption = None,
    all: Annotated[bool, typer.Option("--all", help="All tasks that have not ended.")] = False,
) -> int:
    """Cancel tasks that a pilot has; their program sees them CANCELED. Those that have ended stay as they are."""
    from pilotage.cli.lookup import find_session, pilot_folder, read_state
    from pilotage.cli.observer import Observer

    selection = Selection(uids, name, state, metadata)
    folder = find_session(session)
    state_of_session = read_state(folder)
    if all == bool(selection):
        raise InvalidRequest("say which tasks: by UIDs, --name, --state or --metadata, or --all")
    chosen = selection.of(state_of_session, folder)
    living = [record for record in chosen if record.outcome is None]
    by_pilot: dict[str, list[TaskRecord]] = {}
    for record in living:
        by_pilot.setdefault(record.pilot, []).append(record)
    asked = 0
    unreached: list[str] = []
    for uid, records in by_pilot.items():
        observer = Observer.of(pilot_folder(folder, state_of_session.pilots[uid]), folder) if uid else None  # type: ignore[index]
        if observer is None:
            unreached.append(
                f"{plural(len(records), 'task')} of {uid}" if uid else f"{plural(len(records), 'task')} without a pilot"
            )
            continue
        with observer:
            observer.cancel([(record.row.uid, record.binding) for record in records])
        asked += len(records)
    ended = len(chosen) - len(living)
    note(f"asked to cancel {plural(asked, 'task')}" + (f"; {plural(ended, 'task')} had ended before" if ended else ""))
    if unreached:
        raise BackendError(
            f"no agent could be asked about {' and '.join(unreached)}; end the program that has the session, or resume it: "
            f"pilotage session resume {folder.name}"
        )
    return 0


@app.command()
def retry(
    uids: UidsArgument = None,
    session: SessionOption = "",
    name: NameOption = "",
    state: StateOption = None,
    metadata: MetadataOption = None,
    failed: Annotated[bool, typer.Option("--failed", help="All tasks that failed, or were cancelled.")] = False,
    show_output: Annotated[bool, typer.Option("--show-output", help="Print outputs in their order.")] = False,
) -> int:
    """Run tasks that have ended once more, as new tasks of their session, on a pilot like its last one."""
    from pilotage.cli.retry import retry_tasks

    selection = Selection(uids, name, ["FAILED", "CANCELED"] if failed else state, metadata)
    if not selection or (failed and state):
        raise InvalidRequest("say which tasks: --failed, or by UIDs, --name, --state or --metadata")
    return retry_tasks(session, selection, show_output=show_output)


@app.command()
def logs(
    uid: TaskArgument,
    session: SessionOption = "",
    errors: Annotated[bool, typer.Option("--stderr", help="What it wrote to stderr, not to stdout.")] = False,
    all: Annotated[bool, typer.Option("--all", help="Both: stdout to stdout, stderr to stderr.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="Only the last lines. 0: all.")] = 0,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the task has ended.")] = False,
) -> None:
    """Print what a task wrote, so far or as it comes; Ctrl-C ends the printing and nothing else."""
    from pilotage.cli.logs import follow_output, output_of, print_output

    if all and errors:
        raise InvalidRequest("--all prints stderr, too; leave --stderr out")
    streams: list[StreamName] = ["stdout", "stderr"] if all else ["stderr"] if errors else ["stdout"]
    folder, state, record = _find(session, uid)
    if state.templates[record.row.template].output == "discard":
        raise InvalidRequest(f"task {record.row.uid} was submitted with output='discard': what it writes is kept nowhere")
    if follow and record.outcome is None:
        follow_output(folder, record.row.uid, streams, lines)
        return
    output = output_of(folder, state, record)
    if output is None:
        raise InvalidRequest(f"task {record.row.uid} has written nothing: it waits for a pilot; -f waits for it")
    if not print_output(output, streams, lines):
        note(f"task {record.row.uid} is {record.state} and has nothing written to {' or '.join(streams)}")


def _find(session: str, uid: str) -> tuple[Path, ClientState, TaskRecord]:
    from pilotage.cli.lookup import find_session, meant, read_state

    folder = find_session(session)
    state = read_state(folder)
    found = meant(uid, state.tasks, "task", f"in session {folder.name}")
    return folder, state, state.tasks[found]  # type: ignore[index]
