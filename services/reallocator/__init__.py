"""The reallocator: the slow, cost-sensitive loop, and the owner of every node's end.

Decides which nodes go (empty, drifted, expired, replaceable by something cheaper), writes replacement NodeClaims first and
deletes the old ones when those are Initialized; takes down whatever is deleted (taint, drain, volumes, instance,
finalizers); does so with nodes whose instance the cloud says is going; collects instances without a claim and claims
without an instance. Reads the watcher's and pricing's streams and the cloud's notices; writes what docs/architecture.md
gives it. All state is on Kubernetes objects: the holder of the lease `disruption` disrupts, any replica terminates
under per-node leases, and either goes on where the other died. While Redis is away nothing new is disrupted;
interruptions and terminations go on.
"""
