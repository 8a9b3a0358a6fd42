"""``pilotage sim``: tries a workload on a machine that is not there, in virtual time, before anybody pays for it."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from pilotage.cli.options import FormatOption
from pilotage.cli.renderers import Column, Format, is_terminal, note, plural, print_json, print_rows
from pilotage.cli.simulation_line import SimulationLine
from pilotage.errors import InvalidRequest, nearest

if TYPE_CHECKING:
    from pilotage.sim.advice import Advice
    from pilotage.sim.plans import Plan, Trial, Trialled, WorkloadChoice

_RUN = "run"

HELP = (
    "Try a workload on a machine that is not there, before you pay for it.\n\n"
    "A simulation runs the same client, scheduler and agents as a pilot does, in virtual time, with models of machines and "
    "launchers whose numbers have their sources: `pilotage sim show srun`. It says how long the workload takes, where the "
    "core-time goes, and what limits it.\n\n"
    "pilotage sim impeccable\n\n"
    "pilotage sim sleep --machine frontier --nodes 4 --launcher srun\n\n"
    "pilotage sim mine.toml --machine frontier --nodes 1024 --scheduler packed --walltime 120\n\n"
    "pilotage sim --session campaign --machine summit --nodes 16\n\n"
    "pilotage sim compare sleep --vary launcher=srun,flux --vary nodes=4,64"
)
_RUN_HELP = (
    "Run one workload; the word `run` may be left out.\n\n"
    "What is not said follows from the plan (--plan), then from the workload, which says what machine it is meant for, and the "
    "machine, which has a usual launcher. Exit code: 0 if all tasks are done, 1 if some failed or were not run."
)
_COMPARE_HELP = (
    "Run a workload by several plans, side by side.\n\n"
    "Each --plan is a file; each --vary goes through values of one thing, and several go through all combinations:\n\n"
    "pilotage sim compare impeccable --plan now.toml --plan next.toml\n\n"
    "pilotage sim compare sleep --vary launcher=srun,flux --vary nodes=4,64"
)
_VARIED = ("machine", "nodes", "launcher", "scheduler", "order", "pilots", "faults", "walltime", "seed")


class _Group(TyperGroup):
    """Commands, one of which is meant where none is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in front that is left out."""
        if args and args[0] not in (*self.commands, "--help"):
            args = [_RUN, *args]
        return list(super().parse_args(ctx, args))


app = typer.Typer(help=HELP, cls=_Group, no_args_is_help=True)

WorkloadArgument = Annotated[
    str, typer.Argument(metavar="[WORKLOAD]", help="A name (`pilotage sim list`), or a TOML file. Or give --session.")
]
SessionOption = Annotated[
    str, typer.Option("--session", "-s", metavar="SESSION", help="Take the tasks that this session ran: its uid or folder.")
]
MachineOption = Annotated[str | None, typer.Option("--machine", "-m", metavar="NAME|FILE", help="Where to run.")]
NodesOption = Annotated[int | None, typer.Option("--nodes", "-n", min=1, help="Nodes of the pilots together.")]
LauncherOption = Annotated[
    str | None, typer.Option("--launcher", "-l", metavar="NAME|FILE", help="What starts tasks; `ideal` costs nothing.")
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(metavar="POLICY", help="Where tasks are placed: continuous, packed, spread, homogeneous, tagged, torus."),
]
OrderOption = Annotated[str | None, typer.Option(metavar="ORDER", help="Who is next: priority, backfill, first_come.")]
PilotsOption = Annotated[int | None, typer.Option("--pilots", min=1, help="Pilots that share the nodes.")]
PartitionsOption = Annotated[
    str | None,
    typer.Option(
        "--partitions",
        metavar="PLAN",
        help="Divide the pilot: NAME:NODES[xCOUNT][:KIND], ..., such as flux:32x2:executable,dragon:64:function. A name that "
        "is a launcher's stands for that. Or a plan's file.",
    ),
]
FaultsOption = Annotated[str | None, typer.Option("--faults", metavar="FILE", help="What goes wrong.")]
WalltimeOption = Annotated[float | None, typer.Option("--walltime", metavar="MIN", help="When the pilots end, in minutes.")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="Of all chance; the same seed gives the same run.")]
PlanOption = Annotated[
    list[Path] | None, typer.Option("--plan", metavar="FILE", help="A file that says all this; options are over it.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="The same as --format json.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="The same as --format quiet: the makespan in seconds.")]


@app.command(_RUN, help=_RUN_HELP)
def run(
    workload: WorkloadArgument = "",
    session: SessionOption = "",
    machine: MachineOption = None,
    nodes: NodesOption = None,
    launcher: LauncherOption = None,
    scheduler: SchedulerOption = None,
    order: OrderOption = None,
    pilots: PilotsOption = None,
    partitions: PartitionsOption = None,
    faults: FaultsOption = None,
    walltime: WalltimeOption = None,
    seed: SeedOption = None,
    plan: PlanOption = None,
    format: FormatOption = Format.TABLE,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    from pilotage.cli.sim_text import as_document, print_run
    from pilotage.sim.advice import advise
    from pilotage.sim.plans import Plan, read_plan

    options = _options(locals())
    if plan and len(plan) > 1:
        raise InvalidRequest(f"--plan: a run has one plan, not {len(plan)}; to see several, use `pilotage sim compare`")
    under = read_plan(_as_file(plan[0])) if plan else Plan()
    done, advice = _run_all([_plan(options).over(under)], _chosen(workload, session))[0]
    match _format(format, json, quiet):
        case Format.JSON:
            print_json({"simulation": as_document(done, advise(done))})
        case Format.QUIET:
            print(f"{done.result.makespan_s:.10g}")
        case _:
            print_run(done, advice)
    return _status([done])


@app.command("compare", help=_COMPARE_HELP)
def compare(
    workload: WorkloadArgument = "",
    session: SessionOption = "",
    plan: PlanOption = None,
    vary: Annotated[
        list[str] | None, typer.Option(metavar="WHAT=VALUE,...", help=f"Go through values of {', '.join(_VARIED)}.")
    ] = None,
    machine: MachineOption = None,
    nodes: NodesOption = None,
    launcher: LauncherOption = None,
    scheduler: SchedulerOption = None,
    order: OrderOption = None,
    pilots: PilotsOption = None,
    partitions: PartitionsOption = None,
    faults: FaultsOption = None,
    walltime: WalltimeOption = None,
    seed: SeedOption = None,
    format: FormatOption = Format.TABLE,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    from pilotage.cli.sim_text import COMPARED, as_document, compared
    from pilotage.sim.plans import Plan, read_plan

    options = _options(locals())
    under = [read_plan(_as_file(path)) for path in plan or ()] or [Plan()]
    base = _plan(options)
    plans = [
        _plan(varied, name=_name_of(one.name, varied)).over(base).over(one)
        for one in under
        for varied in _variations(vary or [])
    ]
    if len(plans) < 2:
        raise InvalidRequest("there is one plan, and nothing to compare it with; give several --plan, or --vary WHAT=VALUE,...")
    runs = _run_all(plans, _chosen(workload, session))
    chosen = _format(format, json, quiet)
    if chosen is Format.JSON:
        print_json({"simulations": [as_document(done, advice) for done, advice in runs]})
    else:
        print_rows("simulations", [compared(done, advice) for done, advice in runs], COMPARED, chosen, uid="plan")
    return _status([done for done, _ in runs])


@app.command("list")
def list_files(format: FormatOption = Format.TABLE) -> None:
    """List the machines, launchers and workloads that ship with Pilotage."""
    from pilotage.sim.files import KINDS, describe, shipped

    rows = [
        {"kind": kind, "name": name, "description": describe(path)} for kind in KINDS for name, path in shipped(kind).items()
    ]
    columns = (Column("name", "NAME"), Column("kind", "KIND"), Column("description", "DESCRIPTION"))
    print_rows("files", rows, columns, format, uid="name")


@app.command("show")
def show_file(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of a machine, a launcher or a workload.")],
    format: FormatOption = Format.TABLE,
) -> None:
    """Print the file of a machine, a launcher or a workload, with the sources of its numbers; as a start for one's own."""
    from pilotage.platforms.toml_values import Source
    from pilotage.sim.files import KINDS, shipped

    found = {kind: shipped(kind)[name] for kind in KINDS if name in shipped(kind)}
    if not found:
        known = [known for kind in KINDS for known in shipped(kind)]
        raise InvalidRequest(f"nothing is named {name!r}{nearest(name, known)}; `pilotage sim list` has the names")
    for kind, path in found.items():
        if format is Format.JSON:
            print_json({kind: {"name": name, **Source(path, kind).content}})
        elif format is Format.QUIET:
            print(path)
        else:
            print(path.read_text("utf-8"), end="")


