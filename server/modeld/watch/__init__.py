"""The watcher: a process of its own that looks at the source, so that the front never waits for a disk."""
