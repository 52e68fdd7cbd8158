#!/bin/bash
# Runs as root inside the container, under a real systemd: /opt/pay has the wheel's files, the unit and three models.
set -eu
export PYTHONPATH=/opt/pay/site MODELREG_ROOT=/var/lib/modeld/models
modelreg() { /usr/bin/python3 /opt/pay/site/bin/modelreg "$@"; }
modeld() { /usr/bin/python3 /opt/pay/site/bin/modeld --config /etc/modeld/modeld.yaml "$@"; }
step() { echo "== $*"; }
serving() { modeld status --json --wait 20 | python3 -c 'import json,sys; print(json.load(sys.stdin)["models"][0]["version"])'; }
install -D -m 644 /opt/pay/modeld.service /etc/systemd/system/modeld.service
mkdir -p /etc/systemd/system/modeld.service.d /etc/modeld
cat >/etc/systemd/system/modeld.service.d/here.conf <<C
[Service]
Environment=PYTHONPATH=/opt/pay/site
ExecStart=
ExecStart=/usr/bin/python3 /opt/pay/site/bin/modeld --config /etc/modeld/modeld.yaml serve
ExecReload=
ExecReload=/usr/bin/python3 /opt/pay/site/bin/modeld --config /etc/modeld/modeld.yaml reload
WatchdogSec=3
C
echo 'watch: {poll_interval_s: 0.2}' >/etc/modeld/modeld.yaml
systemctl daemon-reload
modelreg init; modelreg register alpha /opt/pay/m1.txt --version 1.0.0; modelreg register alpha /opt/pay/m2.txt --version 1.1.0
modelreg register alpha /opt/pay/m3.txt --version 1.2.0 --no-golden
modelreg promote alpha:1.0.0 --reason first
step start
systemctl start modeld || { journalctl -u modeld --no-pager | tail -40; systemctl status modeld --no-pager; exit 1; }
systemctl show modeld -p ActiveState -p StatusText
[ "$(serving)" = 1.0.0 ]
step reload good
modelreg promote alpha:1.1.0 --reason better
systemctl reload modeld
[ "$(serving)" = 1.1.0 ]
step reload bad
modelreg promote alpha:1.2.0 --reason bad
if systemctl reload modeld; then echo "a reload of a bad candidate succeeded"; exit 1; fi
[ "$(serving)" = 1.1.0 ]
modelreg history alpha | head -6
step sigkill
pid=$(systemctl show modeld -p MainPID --value); kill -KILL $pid
for i in $(seq 50); do [ "$(systemctl show modeld -p MainPID --value)" != $pid ] && systemctl is-active -q modeld && break; sleep 0.2; done
[ "$(serving)" = 1.1.0 ]
step sigstop
pid=$(systemctl show modeld -p MainPID --value); kill -STOP $pid
for i in $(seq 100); do [ "$(systemctl show modeld -p MainPID --value)" != $pid ] && systemctl is-active -q modeld && break; sleep 0.2; done
[ "$(serving)" = 1.1.0 ]
step journal
journalctl -u modeld -o json --no-pager | head -1 | cut -c1-300
journalctl -u modeld -o cat --no-pager | grep swapped | tail -1
step stop
systemctl stop modeld
systemctl show modeld -p Result -p ActiveState
! pgrep -f bin/modeld
! ls /run/modeld 2>/dev/null
echo all-good
