"""How the pages look: on wide and on narrow screens, in light and in dark."""

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --card: #f5f6f8; --ink: #1d2330;
  --soft: #5d6675; --faint: #d9dde4; --accent: #2f6fc9; --halted: #a35f00; --failed: #b3262e; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171d; --card: #1d222b; --ink: #e6e9ef;
  --soft: #98a2b3; --faint: #343b48; --accent: #6ea3ea; --halted: #e0a458; --failed: #ef7b80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 78rem; background: var(--paper);
  color: var(--ink); font: 15px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { margin: 0; font-size: 1.9rem; letter-spacing: -0.02em; overflow-wrap: anywhere; }
h2 { margin: 2.6rem 0 0.9rem; font-size: 1.15rem; }
p.lead { margin: 0 0 1.4rem; padding: 0.9rem 1.2rem; border-radius: 10px; font-size: 1.15rem;
  background: var(--accent); color: #fff; overflow-wrap: anywhere; }
p.lead.halted { background: var(--halted); } p.lead.failed { background: var(--failed); }
p.sub { margin: 0.3rem 0 0; color: var(--soft); overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: 0.8rem;
  margin-top: 1.6rem; }
.cards:empty { display: none; }
.card { padding: 0.8rem 1rem; border-radius: 10px; background: var(--card); }
.card b { display: block; font-size: 1.25rem; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: 0.86rem; }
.card.main { background: var(--accent); } .card.main b, .card.main span { color: #fff; }
@media (prefers-color-scheme: dark) {
  p.lead, .card.main b, .card.main span { color: #10141b; } }
.plots { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr)); }
figure { margin: 0; padding: 0.7rem; border: 1px solid var(--faint); border-radius: 10px; }
figure svg { display: block; width: 100%; height: auto; }
figure svg text { font-family: inherit !important; }
figure.by { display: none; }
.legend { margin: 0 0 0.8rem; color: var(--soft); font-size: 0.9rem; }
.legend > span { display: inline-block; margin-right: 1.2rem; }
.legend i { display: inline-block; width: 1.5rem; margin-right: 0.4rem; vertical-align: middle;
  border-top: 3px solid; }
.legend i.event { width: 0; height: 1rem; border-top: 0; border-left: 2px dashed; }
.axes { position: absolute; opacity: 0; }
.axes + label { display: inline-block; margin: 0 0.4rem 0.9rem 0; padding: 0.15rem 0.8rem;
  border: 1px solid var(--faint); border-radius: 99px; font-size: 0.9rem; cursor: pointer; }
.axes:checked + label { background: var(--accent); border-color: var(--accent);
  color: var(--paper); }
.axes:focus-visible + label { outline: 2px solid var(--ink); }
pre { padding: 0.9rem 1.1rem; overflow-x: auto; border-radius: 10px; background: var(--card);
  font: 0.9rem/1.5 ui-monospace, Menlo, Consolas, monospace; }
.tables { display: grid; gap: 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
table { width: 100%; border-collapse: collapse; font-size: 0.92rem; align-self: start; }
td, th { padding: 0.3rem 0.9rem 0.3rem 0; border-bottom: 1px solid var(--faint); text-align: left;
  vertical-align: top; overflow-wrap: anywhere; }
th { overflow-wrap: normal; }
td:first-child { color: var(--soft); white-space: nowrap; }
td.short { white-space: nowrap; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
.columns td + td, .columns th + th { min-width: 9rem; }
@media (max-width: 600px) {
  body { padding: 1.2rem 0.9rem 3rem; }
  .rows tr:first-child { display: none; }
  .rows tr { display: block; padding: 0.6rem 0; border-bottom: 1px solid var(--faint); }
  .rows td, .rows td:first-child { display: grid; grid-template-columns: 8rem 1fr; gap: 0.8rem;
    padding: 0.1rem 0; border: 0; white-space: normal; color: var(--ink); }
  .rows td:empty { display: none; }
  .rows td::before { content: attr(data-name); color: var(--soft); }
  .columns td:first-child, .columns th:first-child { white-space: normal; min-width: 7rem; }
}
"""
