"""The decisions of a swap, apart from the acts: pure functions over frozen views."""
