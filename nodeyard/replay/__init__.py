"""Replay: the allocator's and the reallocator's own decisions over a trace of pods and prices, days in seconds.

A `Trace` says which pods come and go, a `Market` what the cloud asks, a `Policy` how to decide; `simulation.replay`
plays them in a `World` of its own (a kube-scheduler, machines that take a while, a bill) and gives a `Result`.
Decisions come from `provisioning.planner.plan`, `disruption.methods.decide` and `disruption.validation`, unchanged.
Pure: time is simulated, chance is a seed, and the same input gives the same result (`work_clock` has the one exception).
"""
