"""What tasks print: the files and the aggregates that it is kept in, how much of it is kept, and reading it.

A task's stdout and stderr are files of its own (``output='files'``), or end in the *aggregate* of the node that it ran on: two
files that all runners of the node append to, ``<pilot>/output/<node>.data`` with the bytes and ``<node>.index`` with a record
for each attempt (see ``aggregate``). So a million tasks that print a line each need two files, not two million.

Whose output is to be aggregated writes to a *spare* pair of files in the same folder meanwhile. A runner has as many pairs as
it has such tasks at a time; at a task's end what is in them is appended, and the next task gets the pair, empty. What is too
large to be copied, and what finds no room, stays where it is: then the record names the pair, and the next task gets another.

Tasks with files of their own that are likely to print nothing get such pairs, too (see ``spares``): a file that stays empty
need not be made.
"""
