"""Options that several commands share: which objects, from which cluster, what is on sale, and what a node is charged."""

from __future__ import annotations

from typing import Annotated

import typer

Files = Annotated[
    list[str] | None,
    typer.Option(
        "--filename",
        "-f",
        help="Objects: a file, a directory, or - for standard input (repeatable). [default: the current cluster]",
    ),
]
Kubeconfig = Annotated[
    str | None,
    typer.Option(help="Cluster to read; files add to it. [default: KUBECONFIG, ~/.kube/config]"),
]
Catalog = Annotated[
    str | None,
    typer.Option(
        help="Catalogue as JSON Lines, one instance type a line. [default: the simulated account's]"
    ),
]
Pricing = Annotated[
    str | None, typer.Option(help="Catalogue of a running pricing service, HOST:PORT of its gRPC port.")
]
Region = Annotated[str, typer.Option(help="Region of the simulated account.")]
NodeCharge = Annotated[
    float, typer.Option(help="USD per node-hour added to the rent in the objective.", min=0)
]
NODE_CHARGE = 0.01
