"""`modeld bench`: what a daemon's answers cost, as a ratio to a bare ZeroMQ echo of the same bytes.

`run.run_bench(options)` is the whole command. Who does what:

* `options`, `cases`: what is asked for; what is measured for it.
* `load` is the client process (`loops`: its inner loops), `echo` the yardstick's server, `model` trains the
  reference model, `offline` predicts without a server; `lines` starts such processes and talks to them.
* `stack` is a temporary registry with a real daemon; `target` is whatever daemon is measured.
* `figures`, `schedule`: pure arithmetic; `measure`, `extras`: the measurements.
* `report`, `picture`: what is shown.
"""
