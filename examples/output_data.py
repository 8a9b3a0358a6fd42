"""Files that a task writes: brought back when it is done, and also, if wanted, when it failed."""

from pathlib import Path

import pilotage as rp

if __name__ == "__main__":
    with rp.Session() as session:
        tasks = rp.TaskManager(session=session)
        tasks.add_pilots(
            rp.PilotManager(session=session).submit_pilots(rp.PilotDescription(resource="local.localhost", cores=2, runtime=10))
        )

        tasks.submit_tasks(
            [
                rp.TaskDescription(
                    executable="/bin/sh",
                    arguments=["-c", f"seq {i} > result.dat; echo log of {i} > run.log"],
                    output_staging=[f"result.dat > results/{i}.dat", {"source": "*.log", "target": f"client:///logs/{i}/"}],
                )
                for i in range(1, 4)
            ]
        )
        failed = tasks.submit_tasks(
            rp.TaskDescription(
                executable="/bin/sh",
                arguments=["-c", "echo what went wrong > report.txt; exit 1"],
                output_staging="report.txt > reports/failed.txt",
                stage_on_error=True,
            )
        )
        tasks.wait_tasks()
        print(f"results: {sorted(path.name for path in Path('results').iterdir())}")
        print(f"logs: {sorted(str(path) for path in Path('logs').rglob('*.log'))}")
        print(f"{failed.state}, and its report says {Path('reports/failed.txt').read_text().strip()!r}")
