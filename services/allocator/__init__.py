"""The allocator: a place for every pending pod, from plan to Initialized node.

Decides: which pods are pending (`provisioning.pending`), what to make for them (`provisioning.planner`), what to
launch each claim as (`provisioning.launches`), which step a claim is due for (`provisioning.lifecycle`).
Reads: the watcher's stream, pricing's stream, Redis (leases), EC2 and SSM (what node classes name).
Writes and owns: see docs/architecture.md, "Who writes what".

How it works: `controller` batches pods and plans, one replica at a time under the lease `planning/all`; claims are
created together, laid over the stream at once, and launched without waiting to see them again. `follower` looks at
every claim there is and does the step that is due, in either replica, under the lease `node/<claim>`: launch what is
unlaunched (`launcher`; `batches` puts launches alike into one CreateFleet, `naming` tags what came of it), register
what joined and place its pods (`registrar`), give up what takes too long. `classes`
keeps node classes resolved and launch templates made ahead; `pools` keeps statuses and counters.

How it fails: without Redis nothing new is planned, launches and registrations go on (the client token and
resourceVersions keep them single). Without pricing it plans with the last catalogue. Without the watcher it does
nothing new. Without EC2 claims wait with a condition that says so, and are given up after the launch TTL. What a
killed replica leaves behind is on the claims: the launch record and the batch are written before the call, so the
other replica repeats the same request and gets the same instances.

Kill points (`nodeyard.runtime.lifecycle.kill_point`), before and after each outside write, all `allocator.<when>-`:
`create-claim`, `annotate-claim`, `status-claim`, `add-finalizer-claim`, `remove-finalizer-claim`, `delete-claim`,
`instance-profile`, `profile-role`, `launch-template`, `create-fleet`, `create-tags`, `register-node`,
`initialize-node`, `lift-hold`, `nominate-pods`, `bind-pods`, `pool-status`; and `allocator.after-plan`, between a plan and its first write.
"""
