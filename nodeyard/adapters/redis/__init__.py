"""Redis as coordination and memory: leases with growing epochs, nominations, the decision journal, the catalogue.

Everything here may vanish at any moment: a flushed or restarted Redis costs memory, never a double launch. Written
to the command set of Redis 6.2. Every key starts with `nodeyard:<cluster>:`. Failures to reach Redis become
`RedisUnavailableError`.
"""
