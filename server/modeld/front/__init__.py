"""The front: one process, one thread, one loop that owns the sockets and the versions served."""
