"""Run `submit --check` on every record folder of the challenge, and print a table.

    python bench/records.py FOLDER [--json FILE]     FOLDER: records/ of a checkout

The JSON holds names of folders and of the rules that said "no" or "unknown", nothing else of the
folders' contents. The evidence is printed.
"""

import argparse
import json
import time
from datetime import date
from pathlib import Path

from fairway.challenge.checks import check


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--commit", default="", help="of the checkout")
    parser.add_argument("--fairway", default="", help="commit of Fairway")
    options = parser.parse_args()
    rows, began = [], time.perf_counter()
    for folder in sorted(path for path in options.records.glob("*/*") if path.is_dir()):
        found = check(folder)
        row = {
            "track": folder.parent.name,
            "folder": folder.name,
            "exit": 1 if found.failure else 0,
            "no": [f.rule for f in found.findings if f.verdict == "no"],
            "unknown": [f.rule for f in found.findings if f.verdict == "unknown"],
        }
        rows.append(row)
        print(f"{row['exit']} {folder.name}: {len(row['no'])} no, {len(row['unknown'])} unknown")
        for finding in found.findings:
            if finding.verdict == "no":
                print(f"    no: {finding.rule}: {finding.evidence}")
    seconds = time.perf_counter() - began
    print(f"{len(rows)} folders, {seconds:.1f} s")
    if options.json:
        tree = {
            "what": "submit --check on the record folders of openai/parameter-golf",
            "records_commit": options.commit,
            "fairway_commit": options.fairway,
            "date": date.today().isoformat(),
            "command": "python bench/records.py records --json FILE",
            "folders": len(rows),
            "passed": sum(not row["exit"] for row in rows),
            "rows": rows,
        }
        options.json.write_text(json.dumps(tree, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
