"""ClusterODM's data/nodes.json: [{"hostname", "port", "token", "locked"?, "dockerMachine"?}]."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from passel.errors import UsageError
from passel.gateway.node import Node, node_at


def read_nodes_file(file: Path) -> tuple[Node, ...]:
    """Its nodes. Machines that ClusterODM's autoscaler made are left out: nobody would destroy them. UsageError."""
    return tuple(_node(row) for row in _rows(file) if not row.get("dockerMachine"))


def autoscaled(file: Path) -> int:
    """How many machines of ClusterODM's autoscaler it has. UsageError."""
    return sum(1 for row in _rows(file) if row.get("dockerMachine"))


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UsageError(f"The file of nodes cannot be read: {e}", str(file)) from None
    if not isinstance(said, list):
        raise UsageError("The file of nodes must be a list […]", str(file))
    for i, row in enumerate(said):
        if not isinstance(row, dict) or not isinstance(row.get("hostname"), str):
            raise UsageError(f"Entry {i + 1} has no hostname", str(file), 'each is {"hostname", "port", "token"}')
    return said


def _node(row: dict[str, Any]) -> Node:
    host = f"[{row['hostname']}]" if ":" in row["hostname"] else row["hostname"]
    node = node_at(f"{host}:{row.get('port', 3000)}", str(row.get("token") or ""))
    return replace(node, locked=row.get("locked") is True)
