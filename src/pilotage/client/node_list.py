"""The nodes of a pilot as its user may divide them: ``pilot.nodelist``, for ``TaskDescription.slots``.

The names are those that users of RADICAL-Pilot know. A node list is the user's own book: what is found and released in it
is marked there and nowhere else. The pilot takes the slots that a task names, when they are free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pilotage.client.constants import BUSY, DOWN, FREE
from pilotage.errors import InvalidRequest, UnknownAttribute, nearest
from pilotage.model import resources


class Record:
    """Base of what follows: made from a dict or keywords, read by attribute or item."""

    __slots__ = ()

    FIELDS: Mapping[str, Callable[[], Any]] = {}
    """Names and the makers of the defaults."""

    def __init__(self, from_dict: Mapping[str, Any] | None = None, **fields: Any) -> None:
        given = {**from_dict, **fields} if from_dict else fields
        for name, default in self.FIELDS.items():
            setattr(self, name, given[name] if name in given else default())
        if len(given) > len(self.FIELDS) or not given.keys() <= self.FIELDS.keys():
            wrong = next(name for name in given if name not in self.FIELDS)
            raise UnknownAttribute(f"{type(self).__name__} has no field {wrong!r}{nearest(str(wrong), self.FIELDS)}")

    def __getitem__(self, name: str) -> Any:
        if name not in self.FIELDS:
            raise KeyError(name)
        return getattr(self, name)

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self.FIELDS:
            raise KeyError(name)
        setattr(self, name, value)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field, or ``default`` if there is none of this name."""
        return getattr(self, name) if name in self.FIELDS else default

    def keys(self) -> list[str]:
        """Return the names of the fields."""
        return list(self.FIELDS)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {name: _plain(getattr(self, name)) for name in self.FIELDS}

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return False
        for name in self.FIELDS:  # noqa: SIM110  lists of thousands are searched for one of them
            if getattr(self, name) != getattr(other, name):
                return False
        return True

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.FIELDS)
        return f"{type(self).__name__}({fields})"


class ResourceOccupation(Record):
    """A core or GPU, and how much of it is taken: from ``FREE`` (0.0) to ``BUSY`` (1.0), or ``DOWN`` (None)."""

    __slots__ = ("index", "occupation")

    FIELDS = {"index": int, "occupation": lambda: BUSY}

    index: int
    occupation: float | None


RO = ResourceOccupation


class RankRequirements(Record):
    """What a rank needs: whole cores, whole GPUs or a part (``gpu_occupation``) of each, disk and memory in MB.

    ``numa``: its cores and GPUs are to be in one NUMA domain.
    """

    __slots__ = ("core_occupation", "gpu_occupation", "lfs", "mem", "n_cores", "n_gpus", "numa")

    FIELDS = {
        "n_cores": lambda: 1,
        "core_occupation": lambda: BUSY,
        "n_gpus": int,
        "gpu_occupation": lambda: BUSY,
        "lfs": int,
        "mem": int,
        "numa": bool,
    }

    n_cores: int
    core_occupation: float
    n_gpus: int
    gpu_occupation: float
    lfs: float
    mem: float
    numa: bool


class Slot(Record):
    """The place of one rank: cores and GPUs of a node, as ``ResourceOccupation``, with disk and memory in MB."""

    __slots__ = ("cores", "gpus", "lfs", "mem", "node_index", "node_name", "version")

    FIELDS = {"node_index": int, "node_name": str, "cores": list, "gpus": list, "lfs": int, "mem": int, "version": lambda: 1}

    node_index: int
    node_name: str
    cores: list[ResourceOccupation]
    gpus: list[ResourceOccupation]
    lfs: float
    mem: float

    def __init__(self, from_dict: Mapping[str, Any] | None = None, **fields: Any) -> None:
        super().__init__(from_dict, **fields)
        self.cores, self.gpus = _occupied(self.cores, BUSY), _occupied(self.gpus, BUSY)


class NumaDomain(Record):
    """The cores and GPUs of a node that are close to each other, by index."""

    __slots__ = ("cores", "gpus")

    FIELDS = {"cores": list, "gpus": list}

    cores: Sequence[int]
    gpus: Sequence[int]


