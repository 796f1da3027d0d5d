"""What the watcher reads from its environment."""

from nodeyard.runtime.settings import ServiceSettings


class WatcherSettings(ServiceSettings, frozen=True, kw_only=True):
    """`kubeconfig`: path; empty means the pod's own service account."""

    kubeconfig: str = ""
