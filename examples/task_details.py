"""What a handle tells of its task: state, times, files, placement, what it wrote."""

import time

import pilotage as rp

if __name__ == "__main__":
    with rp.Session() as session:
        tasks = rp.TaskManager(session=session)
        tasks.add_pilots(
            rp.PilotManager(session=session).submit_pilots(rp.PilotDescription(resource="local.localhost", cores=2, runtime=10))
        )

        task = tasks.submit_tasks(
            rp.TaskDescription(
                name="greeting",
                executable="/bin/sh",
                arguments=["-c", "echo hello; echo careful >&2; sleep 0.2"],
                metadata={"campaign": "examples"},
            )
        )
        print(f"{task.uid} ({task.name}) is {task.state}")
        task.wait(rp.AGENT_EXECUTING)
        print(f"it runs on {task.pilot}, in {task.sandbox}")

        print(f"it ended as {task.wait()}: {task.outcome.ending.name}, exit code {task.exit_code}, attempt {task.attempt}")
        print(f"stdout: {task.stdout.strip()!r}, stderr: {task.stderr.strip()!r}")
        print(f"all of its output: {task.stdout_path}")
        times = task.times
        print(f"it ran for {times.ended - times.started:.2f} s, and waited {times.started - times.accepted:.3f} s")
        print(f"it was placed on {task.slots}")
        print(f"its metadata: {task.metadata}; it is {time.time() - times.ended:.1f} s ago")
