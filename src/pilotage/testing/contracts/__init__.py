"""Contract suites: what every implementation of a protocol must do, as tests that run over any of them. They need pytest.

A suite is a class with abstract methods that make what is to be tested. Subclass it in a test module of your own, under a
name that begins with ``Test``; pytest does the rest. Pilotage's own implementations are tested in the same way.

========================  ===========================================================
``batch_systems``         ``batch.system.BatchSystem``
``channels``              ``wire.channel.AgentChannel`` and ``ClientChannel``
``executors``             ``executors.base.Executor``
``policies``              ``core.scheduling.policy.Policy``
========================  ===========================================================
"""

import pytest

pytest.register_assert_rewrite(
    "pilotage.testing.contracts.batch_systems",
    "pilotage.testing.contracts.channels",
    "pilotage.testing.contracts.executors",
    "pilotage.testing.contracts.policies",
)
