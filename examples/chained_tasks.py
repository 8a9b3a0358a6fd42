"""Tasks after tasks: stages of a pipeline, one that runs whatever happened, one that runs if something failed."""

import pilotage as rp

if __name__ == "__main__":
    with rp.Session() as session:
        tasks = rp.TaskManager(session=session)
        tasks.add_pilots(
            rp.PilotManager(session=session).submit_pilots(rp.PilotDescription(resource="local.localhost", cores=2, runtime=10))
        )

        def echo(text, **more):
            return rp.TaskDescription(executable="/bin/echo", arguments=[text], **more)

        prepared = tasks.submit_tasks(echo("prepared"))
        simulated = tasks.submit_tasks([echo(f"simulated {i}", after=[prepared]) for i in range(4)])
        analysed = tasks.submit_tasks(echo("analysed", after=simulated))

        broken = tasks.submit_tasks(rp.TaskDescription(executable="/bin/false", after=[prepared]))
        never = tasks.submit_tasks(echo("never", after=[broken]))
        always = tasks.submit_tasks(echo("tidied up", after=[broken, analysed], after_policy="any"))
        alarm = tasks.submit_tasks(echo("something failed", after=[broken, analysed], after_policy="notok"))
        tasks.wait_tasks()
        for task in (prepared, *simulated, analysed, broken, never, always, alarm):
            print(f"{task.state:<8} {(task.stdout or '').strip() or task.exception}")
