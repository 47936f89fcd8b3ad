"""How a report's page looks: one style sheet, light or dark as the reader's machine is, fit for paper, from no other place."""

STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfc; --ink: #1d2126; --soft: #626a74; --line: #dcdfe3; --card: #f4f5f4;
  --control: #4f97c9; --treatment: #e08a1e; --good: #1f8a65; --bad: #c24a14; --open: #8a6d00; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --ink: #e6e8ea; --soft: #9aa2ab; --line: #31363c;
  --card: #1c2024; --good: #4cc39a; --bad: #f0824f; --open: #d9b84a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .2rem; }
h2 { font-size: 1.12rem; margin: 2.6rem 0 .6rem; padding-top: .7rem; border-top: 1px solid var(--line); }
p, ul { margin: .5rem 0; } ul { padding-left: 1.2rem; }
.soft, figcaption, footer { color: var(--soft); font-size: .9rem; }
.marked { display: inline-block; padding: .05rem .55rem; border: 1px solid var(--open); border-radius: 1rem; color: var(--open);
  font-size: .85rem; }
.verdict { margin: 1.4rem 0; padding: 1.1rem 1.3rem; background: var(--card); border-left: 5px solid var(--soft);
  border-radius: 4px; }
.verdict.good { border-color: var(--good); } .verdict.bad { border-color: var(--bad); }
.verdict .big { font-size: 2.1rem; font-weight: 650; line-height: 1.15; }
.verdict .big small { font-size: 1rem; font-weight: 400; color: var(--soft); }
.arms { display: flex; flex-wrap: wrap; gap: .4rem 1.6rem; margin: .7rem 0; }
.dot { display: inline-block; width: .75em; height: .75em; border-radius: 50%; margin-right: .4em; }
.dot.control { background: var(--control); } .dot.treatment { background: var(--treatment); }
figure { margin: 1rem 0; overflow-x: auto; }
figure svg { width: 100%; min-width: 38rem; height: auto; display: block; color: var(--ink); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th { text-align: right; font-weight: 600; color: var(--soft); border-bottom: 1px solid var(--line); padding: .3rem .7rem; }
td { text-align: right; padding: .28rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td.words, th.words { text-align: left; white-space: normal; min-width: 6rem; }
td.good { color: var(--good); } td.bad { color: var(--bad); font-weight: 600; } td.open { color: var(--open); }
tr.lost td { color: var(--soft); text-decoration: line-through; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; font-size: .92rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
details > summary { cursor: pointer; color: var(--soft); margin: .6rem 0; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } }
@media print { body { max-width: none; padding: 0; } h2 { break-after: avoid; } figure, table { break-inside: avoid; } }
"""