def _chosen(workload: str, session: str) -> WorkloadChoice:
    from pilotage.cli.lookup import find_session
    from pilotage.sim.plans import described_workload, recorded_workload

    if bool(workload) == bool(session):
        given = f"both {workload!r} and --session {session!r}" if workload else "neither"
        raise InvalidRequest(f"give a workload or --session, not {given}; `pilotage sim list` has the workloads that ship")
    if workload:
        return described_workload(workload)
    folder = Path(session).expanduser()
    is_folder = os.sep in session or session in (".", "..")
    if is_folder and not folder.is_dir():
        raise InvalidRequest(f"--session {session}: there is no such folder; give that of a session, or its uid")
    return recorded_workload(folder.absolute() if is_folder else find_session(session))


def _options(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in (*_VARIED, "partitions") if given[name] is not None}


def _plan(options: dict[str, Any], name: str = "") -> Plan:
    """Return the plan that options say; their values may be texts."""
    import msgspec

    from pilotage.cli.sim_partitions import partitions_of
    from pilotage.sim.files import ENDING
    from pilotage.sim.plans import Plan

    fields = {"walltime_min" if key == "walltime" else key: value for key, value in options.items()}
    if "partitions" in fields:
        fields["partitions"] = partitions_of(fields["partitions"])
    for key in ("machine", "launcher", "faults"):
        if str(fields.get(key, "")).endswith(ENDING):
            fields[key] = _as_file(Path(fields[key]))  # not from the folder of a plan
    try:
        return msgspec.convert({"name": name, **fields}, Plan, strict=False, from_attributes=True)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at ")
        key = place.strip("`$. ").replace("walltime_min", "walltime")
        said = (reason[:1].lower() + reason[1:]).replace(" | null", "")
        raise InvalidRequest(f"{key}={options.get(key)}: {said}{_known(key, options)}") from None


