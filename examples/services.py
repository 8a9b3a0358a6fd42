"""A service that other tasks use: they start when it is ready, and are told where it is."""

import sys

import pilotage as rp

SERVER = """
import http.server, socketserver
with socketserver.TCPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
    print(f"serving at http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()
"""
CLIENT = "import os, urllib.request as u; print(u.urlopen(os.environ['PILOTAGE_SERVICE_FILES']).status)"

if __name__ == "__main__":
    with rp.Session() as session:
        tasks = rp.TaskManager(session=session)
        tasks.add_pilots(
            rp.PilotManager(session=session).submit_pilots(rp.PilotDescription(resource="local.localhost", cores=2, runtime=10))
        )

        service = tasks.submit_tasks(
            rp.TaskDescription(
                mode=rp.TASK_SERVICE,
                name="files",
                executable=sys.executable,
                arguments=["-u", "-c", SERVER],
                info_pattern=r"stdout:serving at (\S+)",
                startup_timeout=30,
                restart="on_failure",
            )
        )
        print(f"the service is at {service.wait_info(timeout=30)}")

        clients = tasks.submit_tasks(
            [rp.TaskDescription(executable=sys.executable, arguments=["-c", CLIENT], services=[service]) for _ in range(3)]
        )
        # Waits for the tasks, not for the service, which ends with its pilot.
        tasks.wait_tasks()
        print([task.stdout.strip() for task in clients])
