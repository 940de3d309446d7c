"""The tables of README.md and docs/ are those of the CSVs under results/."""

import benchmark_coupling
import benchmark_departures
import benchmark_descriptions
import benchmark_results
import benchmark_statistics
import benchmark_tuning

import plot

ROOT = benchmark_results.ROOT


def lines(path):
    return (ROOT / path).read_text().split("\n")


def test_tables_of_all_methods(capsys):
    plot.table(ROOT / "results")
    head, _, *rows = capsys.readouterr().out.strip().split("\n")
    for path in "README.md", "docs/results.md":
        text = lines(path)
        assert head in text
        of_table = [line for line in text if "(n = " in line and line[0] == "|"]
        left_out = {*rows} - {*of_table}
        assert {*of_table} <= {*rows} and left_out <= {
            row for row in rows if "bus-show-id" in row and path[0] == "R"
        }


def test_the_table_of_seeds():
    assert {*benchmark_results.table()} <= {*lines("docs/results.md")}


def test_the_table_of_intervals():
    table = benchmark_statistics.table(ROOT / "results")
    assert {*table} <= {*lines("docs/results.md")}


def test_the_table_of_departures(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["benchmark_departures.py"])
    benchmark_departures.main()
    printed = capsys.readouterr().out.strip().split("\n")
    text = lines("docs/departures.md")
    assert {*printed} <= {*text}
    rows = [line for line in printed if line.startswith("| `")]
    assert all(text.count(row) == 1 for row in rows)  # of no older table, too


def test_tables_of_descriptions(capsys, monkeypatch):
    monkeypatch.setattr(plot, "save", lambda *_: None)
    benchmark_descriptions.main()
    printed = capsys.readouterr().out.strip().split("\n")
    assert {*printed} <= {*lines("docs/descriptions.md")}


def test_the_tables_of_coupling(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["benchmark_coupling.py"])
    benchmark_coupling.main()
    printed = capsys.readouterr().out.strip().split("\n")
    assert {*printed} <= {*lines("docs/results.md")}


def test_the_table_of_tuning(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["benchmark_tuning.py"])
    benchmark_tuning.main()
    printed = capsys.readouterr().out.strip().split("\n")
    assert {*printed} <= {*lines("docs/tuning.md")}