def _known(key: str, options: dict[str, Any]) -> str:
    from typing import get_args

    from pilotage.model.partitions import Order, PolicyName

    known = get_args({"scheduler": PolicyName, "order": Order}.get(key))
    return f"{nearest(str(options.get(key)), known)}; known are {', '.join(known)}" if known else ""


def _variations(vary: list[str]) -> list[dict[str, str]]:
    """Return all combinations of what is varied; one that is empty if nothing is."""
    choices: dict[str, list[str]] = {}
    for text in vary:
        key, separator, values = text.partition("=")
        if key not in _VARIED:
            raise InvalidRequest(
                f"--vary {text}: there is no {key!r} to vary{nearest(key, _VARIED)}; known are {', '.join(_VARIED)}"
            )
        if not separator or not all(values.split(",")):
            raise InvalidRequest(f"--vary {text}: write what to vary and its values, such as --vary nodes=256,1024")
        if key in choices:
            raise InvalidRequest(f"--vary {text}: {key} is varied twice; write all its values in one")
        choices[key] = values.split(",")
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


def _name_of(plan: str, varied: dict[str, str]) -> str:
    return " ".join([*([plan] if plan else []), *(f"{key}={value}" for key, value in varied.items())])


def _run_all(plans: list[Plan], workload: WorkloadChoice) -> list[tuple[Trialled, Advice]]:
    from pilotage.sim.advice import advise
    from pilotage.sim.plans import settle

    trials: list[Trial] = [settle(plan, workload) for plan in plans]
    runs = []
    with SimulationLine() as line:
        for number, trial in enumerate(trials, 1):
            if is_terminal(sys.stderr):
                some = f" ({number} of {len(trials)})" if len(trials) > 1 else ""
                line.erase()
                note(f"{trial.workload.name} on {plural(trial.nodes, 'node')} of {trial.machine.name}{some} ...")
            done = trial.run(line.begin)
            runs.append((done, advise(done)))
    return runs


def _format(format: Format, json: bool, quiet: bool) -> Format:
    asked = [format] * (format is not Format.TABLE) + [Format.JSON] * json + [Format.QUIET] * quiet
    if len(set(asked)) > 1:
        raise InvalidRequest("--format, --json and --quiet say different things; give one of them")
    return asked[0] if asked else Format.TABLE


def _as_file(path: Path) -> str:
    return str(path.expanduser().absolute())


def _status(runs: list[Trialled]) -> int:
    from pilotage.model.outcome import Ending

    return 0 if all(run.result.outcomes.get(Ending.DONE, 0) == run.demand.tasks for run in runs) else 1
