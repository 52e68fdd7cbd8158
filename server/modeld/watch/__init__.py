"""The watcher: a process of its own that looks at the source of pointers, so that no disk is ever waited for in the front."""
