"""The planner: pods + snapshot + catalogues -> Plan, and nothing else.

`model` has the problem, the options and the plan as values; `plan` (in `planner`) is the one function that the
allocator, the dry run, the what-if and the command line all call. Pure: time comes in as an argument.
"""
