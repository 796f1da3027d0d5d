"""Pricing: what the cloud can sell, at what price, and what it just refused to sell.

Decides nothing about pods. Reads EC2 (types, zones, spot prices) and the Price List (on demand), each on its own
schedule; a price feed and commitments, where there are any; hears from the allocator what was refused and how much
memory nodes turned out to have. Writes the cluster's `catalogue*`, `refused` and `learned` keys in Redis, the
directory of the last known catalogue if there is one, and nothing else. Any number of replicas serve; each source is
asked by one of them at a time, the others adopt its answer.

How it fails: AWS away – its last answers are served, marked as such, and when those get old the feed's, then estimates
per family; without any instance types it is not ready. Redis away – each replica asks AWS itself and remembers
refusals for itself, and writes them down later. A replica killed at any point leaves a claim that ends by itself.
"""
