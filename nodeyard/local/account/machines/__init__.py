"""The machines: what a rented instance becomes when it boots into the cluster.

Each reads its user data as its image would (`userdata`), finds out what it has (`capacity`), registers a Node
(`node`), admits pods as strictly as a kubelet (`admission`) and runs and ends them (`pods`). `yard` follows account
and cluster and does the writes, through `kube`. KWOK renews the leases of nodes annotated for it; everything else a
node or its pods do is decided here.
"""
