"""What a pilot needs before it can begin: its folder, its settings, and its processes or a job for it.

The settings bring together what the description, the platform and the session say. The pilot's agent reads them once; nothing
of the client's is asked for later.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import msgspec

from pilotage.agent.settings import PilotSettings
from pilotage.client.inside import is_inside, without_submission
from pilotage.client.job_specs import job_name, job_spec, size_of_job
from pilotage.client.launcher import PreparedJob, StartedPilot, prepare_job, start_local_pilot, user_python_path
from pilotage.client.pilot_description import PilotDescription, partitions_of, scheduler_of, staging_of
from pilotage.client.pilot_files import PilotFiles
from pilotage.client.pilot_walltime import checkpoint_signal_of
from pilotage.client.session_folder import BLOB_FOLDER, CLIENT_FOLDER, CLIENT_KEY_FILE, OBSERVER_KEY_FILE
from pilotage.core.client.state import ClientState, PilotRecord
from pilotage.core.client.successors import may_be_followed
from pilotage.errors import BackendError
from pilotage.log.files import make_folder
from pilotage.model.ids import SessionUid
from pilotage.platforms import Platform, nodes_of, platform
from pilotage.wire.keys import own_key_pair


class PilotPreparation:
    """Starts the pilots of the session in ``folder``, as the engine's ``Starter``. ``trace``: they keep all records."""

    def __init__(self, session: SessionUid, folder: Path, state: ClientState, files: PilotFiles, *, trace: bool) -> None:
        self._session = session
        self._folder = folder
        self._state = state
        self._files = files
        self._trace = trace

    def pilot_folder(self, record: PilotRecord) -> Path:
        """Return the folder of a pilot."""
        return self._files.folder(record)

    def start_pilot(self, record: PilotRecord) -> StartedPilot | PreparedJob:
        """Start a pilot's processes, or write all that its job needs."""
        description = PilotDescription(msgspec.msgpack.decode(record.description))
        where = platform(description.resource or "")
        if record.first:
            self._furnish(record, description)
        settings = self._settings(record, description, where)
        if where.batch == "local" or is_inside(where.name):
            return start_local_pilot(settings)
        from pilotage.batch.registry import batch_system

        name = job_name(self._session, record.uid, secrets.token_hex(4), description.job_name or "")
        prepare_job(settings, job_spec(name, where, description, Path(settings.pilot_folder)), batch_system(where.batch))
        return PreparedJob(where.batch, name)

    def _settings(self, record: PilotRecord, description: PilotDescription, where: Platform) -> PilotSettings:
        is_job = where.batch != "local"
        client_keys, observer_keys = self._public_keys() if where.transport == "tcp" else ([], [])
        return PilotSettings(
            session=self._session,
            pilot=record.uid,
            session_folder=os.fspath(self._folder),
            pilot_folder=os.fspath(self._files.folder(record)),
            blob_folder=os.fspath(self._folder / BLOB_FOLDER),
            nodes=[] if is_job else record.nodes,
            bind=not where.emulated if is_job else nodes_of(where, description).bind,
            executor="cluster" if is_job else "simulated" if description.executor == "simulated" else "local",
            batch=where.batch,
            launch_methods=list(where.launch_methods) if is_job else [],
            launcher_paths=dict(where.launcher_paths) if is_job else {},
            launcher_options={str(name): dict(given) for name, given in where.launcher_options.items()} if is_job else {},
            node_rules=where.node_rules,
            agent_nodes=where.agent_nodes,
            emulated=size_of_job(record.uid, where, description).shape if is_job and where.emulated else None,
            simulated_duration_s=description.simulated_duration_s,
            transport=where.transport,
            client_keys=client_keys,
            observer_keys=observer_keys,
            client_epoch=self._state.epoch,
            environment=without_submission(dict(os.environ)),
            python_path=user_python_path(),
            working_folder=os.getcwd(),
            on_client_loss=description.on_client_loss or where.on_client_loss,  # type: ignore[arg-type]
            client_loss_timeout_s=(
                description.client_loss_timeout_s if "client_loss_timeout_s" in description else where.client_loss_timeout_s
            ),
            runtime_s=description.runtime * 60,
            idle_timeout_s=description.idle_timeout_s,
            startup_barrier=record.barrier,
            drain_s=description.drain_s,
            checkpoint_signal=checkpoint_signal_of(f"pilot {record.uid!r}", description),
            followed=may_be_followed(record),
            keep_history=self._trace,
            scheduler=scheduler_of(f"pilot {record.uid!r}", description),
            partitions=partitions_of(f"pilot {record.uid!r}", description) if description.get("partitions") else [],
            sub_agents="threads" if description.sub_agents == "threads" else "processes",
        )

    def _furnish(self, record: PilotRecord, description: PilotDescription) -> None:
        """Make the folder of a pilot that nobody has submitted, as it follows another, and bring its files there."""
        folder = self._files.folder(record)
        try:
            make_folder(folder)
        except OSError as error:
            raise BackendError(f"pilot {record.uid!r}: its folder {folder} cannot be made: {error.strerror}") from error
        if "input_staging" in description:
            from pilotage.client.staging import stage

            stage(staging_of(f"pilot {record.uid!r}", description)[0], "stage_in", record.uid, os.fspath(folder))

    def _public_keys(self) -> tuple[list[str], list[str]]:
        folder = self._folder / CLIENT_FOLDER
        return [own_key_pair(folder / CLIENT_KEY_FILE).public], [own_key_pair(folder / OBSERVER_KEY_FILE).public]
