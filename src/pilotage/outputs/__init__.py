"""What tasks print: the files that hold the output of many tasks, written by runners and read by everyone."""
