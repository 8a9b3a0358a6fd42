"""The commands of a batch system, played: they read scripts, keep jobs as files in a folder, and print what real ones print.

Run as ``batch_stand_in.py SYSTEM PROGRAM FOLDER ARGUMENTS...``. What is printed is made from the systems' documentation, not
recorded. Who tests moves jobs on by rewriting their files (``batch_sites``); these programs submit, tell and cancel.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

Job = dict[str, Any]

PREFIXES = {
    "slurm": "#SBATCH",
    "pbspro": "#PBS",
    "torque": "#PBS",
    "lsf": "#BSUB",
    "cobalt": "#COBALT",
    "flux": "#flux:",
    "grid_engine": "#$",
    "loadleveler": "# @",
    "lgi": "# application:",
}
QUEUES = {
    "slurm": r"--partition=(\S+)",
    "flux": r"--queue=(\S+)",
    "loadleveler": r"class = (\S+)",
    "lgi": r"target: (\S+)",
}
HOLDS = {"slurm": r"^--hold$", "lsf": r"^-H$", "flux": r"^--urgency=hold$", "loadleveler": r"^hold = user$"}
NAMES = {
    "slurm": r"^--job-name=(\S+)",
    "lsf": r"^-J (\S+)",
    "cobalt": r"^--jobname (\S+)",
    "flux": r"^--job-name=(\S+)",
    "loadleveler": r"^job_name = (\S+)",
}
REFUSED = {
    "slurm": "sbatch: error: Batch job submission failed: Invalid partition name specified",
    "pbspro": "qsub: Unknown queue",
    "torque": "qsub: submit error (Unknown queue MSG=cannot locate queue)",
    "lsf": "nope: No such queue. Job not submitted.",
    "cobalt": "Queue 'nope' does not exist",
    "flux": "flux-batch: ERROR: [Errno 22] Invalid queue 'nope' specified",
    "grid_engine": 'Unable to run job: Job was rejected because job requests unknown queue "nope".\nExiting.',
    "loadleveler": 'llsubmit: 2512-051 This job has not been submitted to LoadLeveler.\nClass "nope" is not valid.',
    "lgi": "",
}
DOWN = {
    "slurm": "Unable to contact slurm controller (connect failure)",
    "pbspro": "Connection refused\nqsub: cannot connect to server pbs (errno=111)",
    "torque": "Cannot connect to default server host 'pbs' - check pbs_server daemon.\nqsub: cannot connect to server pbs",
    "lsf": "LSF is down. Please wait ...",
    "cobalt": "Failed to connect to queue manager",
    "flux": "flux-batch: ERROR: job submission is disabled",
    "grid_engine": "error: commlib error: got select error (Connection refused)\nunable to send message to qmaster",
    "loadleveler": "2512-028 The LoadLeveler central manager cannot be contacted.",
    "lgi": "Couldn't connect to server",
}
UNKNOWN = {
    "slurm": "slurm_load_jobs error: Invalid job id specified",
    "pbspro": "qstat: Unknown Job Id {}",
    "torque": "qstat: Unknown Job Id Error {}",
    "lsf": "Job <{}> is not found",
    "cobalt": "jobid {} not found",
    "flux": "flux-jobs: ERROR: JobID {} unknown",
    "grid_engine": 'denied: job "{}" does not exist',
    "loadleveler": "llq: There is currently no job status to report.",
    "lgi": "",
}
EPOCH = 1795296000


class Play:
    """One call of one program."""

    def __init__(self, system: str, program: str, folder: Path, arguments: list[str]) -> None:
        self.system = system
        self.program = program
        self.folder = folder
        self.arguments = arguments

    def run(self) -> None:
        if (self.folder / "down").exists():
            self.fail(DOWN[self.system])
        verb = {"flux": self.arguments[:1]}.get(self.system, [self.program])[0]
        if verb in ("sbatch", "qsub", "bsub", "batch", "llsubmit", "LGI_qsub"):
            self.submit()
        elif (wanted := self.wanted_name()) is not None:
            self.find(wanted)
        elif verb in ("squeue", "qstat", "bjobs", "jobs", "llq", "LGI_qstat"):
            self.tell()
        elif verb in ("scancel", "qdel", "bkill", "cancel", "llcancel", "LGI_qdel"):
            self.cancel(self.arguments[-1])
        else:
            self.fail(f"{verb}: not played")

    def fail(self, said: str) -> NoReturn:
        print(said, file=sys.stderr)
        raise SystemExit(1)

    def submit(self) -> None:
        script = sys.stdin.read() if self.system == "lsf" else Path(self.arguments[-1]).read_text()
        if self.system == "cobalt" and not os.access(self.arguments[-1], os.X_OK):
            self.fail(f"command {self.arguments[-1]} is not executable")
        prefix = PREFIXES[self.system]
        if not script.startswith("#!"):
            self.fail("this does not look like a script")
        options = [line.removeprefix(prefix).strip() for line in script.splitlines() if line.startswith(prefix)]
        if self.system == "loadleveler" and options[-1] != "queue":
            self.fail("no queue statement")
        found = [match[1] for option in options for match in re.finditer(QUEUES.get(self.system, r"^-q (\S+)"), option)]
        if "nope" in found:
            if self.system == "lgi":
                print("<LGI><error><number>9</error><message>No such target resource</message></LGI>")
                return
            self.fail(REFUSED[self.system])
        if "--test-only" in self.arguments:
            print(f"sbatch: Job 7 to start at {EPOCH + 60} using 4 processors on nodes node1 in partition p", file=sys.stderr)
            return
        held = any(re.search(HOLDS.get(self.system, r"^-h$"), option) for option in options)
        number = len(list(self.folder.glob("*.json"))) + 100
        name = {"pbspro": f"{number}.pbs", "torque": f"{number}.pbs", "loadleveler": f"login.{number}.0"}.get(
            self.system, f"{number}"
        )
        self.write(
            {"id": name, "state": "held" if held else "queued", "options": options, "exit": 0, "signal": 0, "cancelled": False}
        )
        said = {
            "slurm": f"{number};cluster",
            "lsf": f"Job <{number}> is submitted to default queue <normal>.",
            "flux": f"ƒ{base58(number)}",
            "loadleveler": f'llsubmit: The job "login.{number}" has been submitted.',
            "lgi": f"<LGI><job><job_id>{number}</job_id><state>queued</state></job></LGI>",
        }
        print(said.get(self.system, name))

    def write(self, job: Job) -> None:
        (self.folder / f"{job['id']}.json").write_text(json.dumps(job))

    def read(self, name: str) -> Job | None:
        path = self.folder / f"{name}.json"
        if not path.exists():
            return None
        job: Job = json.loads(path.read_text())
        gone = job["state"] == "ended" and self.system in ("cobalt", "grid_engine")
        return None if gone else job

    def cancel(self, name: str) -> None:
        job = self.read(name)
        if job is None or job["state"] == "ended":
            if self.system == "lgi":
                print("<LGI><error><message>No such job</message></error></LGI>")
                return
            self.fail(UNKNOWN[self.system].format(name))
        job.update(state="ended", cancelled=True, signal=15 if job["state"] == "running" else 0)
        self.write(job)

    def wanted_name(self) -> str | None:
        """Return the name of which jobs are to be listed; empty: of any, each with its own; None: this is not asked."""
        arguments = self.arguments
        if self.system == "slurm":
            return next((each.removeprefix("--name=") for each in arguments if each.startswith("--name=")), None)
        if self.system == "flux":
            return next((each.removeprefix("--name=") for each in arguments if each.startswith("--name=")), None)
        if self.program == "qselect":
            return arguments[arguments.index("-N") + 1]
        if self.program == "bjobs" and "-J" in arguments:
            return arguments[arguments.index("-J") + 1]
        return "" if "JobID:JobName" in arguments or "%jn" in arguments else None

    def find(self, wanted: str) -> None:
        jobs = [job for path in sorted(self.folder.glob("*.json")) if (job := self.read(path.stem)) is not None]
        if self.program == "qselect" and "-x" not in self.arguments:
            jobs = [job for job in jobs if job["state"] != "ended"]
        named = [(job["id"], name) for job in jobs if (name := self.name_of(job)) == wanted or not wanted]
        if not named and self.system == "lsf":
            self.fail(UNKNOWN["lsf"].format(wanted))
        for job, name in named:
            told = {"cobalt": f"JobID         : {job}\n    JobName       : {name}\n", "loadleveler": f"{job}!{name}"}
            print(told.get(self.system, job))

    def name_of(self, job: Job) -> str:
        return next(found[1] for option in job["options"] if (found := re.match(NAMES.get(self.system, r"^-N (\S+)"), option)))

    def tell(self) -> None:
        names = {
            "slurm": lambda: re.findall(r"[^,=]+", next(each for each in self.arguments if each.startswith("--jobs=")))[1:],
            "grid_engine": lambda: sorted(path.stem for path in self.folder.glob("*.json")),
        }.get(self.system, lambda: [each for each in self.arguments if re.fullmatch(r"(\w+\.)?\d+(\.\w+)?", each)])()
        jobs = [job for name in names if (job := self.read(name)) is not None]
        unknown = [name for name in names if self.read(name) is None]
        globals()[f"tell_{self.system}"](self, jobs, unknown)
        # Slurm complains when it is asked for one job, and keeps silent about one of several.
        complains = {"slurm": len(names) == 1, "lsf": False, "lgi": False, "grid_engine": False}.get(self.system, True)
        if unknown and complains:
            self.fail("\n".join(UNKNOWN[self.system].format(name) for name in unknown))


def tell_slurm(play: Play, jobs: list[Job], unknown: list[str]) -> None:
    columns = [each.split(":") for each in play.arguments[-1].removeprefix("--Format=").split(",")]
    states = {"queued": "PENDING", "held": "PENDING", "running": "RUNNING"}
    reasons = {"queued": "Priority", "held": "JobHeldUser", "running": "None"}
    for job in jobs:
        ended = "CANCELLED" if job["cancelled"] else "FAILED" if job["exit"] or job["signal"] else "COMPLETED"
        values = {
            "JobID": job["id"],
            "State": states.get(job["state"], ended),
            "Reason": reasons.get(job["state"], "None"),
            "exit_code": str(job["exit"] << 8 | job["signal"]),
            "RestartCnt": "0",
            "StartTime": str(EPOCH),
            "EndTime": str(EPOCH + 60),
            "BatchHost": "node1" if job["state"] in ("running", "ended") else "",
            "NodeList": "node[1-2]" if job["state"] in ("running", "ended") else "",
        }
        print("".join(values[name].ljust(int(width)) for name, width in columns))


def tell_pbspro(play: Play, jobs: list[Job], unknown: list[str]) -> None:
    for job in jobs:
        letter = {"queued": "Q", "held": "H", "running": "R", "ended": "F"}[job["state"]]
        print(f"Job Id: {job['id']}\n    Job_Name = pilot\n    job_state = {letter}")
        print("    Variable_List = PBS_O_HOME=/home,\n\tPBS_O_X=a = b")
        if job["state"] in ("queued", "held"):
            print("    comment = Not Running: Insufficient amount of\n\t resource: ncpus")
        if job["state"] in ("running", "ended"):
            print("    exec_host = node1/0*4+node2/0*4\n    run_count = 1\n    stime = Sat Nov 21 21:00:00 2026")
        if job["state"] == "ended":
            print(f"    substate = {91 if job['cancelled'] else 92}\n    Exit_status = {exit_status(job)}")
        print()


def tell_torque(play: Play, jobs: list[Job], unknown: list[str]) -> None:
    for job in jobs:
        letter = {"queued": "Q", "held": "H", "running": "R", "ended": "C"}[job["state"]]
        print(f"Job Id: {job['id']}\n    job_state = {letter}\n    Resource_List.walltime = 00:10:00")
        if job["state"] == "ended" and not (job["cancelled"] and not job["signal"]):
            print(f"    exit_status = {exit_status(job)}")
        print()


def exit_status(job: Job) -> int:
    return 256 + job["signal"] if job["signal"] else job["exit"]


def tell_lsf(play: Play, jobs: list[Job], unknown: list[str]) -> None:
    records = []
    for job in jobs:
        ended = "EXIT" if job["cancelled"] or job["exit"] or job["signal"] else "DONE"
        code = 128 + job["signal"] if job["signal"] else job["exit"]
        records.append(
            {
                "JOBID": job["id"],
                "STAT": {"queued": "PEND", "held": "PSUSP", "running": "RUN"}.get(job["state"], ended),
                "EXIT_CODE": str(code) if ended == "EXIT" and job["state"] == "ended" else "",
                "EXIT_REASON": "TERM_OWNER: job killed by owner" if job["cancelled"] else "",
                "PEND_REASON": "Job slot limit reached: 1 host;" if job["state"] == "queued" else "",
                "SUSPEND_REASON": "",
                "EXEC_HOST": "4*node1:4*node2" if job["state"] == "running" else "",
                "START_TIME": "Nov 21 21:00:00 2026" if job["state"] == "running" else "",
                "ESTIMATED_START_TIME": "",
                "FINISH_TIME": "Nov 21 21:10:00 2026 L" if job["state"] == "running" else "",
            }
        )
    records += [{"JOBID": name, "ERROR": f"Job <{name}> is not found"} for name in unknown]
    print(json.dumps({"COMMAND": "bjobs", "JOBS": len(records), "RECORDS": records}))


def tell_cobalt(play: Play, jobs: list[Job], unknown: list[str]) -> None:
    for job in jobs:
        state = {"held": "user_hold"}.get(job["state"], job["state"])
        print(f"JobID         : {job['id']}\n    State         : {state}\n    Location      : nid00001\n")


def tell_flux(play: Play, jobs: list[Job], unknown: list[str]) -> None:
    form = next(each for each in play.arguments if each.startswith("--format=")).removeprefix("--format=")
    for job in jobs:
        result = "CANCELED" if job["cancelled"] else "FAILED" if job["exit"] or job["signal"] else "COMPLETED"
        ended = job["state"] == "ended"
        values = {
            "id.dec": job["id"],
            "state": {"queued": "SCHED", "held": "PRIORITY", "running": "RUN", "ended": "INACTIVE"}[job["state"]],
            "result": result if ended else "",
            "urgency": "0" if job["state"] == "held" else "16",
            "returncode": str(-job["signal"] or job["exit"]) if ended else "",
            "exception.type": "cancel" if job["cancelled"] else "",
            "exception.note": "user=me | by hand" if job["cancelled"] else "",
            "nodelist": "node[1-2]" if job["state"] == "running" else "",
        }
        print("|".join(values.get(field.strip("{}"), "") for field in form.split("|")))


def tell_grid_engine(play: Play, jobs: list[Job], unknown: list[str]) -> None:
    print("<?xml version='1.0'?><job_info><queue_info>")
    for job in jobs:
        letters = {"queued": "qw", "held": "hqw", "running": "r"}[job["state"]]
        queue = "all.q@node1" if job["state"] == "running" else ""
        print(
            f"<job_list><JB_job_number>{job['id']}</JB_job_number><state>{letters}</state><JB_name>{play.name_of(job)}</JB_name><queue_name>{queue}</queue_name></job_list>"
        )
    print("</queue_info></job_info>")


def tell_loadleveler(play: Play, jobs: list[Job], unknown: list[str]) -> None:
    for job in jobs:
        ended = "RM" if job["cancelled"] else "C"
        word = {"queued": "I", "held": "H", "running": "R"}.get(job["state"], ended)
        print(f"{job['id']}!{word}!{'node1' if word == 'R' else ''}")


def tell_lgi(play: Play, jobs: list[Job], unknown: list[str]) -> None:
    for job in jobs:
        ended = "aborted" if job["cancelled"] else "finished"
        state = {"queued": "queued", "running": "running"}.get(job["state"], ended)
        print(f"<LGI><job><job_id>{job['id']}</job_id><state>{state}</state></job></LGI>")
    for _ in unknown:
        print("<LGI><error><message>No such job</message></error></LGI>")


def base58(number: int) -> str:
    letters = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    text = ""
    while number:
        number, left = divmod(number, 58)
        text = letters[left] + text
    return text


if __name__ == "__main__":
    Play(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4:]).run()
