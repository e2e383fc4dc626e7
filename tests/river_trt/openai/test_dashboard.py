"""docs/grafana.json asks for metrics that the server has."""

import json
import re
from pathlib import Path

import httpx

DASHBOARD = Path(__file__).parents[3] / "docs" / "grafana.json"
NAME = re.compile(r"(?:vllm|river):\w+")


def test_every_metric_of_the_dashboard_is_there(served):
    served.client.completions.create(model="tiny", prompt="hello", max_tokens=3)
    text = httpx.get(f"{served.url}/metrics").text
    known = {line.partition("{")[0] for line in text.splitlines() if line.startswith(("v", "r"))}
    dashboard = json.loads(DASHBOARD.read_text())
    places, asked = set(), set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        places.add((place["x"], place["y"]))
        for target in panel["targets"]:
            found = set(NAME.findall(target["expr"]))
            assert found, target
            asked |= found
    assert asked <= known, sorted(asked - known)
    assert len(places) == len(dashboard["panels"]), "no panel lies on another"
    families = {name.removesuffix("_bucket").removesuffix("_total") for name in asked}
    shown = {
        line.split()[2].removesuffix("_total") for line in text.splitlines() if "# TYPE" in line
    }
    assert {name for name in shown - families if "_created" not in name} == set()
