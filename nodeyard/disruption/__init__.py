"""Which nodes should go, which may go, and how one that goes is taken down. Decisions only, nothing is done here.

A pass reads a `View` (snapshot, prices, nominations, time) and gives proposals and at most one `Command`; `methods`
is the short ordered list of ways to find one. Draining, termination and garbage collection are decided here step by
step too, from facts that the reallocator gathers. Pure: time comes in as an argument. Neighbours: `provisioning`,
whose planner answers "what if this node were gone", and `services.reallocator`, which acts.
"""
