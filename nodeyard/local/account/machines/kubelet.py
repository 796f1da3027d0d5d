"""Plays the pods of all machines: admits or fails them, lets them run, and ends them when they are deleted.

Level-triggered per pod UID: seeing a pod once or often leads to the same. Before a pod is failed for what its node is
like, the node is read anew, since the watch on nodes may lag behind a bind. Pods of a machine that is gone are left as
they are: nobody is there to end them. Neighbours: `yard` tells of the machines, `admission` judges, `pods` words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog

from nodeyard.local.account.account import Account
from nodeyard.local.account.dials import MachineDials
from nodeyard.local.account.machines import pods
from nodeyard.local.account.machines.admission import judge
from nodeyard.local.account.machines.kube import STRATEGIC, Patient
from nodeyard.local.account.machines.machine import Machine
from nodeyard.local.account.machines.seen import Node, Pod

log = structlog.get_logger(__name__)


class Kubelets:
    """The kubelets of all machines; `by_node` is the yard's map of node names to machines."""

    def __init__(self, account: Account, patient: Patient, by_node: Mapping[str, Machine]) -> None:
        self._account = account
        self._patient = patient
        self._by_node = by_node
        self._addresses = pods.Addresses()

    def listed(self, found: list[Pod]) -> None:
        """All bound pods of the cluster, as they are now."""
        present = {pod.metadata.uid for pod in found}
        for machine in self._by_node.values():
            for uid in machine.seen - present:
                self._forget(machine, uid)
        for pod in found:
            self.see(pod)

    def event(self, kind: str, pod: Pod) -> None:
        """A change of one bound pod."""
        if kind != "DELETED":
            self.see(pod)
            return
        machine = self._by_node.get(pod.spec.node_name)
        if machine is not None:
            self._forget(machine, pod.metadata.uid)

    def see(self, pod: Pod) -> None:
        """Do whatever is to be done about a pod, if it is on one of our machines."""
        machine, uid = self._by_node.get(pod.spec.node_name), pod.metadata.uid
        if machine is None or not machine.alive:
            return
        if pod.metadata.deletion_timestamp is not None:
            if f"end {uid}" not in machine.tasks:
                machine.cancel(uid)
                machine.do(f"end {uid}", self._end(machine, pod))
        elif pod.ended:
            machine.load.remove(uid)
        elif uid not in machine.seen:
            machine.seen.add(uid)
            self._admit(machine, pod)
        elif uid not in machine.tasks and pods.newly_ready(pod):
            machine.do(uid, self._write(pod, pods.ready(pod, self._account.clock())))

    def _forget(self, machine: Machine, uid: str) -> None:
        machine.cancel(uid)
        machine.cancel(f"end {uid}")
        machine.load.remove(uid)
        machine.seen.discard(uid)

    def _admit(self, machine: Machine, pod: Pod) -> None:
        known = machine.node
        if known is not None and judge(pod, known, machine.allocatable(), machine.load) is None:
            machine.load.add(pod)
            machine.do(pod.metadata.uid, self._run(machine, pod))
        else:
            machine.do(pod.metadata.uid, self._admit_anew(machine, pod))

    async def _admit_anew(self, machine: Machine, pod: Pod) -> None:
        """Judge again by the node as the API server has it now; only then is the pod failed."""
        fresh = await self._patient.read(f"/api/v1/nodes/{machine.name}", Node)
        if fresh is None:
            return
        machine.node = fresh
        rejection = judge(pod, fresh, machine.allocatable(), machine.load)
        if rejection is None:
            machine.load.add(pod)
            await self._run(machine, pod)
            return
        name = f"{pod.metadata.namespace}/{pod.metadata.name}"
        log.info("a machine refuses a pod", node=machine.name, pod=name, reason=rejection.reason)
        await self._write(pod, pods.failed(pod, rejection, self._account.clock()))

    async def _run(self, machine: Machine, pod: Pod) -> None:
        if pod.status.phase == "Running":
            return
        await machine.ready.wait()
        delay = self._dials(machine).pod_start_seconds
        if delay:
            await asyncio.sleep(delay)
        address = machine.address if pod.spec.host_network else self._addresses.take()
        await self._write(pod, pods.running(pod, address, machine.address, self._account.clock()))

    async def _end(self, machine: Machine, pod: Pod) -> None:
        meta = pod.metadata
        if not pod.ended:
            delay, grace = self._dials(machine).pod_exit_seconds, meta.deletion_grace_period_seconds
            await asyncio.sleep(delay if grace is None else min(delay, grace))
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": meta.uid}}
        await self._patient.write("DELETE", f"/api/v1/namespaces/{meta.namespace}/pods/{meta.name}", body)
        machine.load.remove(meta.uid)

    def _dials(self, machine: Machine) -> MachineDials:
        entry = machine.rented
        return self._account.dials.machines_for(entry.instance_id, entry.instance_type)

    async def _write(self, pod: Pod, body: dict[str, Any]) -> None:
        meta = pod.metadata
        path = f"/api/v1/namespaces/{meta.namespace}/pods/{meta.name}/status"
        status, answer = await self._patient.write("PATCH", path, body, STRATEGIC)
        if status not in (200, 404, 409):
            text = answer[:300].decode("utf-8", "replace")
            log.warning("a pod's status is refused", pod=f"{meta.namespace}/{meta.name}", answer=text)
