"""An engine's named policies side by side, for `inspect` and `build`."""

import math

from rich.table import Table

from river_trt.cli.console import format_bytes, format_layers
from river_trt.cli.tables import plain_table
from river_trt.manifest import EXACT, Manifest, PolicyInfo


def policies_table(manifest: Manifest) -> Table:
    """Each policy that `--policy NAME` takes; the default one has a star."""
    total, counts = manifest.model.shape.num_layers, manifest.bytes_per_layer
    full = counts.per_token(total, total)
    table = plain_table()
    table.add_column("policy")
    for name in ("budget", "KL", "top-1", "layers", "bytes a token", "fewer"):
        table.add_column(name, justify="right")
    table.add_column("how")
    table.add_row(EXACT, "0", "0", "100.0%", f"{total:.1f}", format_bytes(full), "1.0x", "")
    for named in manifest.policies:
        read = counts.per_token(named.backbone_layers, total)
        star = " *" if _same(named.policy, manifest.policy) else ""
        table.add_row(
            f"{named.name}{star}",
            f"{named.budget:g}",
            f"{named.kl:.3f}",
            f"{named.agreement:.1%}",
            f"{named.backbone_layers:.1f}",
            format_bytes(read),
            f"{full / read:.1f}x",
            f"{_gate(named.policy)}, pinned {format_layers(named.policy.pinned)}",
        )
    return table


def _gate(policy: PolicyInfo) -> str:
    """Where every token leaves after layer 1, or none at all, no gate has anything to decide."""
    if policy.tau[0] == -math.inf or set(policy.tau) == {math.inf}:
        return "no gate"
    return f"{policy.gate} gate"


def _same(one: PolicyInfo, other: PolicyInfo) -> bool:
    keys = ("gate", "tau", "pinned", "directions_file")
    return all(getattr(one, key) == getattr(other, key) for key in keys)
