"""One machine: what it booted with, what it has, what runs on it. State only; `yard` moves it.

Stages: booting (not joined yet), joined, failed (its kubelet never started; `problem` says why), gone (the instance
is shutting down or terminated).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from nodeyard.local.account.book import Rented
from nodeyard.local.account.machines.admission import Load
from nodeyard.local.account.machines.capacity import Resources, shown
from nodeyard.local.account.machines.seen import Node


@dataclass(eq=False)
class Machine:
    """A rented instance in the cluster. `tasks` are what goes on for it, by pod UID or purpose."""

    rented: Rented
    name: str
    stage: str = "booting"
    problem: str | None = None
    resources: Resources | None = None
    node: Node | None = None
    with_devices: bool = False
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    load: Load = field(default_factory=Load)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    @property
    def alive(self) -> bool:
        """Whether it plays its pods."""
        return self.stage == "joined"

    @property
    def address(self) -> str:
        """Its address in the VPC."""
        return str(self.rented.ec2.private_ip)

    def allocatable(self) -> dict[str, int]:
        """What admission may count on now."""
        assert self.resources is not None
        devices = self.resources.devices if self.with_devices else {}
        return {**self.resources.allocatable, **devices}

    def do(self, name: str, work: Any) -> None:
        """Run the coroutine `work` for this machine; a task of that name that still runs is cancelled first."""
        self.cancel(name)
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self.tasks[name] = task
        task.add_done_callback(lambda done: self._done(name, done))

    def cancel(self, name: str) -> None:
        """Stop what goes on under that name."""
        task = self.tasks.pop(name, None)
        if task is not None:
            task.cancel()

    def _done(self, name: str, task: asyncio.Task[None]) -> None:
        if self.tasks.get(name) is task:
            del self.tasks[name]
        if not task.cancelled() and task.exception() is not None:
            self.problem = f"{name}: {task.exception()!r}"

    def shown(self) -> dict[str, Any]:
        """For people."""
        return {
            "instance_id": self.rented.instance_id,
            "instance_type": self.rented.instance_type,
            "node": self.name,
            "stage": self.stage,
            "problem": self.problem,
            "ready": self.ready.is_set() and self.alive,
            "pods": len(self.load.pods),
            "allocatable": shown(self.allocatable()) if self.resources else {},
        }
