"""What must survive: the append-only log, the blob store beside it, and the lease of a session's folder.

The agent and the client use the same log. They hand over *records*: one encoded document that holds a batch of facts.
Nothing in this package looks inside a record.
"""
