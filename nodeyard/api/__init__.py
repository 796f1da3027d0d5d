"""The words everybody speaks: labels, quantities and the values that Kubernetes objects become.

`objects` holds Kubernetes objects as the API server writes them (only the fields we read); `convert` turns them
into the flat, frozen values of the other modules, once, at the edge. Everything downstream of the watcher sees
values only. Pure: no I/O, no clock.
"""
