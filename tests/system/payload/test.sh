#!/bin/bash
# Runs as root inside the container, under a real systemd. /opt/pay has the sources, wheels of what they need (there is
# no network here), and the blocks of docs/operations.md. It follows that page, and breaks things in between.
set -euo pipefail
step() { echo "== ${SECONDS}s: $*"; }
fail() { echo "FAILED: $*"; journalctl --no-pager | tail -60; exit 1; }
# block NAME [USER]: what the page says, as USER, who has Debian's umask.
block() { echo "-- $1${2+ as $2}"; runuser -u "${2-root}" -- bash -euo pipefail "/opt/pay/blocks/$1.sh"; }
until_true() { for _ in $(seq 300); do "$@" && return; sleep 0.1; done; fail "never true: $*"; }
main_pid() { systemctl show modeld -p MainPID --value; }
serving() { modeld status --json --wait 20 | python3 -c 'import json,sys; print(json.load(sys.stdin)["models"][0]["version"])'; }
serves() { [ "$(serving)" = "$1" ] || fail "$(serving) serves, not $1"; }
on_trial() { modeld status --json | grep -q '"trial": {'; }
degraded() { local status=0; modeld status >/dev/null 2>&1 || status=$?; [ $status -eq 1 ]; }
as_ann() { runuser -u ann -- env MODELREG_ROOT=/var/lib/modeld/models "$@"; }
umask 022
export PIP_NO_INDEX=1 PIP_FIND_LINKS=/opt/pay/wheels PIP_NO_COMPILE=1 PATH=/opt/pay/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
cp -r /opt/pay/src /root/modeld
cd /root/modeld

step install
mkdir /var/lib/modeld
mount -t tmpfs -o size=16M tmpfs /var/lib/modeld   # a disk that can be filled
block install
# Compiled once, by who may write there; all of it (without PIP_NO_COMPILE) takes longer than the rest of this script.
/opt/modeld/venv/bin/python -c 'import modeld.cli, modeld.front.daemon, modeld.client; from modelreg import loaders; loaders.preload()'
modeld --help >/dev/null; modelreg --help >/dev/null
systemd-analyze verify modeld.service modeld@b.service modeld-http.service modelreg-backup.timer modelreg-gc.timer
systemctl is-enabled -q modeld modelreg-backup.timer && fail "something is enabled"
sed -i 's/^  poll_interval_s: 1.0 /  poll_interval_s: 0.2 /; s/^  seconds: 30 /  seconds: 0.5 /' /etc/modeld/modeld.yaml
cp /etc/modeld/modeld.yaml /tmp/edited.yaml
modeld install-units --prefix /opt/modeld/venv >/dev/null
cmp /etc/modeld/modeld.yaml /tmp/edited.yaml || fail "an edited configuration was overwritten"
block operator

step "the first prediction"
block example ann
block start
block first ann
block promote ann
serves 1.1.0
until_true test -e /var/lib/modeld/good/alpha.json

step "reload by systemctl"
as_ann modelreg register alpha /tmp/one.txt --version 1.3.0
as_ann modelreg promote alpha:1.3.0 --reason better
systemctl reload modeld
serves 1.3.0
as_ann modelreg register alpha /tmp/broken.txt --version 1.4.0 --no-golden
as_ann modelreg promote alpha:1.4.0 --reason "looks fine"
systemctl reload modeld && fail "a reload of a bad candidate succeeded"
serves 1.3.0

step "killed, and hanging"
for signal in KILL STOP; do
  pid=$(main_pid)
  kill -$signal "$pid"
  until_true sh -c "[ \$(systemctl show modeld -p MainPID --value) != $pid ] && systemctl is-active -q modeld"
  serves 1.3.0
done

step "what isn't the main process can't speak for it"
for pid in $(pgrep -u modeld); do
  [ "$pid" = "$(main_pid)" ] || ! tr '\0' '\n' <"/proc/$pid/environ" | grep -E '^(NOTIFY_SOCKET|WATCHDOG_)' || fail "$pid has it"
done
pid=$(main_pid)
sh -c "echo \$\$ >/sys/fs/cgroup\$(systemctl show modeld -p ControlGroup --value)/cgroup.procs; exec python3 -c '
import socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b\"STATUS=hijacked\nMAINPID=1\nWATCHDOG=trigger\", \"/run/systemd/notify\")'"
until_true sh -c 'journalctl --no-pager _PID=1 | grep -q "notification message.*reception only permitted for main PID"'
systemctl show modeld -p StatusText | grep -q hijacked && fail "the status was taken over"
[ "$(main_pid)" = "$pid" ] || fail "the main process was taken over"

