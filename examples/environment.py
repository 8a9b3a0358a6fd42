"""What a task finds in its environment: yours, its own variables, and named environments that the pilot prepares once."""

import pilotage as rp

if __name__ == "__main__":
    with rp.Session() as session:
        tasks = rp.TaskManager(session=session)
        pilot = rp.PilotManager(session=session).submit_pilots(
            rp.PilotDescription(
                resource="local.localhost",
                cores=2,
                runtime=10,
                prepare_env={
                    # Whatever these commands set is what tasks get; they run once, not once for each task.
                    "tools": {"type": "shell", "pre_exec": ["export TOOLS=/opt/tools", "export PATH=$TOOLS/bin:$PATH"]},
                },
            )
        )
        tasks.add_pilots(pilot)
        # A virtual environment of its own, built where the pilot is; tasks that want it wait until it is there.
        pilot.prepare_env("analysis", {"type": "venv"})

        own = tasks.submit_tasks(
            rp.TaskDescription(
                executable="/bin/sh",
                arguments=["-c", "echo $GREETING from $PILOTAGE_TASK_ID"],
                environment={"GREETING": "hello"},
            )
        )
        named = tasks.submit_tasks(
            rp.TaskDescription(
                executable="/bin/sh", arguments=["-c", "echo $TOOLS, first in PATH: ${PATH%%:*}"], named_env="tools"
            )
        )
        python = tasks.submit_tasks(
            rp.TaskDescription(executable="python", arguments=["-c", "import sys; print(sys.prefix)"], named_env="analysis")
        )
        tasks.wait_tasks()
        for task in (own, named, python):
            print(f"{task.state}: {task.stdout.strip()}")