class Node(Record):
    """A node: its cores and GPUs with what is taken of each, and the disk and memory in MB that is left (None: not known).

    ``cores`` and ``gpus`` may be given as ``ResourceOccupation`` or as occupations in order of the index.
    """

    __slots__ = ("cores", "domains", "gpus", "index", "lfs", "mem", "name")

    FIELDS = {"index": int, "name": str, "cores": list, "gpus": list, "lfs": lambda: None, "mem": lambda: None, "domains": dict}

    index: int
    name: str
    cores: list[ResourceOccupation]
    gpus: list[ResourceOccupation]
    lfs: float | None
    mem: float | None
    domains: dict[int, NumaDomain]

    def __init__(
        self, from_dict: Mapping[str, Any] | Node | None = None, domains: Mapping[int, NumaDomain] | None = None, **fields: Any
    ) -> None:
        given = from_dict.as_dict() if isinstance(from_dict, Node) else from_dict
        super().__init__(given, **fields)
        if domains is not None:
            self.domains = dict(domains)
        self.cores, self.gpus = _in_order(self.cores), _in_order(self.gpus)

    def find_slot(self, needed: RankRequirements) -> Slot | None:
        """Return a slot for one rank, and mark it as taken; None if there is no room."""
        if not _suffices(self.lfs, needed.lfs) or not _suffices(self.mem, needed.mem):
            return None
        for cores, gpus in self._neighbourhoods(needed.numa):
            found_cores = _with_room(cores, needed.n_cores, needed.core_occupation)
            found_gpus = _with_room(gpus, needed.n_gpus, needed.gpu_occupation)
            if found_cores is not None and found_gpus is not None:
                slot = Slot(
                    cores=[RO(index=core.index, occupation=needed.core_occupation) for core in found_cores],
                    gpus=[RO(index=gpu.index, occupation=needed.gpu_occupation) for gpu in found_gpus],
                    lfs=needed.lfs,
                    mem=needed.mem,
                    node_index=self.index,
                    node_name=self.name,
                )
                self.allocate_slot(slot)
                return slot
        return None

    def allocate_slot(self, slot: Slot) -> None:
        """Mark a slot as taken.

        Raises:
            InvalidRequest: it is not free, or not of this node; nothing is marked then.
        """
        wanted = [("core", self.cores, taken) for taken in slot.cores] + [("gpu", self.gpus, taken) for taken in slot.gpus]
        for kind, known, taken in wanted:
            mine = _of_index(known, taken.index)
            if mine is None or mine.occupation is DOWN or mine.occupation + (taken.occupation or FREE) > BUSY:
                raise InvalidRequest(f"node {self.name!r}: {kind} {taken.index} of {slot!r} is not there or not free")
        if not _suffices(self.lfs, slot.lfs) or not _suffices(self.mem, slot.mem):
            raise InvalidRequest(f"node {self.name!r} has lfs={self.lfs} and mem={self.mem} left, too little for {slot!r}")
        self._account(slot, 1)

    def deallocate_slot(self, slot: Slot) -> None:
        """Mark a slot as free."""
        self._account(slot, -1)

    def _account(self, slot: Slot, sign: int) -> None:
        for known, several in ((self.cores, slot.cores), (self.gpus, slot.gpus)):
            for taken in several:
                mine = _of_index(known, taken.index)
                if mine is not None and mine.occupation is not None:
                    mine.occupation += sign * (taken.occupation or FREE)
        if self.lfs is not None:
            self.lfs -= sign * slot.lfs
        if self.mem is not None:
            self.mem -= sign * slot.mem

    def _neighbourhoods(self, numa: bool) -> Iterator[tuple[list[ResourceOccupation], list[ResourceOccupation]]]:
        if not numa or not self.domains:
            yield self.cores, self.gpus
            return
        for domain in self.domains.values():
            cores, gpus = frozenset(domain.cores), frozenset(domain.gpus)
            yield [core for core in self.cores if core.index in cores], [gpu for gpu in self.gpus if gpu.index in gpus]


