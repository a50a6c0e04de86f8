"""How a cluster and its workers talk: the wire schema, ZeroMQ ends, the same in memory, child processes."""
