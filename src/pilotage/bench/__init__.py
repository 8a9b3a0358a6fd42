"""Benchmarks: our figure and the baseline's in the same run, and the ratio. ``pilotage bench`` runs them.

A case is a function of ``quick`` that returns rows: dictionaries with ``case``, ``value``, ``unit`` and, where they apply,
``baseline`` (what it is and its figure), ``ratio`` (value over baseline) and ``target`` (what is to be reached, in words).
Times are medians over rounds that take turns with the baseline, as the speed of a machine drifts. CPU is that of all
processes of the pilot, the tasks' own included, read from ``/proc``.
"""
