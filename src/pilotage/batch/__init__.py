"""Batch systems: a job's script, the commands that submit, ask for and cancel it, and the reading of what they print.

``job`` says what is asked for and what is told of it, ``system`` what a batch system is, ``registry`` which there are; each
has a file. All of that is pure. ``commands`` is the one place that runs anything, ``watcher`` asks for many jobs at a time
and tells changes.

*Why PSI/J is not underneath.* Its generators are pure, too, and cover five of these systems. They have no word for most of
what a pilot asks for (quality of service, licenses, file systems, dependencies, a signal before the end), and what they read
from a queue is one of five states: why a job waits, when it may start, whether it was preempted, requeued or out of time, its
exit code and signal are not in it. All of that would stand beside each generator, and be read by other commands than it uses.
One set of adapters of one shape is less than two halves.
"""
