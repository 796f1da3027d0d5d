"""What every service stands on: settings, logs, metrics, health, servers, loops that are restarted, leases held.

`lifecycle.run_service` is the way in: a service's composition root hands it its settings class and a `build`
function, and gets signals, health, metrics, a gRPC server, supervised loops and a graceful end. Nothing here knows
Kubernetes, EC2 or Redis; where it needs them (`leadership`) it asks through a port.
"""
