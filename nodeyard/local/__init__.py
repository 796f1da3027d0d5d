"""Everything on one machine: the stand that tests, the demo and a curious person run the services on.

It owns a real Kubernetes control plane as processes (etcd, kube-apiserver, kube-scheduler,
kube-controller-manager, KWOK), a Redis, the simulated AWS account with its machines, and the services
themselves, each as a process of its own. Nothing here is imported by a service, and no service knows that
it runs here: the stand differs from a cloud by settings only.

Who plays what: KWOK keeps the heartbeats (leases, the first Ready) of every node annotated
`kwok.x-k8s.io/node=fake`, and plays the pods of plain nodes whose names start with `kwok-`. The machines of
the simulated account admit, run and end the pods on their own nodes, as strictly as a kubelet.
"""
