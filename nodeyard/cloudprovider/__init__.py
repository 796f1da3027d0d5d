"""What a cloud can sell, at what price, and how it says no.

`InstanceType` and `Offering` are what the planner buys from; `Catalogue` holds them for one node class. A `Market` is
what is for sale to everybody (types, prices, refusals), `resolve` one class's view of it, with capacity and
allocatable worked out; `errors` is the tree every provider's refusals are translated into. Pure.
"""
