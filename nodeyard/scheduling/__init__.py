"""The algebra of placement: what a label, a taint, a port, a volume or another pod allows.

`requirements` (label states as sets), `selectors` (who is selected), `taints`, `ports`, `volumes` and `topology`
(terms that look at other pods). Pure values and functions over them; the planner's arrays are built on top.
"""
