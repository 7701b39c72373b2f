"""How a report looks, on screens and in print."""

__all__ = ["STYLE"]

STYLE = """\
:root { --ink: #1a1a1a; --soft: #5b6470; --line: #d9dee4; --good: #1d7a3a; --bad: #b2182b; --paper: #fff; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 1.8rem; margin: 0 0 .2rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; padding-bottom: .2rem; border-bottom: 2px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p.lead, .soft { color: var(--soft); }
nav { margin: 1rem 0 0; columns: 3; font-size: .92em; }
nav a { color: #2166ac; text-decoration: none; display: block; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; font-size: .93em; }
th, td { padding: .22rem .8rem; text-align: right; border-bottom: 1px solid var(--line); }
th { font-weight: 600; border-bottom: 2px solid var(--soft); }
th:first-child, td:first-child, .text { text-align: left; }
.scroll { overflow-x: auto; }
.headline { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.2rem 0; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: .7rem 1.1rem; min-width: 11rem; }
.card b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.good { color: var(--good); } .bad { color: var(--bad); }
.warning { border-left: 4px solid var(--bad); background: #fdf3f3; padding: .4rem .9rem; margin: .5rem 0; }
.blind { border-left: 4px solid #b8860b; background: #fdf8e8; padding: .4rem .9rem; margin: .5rem 0; }
figure { margin: .8rem 0; display: inline-block; vertical-align: top; max-width: 100%; }
figure img { max-width: 100%; height: auto; display: block; }
.pair figure { max-width: 49%; }
figcaption { color: var(--soft); font-size: .9em; }
code, pre { font: .9em ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre { background: #f6f7f9; padding: .7rem 1rem; overflow-x: auto; border-radius: 6px; white-space: pre-wrap; }
@media print {
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  nav { display: none; }
  h2 { break-after: avoid; } figure, table, .card { break-inside: avoid; }
  .scroll { overflow: visible; } a { color: inherit; }
}
"""
