"""The reference of platforms names what there is."""

from __future__ import annotations

import re

from documentation_pages import ROOT
from pilotage.model.node_rules import NodeRules
from pilotage.platforms import Platform, load_platforms
from pilotage.platforms.platform import QueueLimits

PAGE = (ROOT / "docs/reference/platforms.md").read_text()


def test_every_field_is_in_the_tables() -> None:
    made = {"name", "partitions_from"}
    named = set(re.findall(r"`(\w+)`", PAGE))
    for struct in (Platform, NodeRules, QueueLimits):
        assert set(struct.__struct_fields__) - made <= named


def test_the_tables_name_no_other_field() -> None:
    rows = [line.split("|")[1] for line in PAGE.partition("## Fields")[2].partition("## What")[0].splitlines() if "|" in line]
    named = {field for row in rows for field in re.findall(r"`(\w+)`", row)}
    assert named <= {*Platform.__struct_fields__, *NodeRules.__struct_fields__}


def test_the_machines_are_those_that_ship_with_what_they_say_of_a_node() -> None:
    listed = dict(re.findall(r"^\| `(\w+\.\w+)` \|[^|]*\|[^|]*\| ([^|]*) \|", PAGE, re.MULTILINE))
    shipped = load_platforms({"HOME": "/nonexistent"})
    assert set(listed) == set(shipped)
    for name, told in listed.items():
        platform = shipped[name]
        if platform.cores_per_node is not None:
            gpus = f", {platform.gpus_per_node} GPUs" if platform.gpus_per_node else ""
            assert told.startswith(f"{platform.cores_per_node} cores{gpus}"), name
