"""Pricing: what the cloud can sell, at what price, and what it just refused to sell.

Decides nothing about pods. Reads EC2 (types, zones, spot prices) and the Price List (on demand), each on its own
schedule; hears of refusals from the allocator. Writes the cluster's `catalogue*` and `refusals` keys in Redis and
nothing else. Any number of replicas serve; each source is asked by one of them at a time, the others adopt its answer.

How it fails: AWS away – the last known prices are served, marked as such, then estimates per family; without any
instance types it is not ready. Redis away – each replica asks AWS itself and remembers refusals for itself, and
writes them down later. A replica killed at any point leaves a claim that ends by itself.
"""