class NodeList:
    """Several nodes, from which slots are taken and given back."""

    def __init__(self, nodes: Iterable[Node | Mapping[str, Any]] = ()) -> None:
        self.nodes = [node if isinstance(node, Node) else Node(node) for node in nodes]
        self._by_index = {node.index: node for node in self.nodes}
        self._next = 0
        self._refused: set[tuple[Any, ...]] = set()
        """What was not found since a slot was released last."""

    @property
    def cores_per_node(self) -> int | None:
        """Cores of a node; None if nodes differ."""
        return self._common([len(node.cores) for node in self.nodes])

    @property
    def gpus_per_node(self) -> int | None:
        """GPUs of a node; None if nodes differ."""
        return self._common([len(node.gpus) for node in self.nodes])

    @property
    def uniform(self) -> bool:
        """Whether all nodes have as many cores and GPUs."""
        return self.cores_per_node is not None and self.gpus_per_node is not None

    def find_slots(self, rr: RankRequirements, n_slots: int = 1) -> list[Slot] | None:
        """Return so many slots, and mark them as taken; None if there is no room for all of them now.

        Raises:
            InvalidRequest: not even empty nodes have that much.
        """
        key = (*(getattr(rr, name) for name in rr.FIELDS), n_slots)
        if key in self._refused:
            return None
        slots: list[Slot] = []
        for offset in range(len(self.nodes)):
            position = (self._next + offset) % len(self.nodes)
            while len(slots) < n_slots and (slot := self.nodes[position].find_slot(rr)) is not None:
                slots.append(slot)
            if len(slots) == n_slots:
                self._next = position
                return slots
        for slot in slots:
            self._by_index[slot.node_index].deallocate_slot(slot)
        self._require_possible(rr, n_slots)
        self._refused.add(key)
        return None

    def release_slots(self, slots: Iterable[Slot]) -> None:
        """Mark slots as free."""
        for slot in slots:
            self._by_index[slot.node_index].deallocate_slot(slot)
        self._refused.clear()

    def as_dict(self) -> dict[str, Any]:
        """Return the nodes as plain values."""
        return {"nodes": [node.as_dict() for node in self.nodes]}

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def __repr__(self) -> str:
        return f"<NodeList of {len(self.nodes)} nodes>"

    def _require_possible(self, rr: RankRequirements, n_slots: int) -> None:
        possible = sum(
            min(
                len(node.cores) // rr.n_cores if rr.n_cores else n_slots,
                len(node.gpus) // rr.n_gpus if rr.n_gpus and rr.gpu_occupation == BUSY else n_slots,
            )
            for node in self.nodes
        )
        if not self.nodes or (possible < n_slots and rr.core_occupation == BUSY):
            raise InvalidRequest(
                f"n_slots={n_slots} of {rr!r}: these {len(self.nodes)} nodes have {possible} such slots at most"
            )

    def _common(self, numbers: list[int]) -> int | None:
        return numbers[0] if len(set(numbers)) == 1 else None


NumaNode, NumaNodeList = Node, NodeList


def node_list(nodes: Iterable[resources.Node]) -> NodeList:
    """Return the nodes of a pilot, all free."""
    return NodeList(_node(node) for node in nodes)


def _node(node: resources.Node) -> Node:
    shape = node.shape
    cores = [RO(index=index, occupation=FREE) for index in range(shape.cores)]
    gpus = [RO(index=index, occupation=FREE) for index in range(shape.gpus)]
    size = node.domain or shape.cores
    count = -(-shape.cores // size)
    domains = {
        number: NumaDomain(
            cores=range(number * size, min((number + 1) * size, shape.cores)),
            gpus=[index for index in range(shape.gpus) if index * count // shape.gpus == number],
        )
        for number in range(count)
    }
    mib = resources.BLOCK_MIB
    return Node(
        index=node.index,
        name=node.name,
        cores=cores,
        gpus=gpus,
        lfs=shape.disk * mib,
        mem=shape.memory * mib,
        domains=domains,
    )


def _occupied(given: Iterable[Any], occupation: float) -> list[ResourceOccupation]:
    found = []
    for one in given:
        if isinstance(one, int):
            found.append(RO(index=one, occupation=occupation))
        else:
            found.append(one if isinstance(one, ResourceOccupation) else RO(one))
    return found


def _in_order(given: Sequence[Any]) -> list[ResourceOccupation]:
    if given and not isinstance(given[0], (ResourceOccupation, Mapping)):
        return [RO(index=index, occupation=occupation) for index, occupation in enumerate(given)]
    return [one if isinstance(one, ResourceOccupation) else RO(one) for one in given]


def _with_room(known: list[ResourceOccupation], count: int, needed: float) -> list[ResourceOccupation] | None:
    found: list[ResourceOccupation] = []
    if not count:
        return found
    for one in known:
        if one.occupation is not None and one.occupation + needed <= BUSY:
            found.append(one)
            if len(found) == count:
                return found
    return None


def _of_index(known: list[ResourceOccupation], index: int) -> ResourceOccupation | None:
    if 0 <= index < len(known) and known[index].index == index:
        return known[index]
    return next((one for one in known if one.index == index), None)


def _suffices(left: float | None, needed: float) -> bool:
    return left is None or needed <= left


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.as_dict()
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple, range)) else value
