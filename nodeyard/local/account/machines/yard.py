"""Follows the account and the cluster: lets machines boot, register, become ready, find their devices, and go.

Level-triggered: a change in the account or a (re)list of the cluster leads to the same steps however often it is seen.
Owns the thread and event loop of the machines and every write to their Nodes. Neighbours: `kubelet` plays the pods,
`kube` carries the requests, `account` tells what instances there are.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import structlog

from nodeyard.local.account.account import Account
from nodeyard.local.account.book import Rented
from nodeyard.local.account.catalogue import description
from nodeyard.local.account.machines import capacity, node, userdata
from nodeyard.local.account.machines.kube import MERGE, STRATEGIC, Kube, Patient
from nodeyard.local.account.machines.kubelet import Kubelets
from nodeyard.local.account.machines.machine import Machine
from nodeyard.local.account.machines.seen import Node, Pod

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 0.5
_LOOK_AGAIN_SECONDS = 5.0
_BOUND = "&fieldSelector=spec.nodeName!%3D"


class Yard:
    """All machines of one account in one cluster."""

    def __init__(self, account: Account, kubeconfig: Path) -> None:
        self._account = account
        self._kubeconfig = kubeconfig
        self._machines: dict[str, Machine] = {}
        self._by_node: dict[str, Machine] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    # -- life of the thread

    def start(self) -> None:
        """Start following, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="machines", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop; nodes and pods stay as they are."""
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(timeout=10)

    def shown(self) -> list[dict[str, Any]]:
        """What became of each machine, for people."""
        return [machine.shown() for machine in list(self._machines.values())]

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception:  # the thread's edge: say why the machines are not there
            log.exception("the machines stopped", kubeconfig=str(self._kubeconfig))

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping, self._changed = asyncio.Event(), asyncio.Event()
        self._kube = await Kube.from_kubeconfig(self._kubeconfig)
        self._patient = Patient(self._kube)
        self._kubelets = Kubelets(self._account, self._patient, self._by_node)
        self._account.listeners.append(self._wake)
        work = [
            asyncio.create_task(
                self._kube.follow("/api/v1/nodes", Node, "", self._nodes_listed, self._node_event)
            ),
            asyncio.create_task(
                self._kube.follow("/api/v1/pods", Pod, _BOUND, self._kubelets.listed, self._kubelets.event)
            ),
            asyncio.create_task(self._follow_account()),
        ]
        try:
            await self._stopping.wait()
        finally:
            self._account.listeners.remove(self._wake)
            mine = [task for machine in self._machines.values() for task in machine.tasks.values()]
            for task in [*work, *mine]:
                task.cancel()
            await asyncio.gather(*work, *mine, return_exceptions=True)
            await self._kube.close()

    def _wake(self) -> None:
        """Called by the account, in any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._changed.set)

    # -- the account

    async def _follow_account(self) -> None:
        while True:
            self._changed.clear()
            try:
                self._look_at_account()
            except Exception:
                log.exception("the machines could not follow the account")
            try:
                await asyncio.wait_for(self._changed.wait(), _LOOK_AGAIN_SECONDS)
            except TimeoutError:
                continue

    def _look_at_account(self) -> None:
        with self._account.lock:
            rented = {entry.instance_id: entry for entry in self._account.ledger.all()}
            new = [e for e in rented.values() if e.instance_id not in self._machines and self._ours(e)]
        for entry in new:
            self._power_on(entry)
        for instance_id, machine in list(self._machines.items()):
            if machine.stage != "gone" and machine.rented.state not in ("pending", "running"):
                self._power_off(machine)
            if instance_id not in rented:
                del self._machines[instance_id]
                if self._by_node.get(machine.name) is machine:
                    del self._by_node[machine.name]

    def _ours(self, entry: Rented) -> bool:
        return entry.state == "running" and f"kubernetes.io/cluster/{self._account.cluster}" in entry.tags()

    def _power_on(self, entry: Rented) -> None:
        machine = Machine(rented=entry, name=entry.ec2.private_dns_name)
        self._machines[entry.instance_id] = self._by_node[machine.name] = machine
        machine.do("boot", self._boot(machine))

    def _power_off(self, machine: Machine) -> None:
        joined = machine.stage == "joined" or "boot" in machine.tasks
        machine.stage = "gone"
        for name in list(machine.tasks):
            machine.cancel(name)
        if joined:
            machine.do("gone", self._leave(machine))

    # -- joining and leaving

    async def _boot(self, machine: Machine) -> None:
        entry = machine.rented
        dials = self._account.dials.machines_for(entry.instance_id, entry.instance_type)
        try:
            boot = userdata.read(entry.ec2.user_data.decode() if entry.ec2.user_data else "")
            machine.resources = capacity.measure(
                description(entry.instance_type) or {},
                boot,
                disk_gib=self._disk_gib(entry),
                memory_missing_fraction=dials.memory_missing_fraction,
            )
        except userdata.BootError as failure:
            machine.stage, machine.problem = "failed", str(failure)
            log.warning("a machine never joins", instance=entry.instance_id, reason=str(failure))
            return
        if dials.register_seconds is None:
            machine.problem = "told never to join"
            return
        since = self._account.clock() - (entry.running_at or entry.launched_at)
        await asyncio.sleep(max(0.0, dials.register_seconds - since))
        dials = self._account.dials.machines_for(entry.instance_id, entry.instance_type)
        await self._register(
            machine, boot, ready=dials.ready_seconds == 0, devices=dials.devices_seconds == 0
        )
        if dials.ready_seconds:
            machine.do("ready", self._become_ready(machine, dials.ready_seconds))
        if dials.devices_seconds and machine.resources.devices:
            machine.do("devices", self._find_devices(machine, dials.devices_seconds))

    async def _register(self, machine: Machine, boot: userdata.Boot, *, ready: bool, devices: bool) -> None:
        entry, resources = machine.rented, machine.resources
        assert resources is not None
        provider = node.provider_id(entry.zone, entry.instance_id)
        body = node.manifest(
            name=machine.name,
            provider=provider,
            its_labels=node.labels(
                machine.name,
                entry.instance_type,
                entry.zone,
                self._zone_id(entry.zone),
                entry.ec2.architecture,
                boot,
            ),
            boot=boot,
            address=machine.address,
            resources=resources,
            devices=devices,
            ready=ready,
            at=self._account.clock(),
        )
        while True:
            status, answer = await self._patient.write("POST", "/api/v1/nodes", body)
            if status == 201:
                break
            if status not in (409, 429) and status < 500:
                machine.stage, machine.problem = (
                    "failed",
                    f"the API server refuses the node: {status} {answer[:300]!r}",
                )
                log.warning("a machine never joins", instance=entry.instance_id, reason=machine.problem)
                return
            found = await self._patient.read(f"/api/v1/nodes/{machine.name}", Node) if status == 409 else None
            if found is not None and found.spec.provider_id == provider:
                break
            machine.problem = f"a node {machine.name} exists already" if found else None
            await asyncio.sleep(_RETRY_SECONDS)
        machine.node = await self._patient.read(f"/api/v1/nodes/{machine.name}", Node)
        machine.stage, machine.problem, machine.with_devices = "joined", None, devices
        if ready:
            machine.ready.set()
        log.info("a machine joined", instance=entry.instance_id, node=machine.name, type=entry.instance_type)
        bound = f"&resourceVersion=0&fieldSelector=spec.nodeName%3D{machine.name}"
        for pod in await self._patient.everything("/api/v1/pods", Pod, bound):
            self._kubelets.see(pod)

    async def _become_ready(self, machine: Machine, seconds: float) -> None:
        await asyncio.sleep(seconds)
        path = f"/api/v1/nodes/{machine.name}"
        await self._patient.write(
            "PATCH", path, {"metadata": {"annotations": {node.READY_ANNOTATION: "true"}}}, MERGE
        )
        condition = node.ready_condition(True, self._account.clock())
        await self._patient.write(
            "PATCH", f"{path}/status", {"status": {"conditions": [condition]}}, STRATEGIC
        )
        machine.ready.set()

    async def _find_devices(self, machine: Machine, seconds: float) -> None:
        await asyncio.sleep(seconds)
        assert machine.resources is not None
        status = node.amounts(machine.resources, devices=True)
        await self._patient.write("PATCH", f"/api/v1/nodes/{machine.name}/status", {"status": status}, MERGE)
        machine.with_devices = True

    async def _leave(self, machine: Machine) -> None:
        """The kubelet is silent from now on: no lease, Ready unknown. The Node object is left for its owner."""
        path = f"/api/v1/nodes/{machine.name}"
        silent = {node.READY_ANNOTATION: "false", node.KWOK_ANNOTATION: None}
        status, _ = await self._patient.write("PATCH", path, {"metadata": {"annotations": silent}}, MERGE)
        if status == 404:
            return
        condition = node.gone_condition(self._account.clock())
        await self._patient.write(
            "PATCH", f"{path}/status", {"status": {"conditions": [condition]}}, STRATEGIC
        )

    # -- nodes as the cluster has them

    def _nodes_listed(self, found: list[Node]) -> None:
        for each in found:
            self._node_event("MODIFIED", each)

    def _node_event(self, kind: str, found: Node) -> None:
        machine = self._by_node.get(found.metadata.name)
        if machine is None or found.spec.provider_id != node.provider_id(
            machine.rented.zone, machine.rented.instance_id
        ):
            return
        machine.node = None if kind == "DELETED" else found
        if (
            machine.stage == "gone"
            and kind != "DELETED"
            and found.ready() == "True"
            and "gone" not in machine.tasks
        ):
            machine.do("gone", self._leave(machine))

    # -- facts from EC2

    def _zone_id(self, zone: str) -> str:
        with self._account.lock:
            for each in self._account.backends.ec2.describe_availability_zones():
                if each.name == zone:
                    return str(each.zone_id)
        return ""

    def _disk_gib(self, entry: Rented) -> int:
        with self._account.lock:
            disks = entry.ec2.get_block_device_mapping
            by_name = {name: self._account.backends.ec2.volumes[disk.volume_id].size for name, disk in disks}
            return int(by_name.get(entry.ec2.root_device_name) or max(by_name.values(), default=20))
