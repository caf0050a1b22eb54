"""What was measured: rows of a table and of a JSON file."""

import json
import statistics
import sys
import traceback


class Report:
    """Collects rows. Each holds the values of all its runs; the value is their median."""

    def __init__(self, json_path):
        self.rows = []
        self.json_path = json_path

    def progress(self, text):
        """What is going on, over itself on a terminal."""
        if sys.stderr.isatty():
            print(f"\r\033[K{text} ...", end="", file=sys.stderr, flush=True)
        else:
            print(f"{text} ...", file=sys.stderr, flush=True)

    def failure(self, bench, error):
        print(f"\n{bench} FAILED: {error}", file=sys.stderr)
        traceback.print_exception(error, file=sys.stderr)

    def add(self, bench, case, metric, unit, runs, baseline_name=None, baseline=None, aim=None):
        """One row. `runs`: the value of each run; `baseline`: what the value is divided by;
        `aim`: the most (or with a leading '>=' the least) that the ratio should be, for people."""
        value = statistics.median(runs)
        ratio = value / baseline if baseline else None
        self.rows.append(
            {
                "bench": bench,
                "case": case,
                "metric": metric,
                "unit": unit,
                "value": value,
                "baseline_name": baseline_name,
                "baseline": baseline,
                "ratio": ratio,
                "runs": list(runs),
                "_aim": aim,
            }
        )
        if self.json_path:
            self._write_json()
        return value

    def _write_json(self):
        rows = [{k: v for k, v in row.items() if k[0] != "_"} for row in self.rows]
        with open(self.json_path, "w", encoding="utf-8") as out:
            json.dump(rows, out, indent=1)
            out.write("\n")

    def finish(self):
        """Prints the table."""
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)
        header = ["", "case", "metric", "median", "spread", "baseline", "ratio", "aim"]
        lines = [header]
        for row in self.rows:
            lines.append(
                [
                    row["bench"],
                    row["case"],
                    row["metric"],
                    f"{number(row['value'])} {row['unit']}",
                    f"{number(min(row['runs']))} - {number(max(row['runs']))} ({len(row['runs'])})",
                    f"{row['baseline_name']} {number(row['baseline'])}" if row["baseline"] else "",
                    f"{row['ratio']:.2f}" if row["ratio"] is not None else "",
                    aim_text(row),
                ]
            )
        widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
        for line in lines:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def number(value):
    """Three significant digits or whole numbers."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def aim_text(row):
    aim = row["_aim"]
    if aim is None:
        return ""
    measured = row["ratio"] if row["ratio"] is not None else row["value"]
    if isinstance(aim, str) and aim.startswith(">="):
        met, text = measured >= float(aim[2:]), aim
    else:
        met, text = measured <= aim, f"<={aim:g}"
    return f"{text} {'met' if met else 'MISSED'}"
