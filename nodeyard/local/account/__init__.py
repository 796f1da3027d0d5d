"""A simulated AWS account, and the machines that its instances become.

One process: moto answers the AWS APIs on one HTTP port, mended where it is more lenient or poorer than EC2
(idempotency, allocation strategies, capacity, prices, consistency, interruptions), and every instance that runs
joins the cluster as a node as strict as a kubelet. Dials, turned over HTTP on the same port, make the world
worse: no capacity, throttling, cut connections, late or poor machines.

Rules: prices (`prices`) and node capacity (`machines.capacity`) are computed here from the account's own tables and
the instance types' descriptions; nothing is shared with the planner, so that each can find the other's mistakes.
Neighbours: `nodeyard.local.stand` starts this as a process; tests start it in-process through `server`.
"""
