"""What travels between processes: messages, their codec, and the channels that carry them.

Nothing is imported here: the spawner and the workers use the runner messages without paying for ZeroMQ.
"""
