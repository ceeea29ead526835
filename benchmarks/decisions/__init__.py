"""How good decisions are, beside other tools: `make bench-decisions` writes docs/benchmarks-decisions.md."""