step "a slow start extends its timeout"
systemctl stop modeld
mkdir -p /run/systemd/system/modeld.service.d
printf '[Service]\nTimeoutStartSec=10\n' >/run/systemd/system/modeld.service.d/slow.conf
systemctl daemon-reload
began=$SECONDS
systemctl start modeld & starting=$!
until_true pgrep -x modeld-zygote >/dev/null
kill -STOP "$(pgrep -x modeld-zygote)"      # no worker can be made: the trial waits
while [ $((SECONDS - began)) -lt 13 ]; do sleep 0.1; done
kill -CONT "$(pgrep -x modeld-zygote)"
wait $starting || fail "a start that gets on was ended by its timeout"
rm -r /run/systemd/system/modeld.service.d
systemctl daemon-reload
serves 1.3.0

step "SIGTERM in the middle of a swap; nothing is left"
kill -STOP "$(pgrep -x modeld-zygote)"
as_ann modelreg promote alpha:1.1.0 --reason "in the middle"
until_true on_trial
began=$SECONDS
systemctl stop modeld
[ $((SECONDS - began)) -lt 15 ] || fail "the stop took $((SECONDS - began)) s"
[ "$(systemctl show modeld -p Result -p ExecMainStatus --value | tr '\n' ' ')" = "success 0 " ] || fail "not a clean end"
pgrep -u modeld && fail "processes are left"
[ ! -e /run/modeld ] || fail "/run/modeld is left"
systemctl start modeld
serves 1.1.0

step journal
block journal >/tmp/journal
journalctl -u modeld -o json --no-pager | python3 /opt/pay/journal.py

step "runbook: roll back, hold, rejected"
block rollback ann
serves 1.3.0
as_ann modelreg history alpha --json | grep -q "\"uid:$(id -u ann)\"" || fail "the log doesn't know the operator"
block hold ann
block rejected ann
block rejected-journal | grep -q 'rejected.*version=1.2.0' || fail "the rejection isn't in the journal"

step "runbook: the registry is lost"
systemctl start modelreg-backup
rm -rf /var/lib/modeld/models/* /var/lib/modeld/models/.registry
until_true degraded
systemctl restart modeld
modeld predict --features '[0.1, 0.2, 0.3, 0.4]'
block lost-registry
serves 1.3.0
as_ann modelreg tag alpha:1.3.0 after-the-fire

step "runbook: the disk is full"
for n in 1 2 3 4 5 6 7 8; do as_ann modelreg register alpha /tmp/one.txt --version 3.0.$n >/dev/null; done
dd if=/dev/zero of=/var/lib/modeld/filler bs=4k status=none || true
as_ann modelreg register alpha /tmp/two.txt --version 4.0.0 && fail "registered on a full disk"
modeld predict --features '[0.1, 0.2, 0.3, 0.4]'
truncate -s -64K /var/lib/modeld/filler            # what a file system keeps for root
block disk-full
as_ann modelreg register alpha /tmp/two.txt --version 4.0.0
rm /var/lib/modeld/filler
systemctl start modelreg-gc

step "runbook: slow tail"
block slow-tail ann
block low-latency
chrt -p "$(main_pid)" | grep -q SCHED_FIFO || fail "no real-time scheduling"
chrt -p "$(pgrep -x modeld-zygote)" | grep -q SCHED_OTHER || fail "workers are real-time"
serves 1.3.0

step "runbook: upgrade without a gap"
block second
/opt/modeld/venv/bin/python /opt/pay/stream.py & stream=$!
until_true test -e /tmp/streaming
block upgrade
kill -TERM $stream
wait $stream || fail "requests were lost"
until_true sh -c '! systemctl is-active -q modeld@b'
[ "$(systemctl show modeld@b -p Result --value)" = success ] || fail "the second daemon didn't end cleanly"

if modeld http --help >/dev/null 2>&1 && /opt/modeld/venv/bin/python -c 'import modeld.http' 2>/dev/null; then
  step "the gateway"
  systemctl start modeld-http
  until_true python3 -c 'import urllib.request; urllib.request.urlopen("http://127.0.0.1:8080/v2/health/ready", timeout=2)' 2>/dev/null
  systemctl stop modeld-http
fi

step uninstall
block uninstall
pgrep -u modeld && fail "processes are left"
[ ! -e /usr/local/bin/modeld ] && [ ! -e /opt/modeld/venv ] && [ ! -e /usr/local/lib/systemd/system/modeld.service ] || fail "something is left"
[ -e /etc/modeld/modeld.yaml ] && [ -d /var/lib/modeld/models/alpha ] || fail "configuration or state is gone"
step end
echo all-good
