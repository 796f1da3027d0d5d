"""The watcher: the only service that lists and watches.

Decides nothing. Reads pods, nodes, NodePools, Provisioners, EC2NodeClasses, AWSNodeTemplates, NodeClaims, DaemonSets,
disruption budgets, volumes, classes, namespaces, VerticalPodAutoscalers and what selects pods; writes nothing. Owns
the translation of Kubernetes objects into values, the ids of pod shapes, and the order in which everybody else hears
of changes.

Any number of replicas may run; subscribers follow one and go to the next. It serves once everything essential has
been listed, and stops serving (subscribers then hold still) while the API server does not answer. A kind that is
not installed or not allowed is said once and asked for slowly; pods, nodes, NodePools and NodeClaims are essential.
It keeps nothing: after a restart it lists anew, in a new epoch.
"""
