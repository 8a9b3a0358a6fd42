"""Tasks that fail in different ways, how to see why, and how to have them repeated."""

import pilotage as rp


def divide(a, b):
    return a / b


if __name__ == "__main__":
    with rp.Session() as session:
        tasks = rp.TaskManager(session=session)
        tasks.add_pilots(
            rp.PilotManager(session=session).submit_pilots(rp.PilotDescription(resource="local.localhost", cores=2, runtime=10))
        )

        submitted = tasks.submit_tasks(
            [
                rp.TaskDescription(name="fine", executable="/bin/true"),
                rp.TaskDescription(name="bad-exit-code", executable="/bin/ls", arguments=["/no/such/folder"]),
                rp.TaskDescription(name="no-such-program", executable="/no/such/program"),
                rp.TaskDescription(name="killed", executable="/bin/sh", arguments=["-c", "kill -SEGV $$"]),
                rp.TaskDescription(name="too-slow", executable="/bin/sleep", arguments=[60], timeout=0.5),
                rp.TaskDescription(name="raises", function=divide, args=[1, 0]),
                # The first attempt fails, the second finds what the first has left.
                rp.TaskDescription(
                    name="second-time-lucky",
                    executable="/bin/sh",
                    retries=2,
                    retry_on=["exit"],
                    arguments=["-c", "test -e seen || { touch seen; exit 75; }"],
                ),
            ]
        )
        tasks.wait_tasks()

        for task in submitted:
            ending = task.outcome.ending.name
            print(f"{task.name:>18}: {task.state:<8} {ending:<13} attempt {task.attempt}  {task.exception or ''}")
            if task.exception_detail:
                print(f"{'':>20}{task.exception_detail.strip().splitlines()[-1]}")

        # result() raises what happened; of a function, the very exception.
        try:
            submitted[5].result()
        except ZeroDivisionError as error:
            print(f"raised here: {error!r}")
