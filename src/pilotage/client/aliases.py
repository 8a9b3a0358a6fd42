"""The names of 2018 for the descriptions: plain aliases, so that older scripts run as they are."""

from __future__ import annotations

from pilotage.client.pilot_description import PilotDescription
from pilotage.client.python_task import PythonTask
from pilotage.client.task_description import TaskDescription

ComputeUnitDescription = TaskDescription
ComputePilotDescription = PilotDescription

pythontask = PythonTask.pythontask
