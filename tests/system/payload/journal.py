"""Checks the journal's entries on stdin (`journalctl -o json`): each event has fields of its own."""

import json
import sys

entries = [json.loads(line) for line in sys.stdin]
events = [entry for entry in entries if "MODELD_EVENT" in entry]
swaps = [entry for entry in events if entry["MODELD_EVENT"] == "swapped"]
assert {entry["MODELD_VERSION"] for entry in swaps} >= {"1.0.0", "1.1.0", "1.3.0"}, swaps
for entry in swaps:
    assert entry["MODELD_MODEL"] == "alpha"
    assert int(entry["MODELD_GENERATION"]) > 0
    assert entry["MESSAGE"].startswith("swapped model=alpha")
    assert (entry["_SYSTEMD_UNIT"], entry["SYSLOG_IDENTIFIER"]) == ("modeld.service", "modeld")
rejected = [entry for entry in events if entry["MODELD_EVENT"] == "rejected"]
assert {(entry["MODELD_VERSION"], entry["PRIORITY"]) for entry in rejected} == {
    ("1.2.0", "4"),
    ("1.4.0", "4"),
}
# The command of ExecReload= speaks on its own; the daemon's own lines are all events.
daemon = [entry for entry in entries if entry.get("_CMDLINE", "").endswith(" serve")]
assert daemon
assert not [entry for entry in daemon if entry not in events]
