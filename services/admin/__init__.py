"""admin: HTTP for people. It decides nothing and writes nothing.

Reads: the watcher's stream and pricing's catalogue (what there is, at what price), the allocator and the reallocator
by gRPC (dry runs, proposals), and the decision journal in Redis. Fails: a service that is away makes its endpoints
answer 503 with its name; the others go on. Read-only, reachable inside the cluster.
"""
