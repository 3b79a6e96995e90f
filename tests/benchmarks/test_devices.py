import json
import re
import statistics
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def test_committed_throughputs_are_those_of_the_report():
    case = json.loads((FOLDER / "baselines" / "devices.json").read_text())["cases"]["devices"]
    throughput = {
        name: f"{case['items'] / statistics.median(seconds):,.0f}"
        for name, seconds in case["seconds"].items()
    }
    text = (FOLDER / "README.md").read_text().split("## Many devices")[1].split("\n## ")[0]
    assert f"Without a mesh: {throughput.pop('no mesh')}." in text
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", text, flags=re.MULTILINE)
    assert [int(devices) for devices, _ in rows] == [1, 2, 4, 8]
    stated = {}
    for devices, cells in rows:
        names = ("shard_map, samples", "shard_map, images", "shard_map, both", "pmap, samples")
        for name, cell in zip(names, cells.split("|"), strict=True):
            if cell.strip():
                stated[f"{name} over {devices}"] = cell.strip()
    assert stated == throughput
