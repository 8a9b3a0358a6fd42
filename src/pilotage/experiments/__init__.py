"""The experiments that were published of RADICAL-Pilot, made again: by measuring this machine, or in simulation.

``registry`` has them all. An ``Experiment`` (see ``definition``) says what was published, with a source for each number, and
how it is made again; ``running`` runs one and writes what came of it: a table, a plot beside the published points, and a page
that says in numbers how near both are (see ``nearness``). ``pilotage experiment`` is the command.

In simulation each experiment is made twice. *Modelled*: with a launcher, and a scheduler's rate, as they were published, so
that the published curve has to come out of what is known of its parts. *Ideal*: with a launcher that costs nothing, so that
what remains is Pilotage's own; its decisions are real, and so is the CPU time that they take.
"""
