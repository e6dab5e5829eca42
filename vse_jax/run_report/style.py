"""The style sheet of the page, for light and dark, narrow and wide screens."""

STYLE = """
:root {
  --page: #f6f7f9; --card: #fff; --ink: #1a1f27; --soft: #5a6472; --rule: #e1e5ea;
  --accent: #0b61b8; --right: #1a7f46; --wrong: #b3332b;
  --s0: #1f6fc4; --s1: #d9661f; --s2: #1b8a5a; --s3: #b8468f;
  --s4: #7a5cc8; --s5: #a67c00; --s6: #0d8a9c; --s7: #6b7280;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12161c; --card: #1a2028; --ink: #e8ecf1; --soft: #9aa6b5;
    --rule: #2c3541; --accent: #7ab8ff; --right: #5fcf92; --wrong: #ff8f85;
    --s0: #62a8f5; --s1: #ff9a57; --s2: #52c492; --s3: #e68ac4;
    --s4: #ab93f0; --s5: #dfb640; --s6: #4fc4d6; --s7: #a3acb8;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
    "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 1240px; margin: 0 auto; padding: 28px 20px 60px; }
h1, h2, h3, h4, h5 { line-height: 1.25; margin: 0; }
h1 { font-size: 2.1rem; letter-spacing: -0.02em; overflow-wrap: anywhere; }
h2 { font-size: 1.35rem; letter-spacing: -0.01em; margin: 40px 0 14px; }
h3, .run h4 { font-size: 1rem; }
.run h3 { font-size: 1.2rem; margin: 32px 0 12px; }
.run .card h4, h4 { font-size: .95rem; }
p { margin: 0; }
a { color: var(--accent); }
code { font: .88em ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
code, bdi { overflow-wrap: anywhere; }
tbody th { white-space: nowrap; }
.options th { white-space: normal; }
small { color: var(--soft); font-size: .8em; font-weight: 400; }
.overline {
  color: var(--accent); font-size: .8rem; font-weight: 600; letter-spacing: .06em;
  text-transform: uppercase;
}
.subtitle, .note { color: var(--soft); }
.note { font-size: .85rem; margin-top: 12px; max-width: 68ch; }
.tiles {
  display: grid; gap: 12px; margin: 22px 0 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 136px), 1fr));
}
.tiles > div, .card {
  background: var(--card); border: 1px solid var(--rule); border-radius: 12px;
}
.tiles > div { padding: 14px 16px; }
.tiles dt { color: var(--soft); font-size: .85rem; }
.tiles dd { margin: 0; font-size: 1.9rem; font-weight: 650; line-height: 1.25; }
.tiles dd.interval { color: var(--soft); font-size: .8rem; font-weight: 400; }
nav { position: sticky; top: 0; z-index: 1; margin: 22px -20px 0; padding: 0 20px;
  background: var(--page); border-bottom: 1px solid var(--rule); }
nav ul { display: flex; gap: 4px 20px; list-style: none; margin: 0; padding: 10px 0;
  overflow-x: auto; }
nav a { text-decoration: none; white-space: nowrap; font-weight: 500; }
nav a:hover { text-decoration: underline; }
:is(section, div)[id] { scroll-margin-top: 36px; }
.cards {
  display: grid; gap: 14px; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr));
}
.card { padding: 16px 18px; min-width: 0; }
.card > :is(h3, h4, h5) { margin-bottom: 10px; }
.wide { grid-column: 1 / -1; }
svg { display: block; width: 100%; height: auto; max-width: 620px; }
svg text { fill: var(--soft); font-size: 11.5px; }
.grid { stroke: var(--rule); }
.axis { stroke: var(--soft); }
.c0 { --c: var(--s0); } .c1 { --c: var(--s1); } .c2 { --c: var(--s2); }
.c3 { --c: var(--s3); } .c4 { --c: var(--s4); } .c5 { --c: var(--s5); }
.c6 { --c: var(--s6); } .c7 { --c: var(--s7); }
.line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; }
.line.d1 { stroke-dasharray: 7 4; } .line.d2 { stroke-dasharray: 2 4; }
.marker { fill: var(--c); }
.area { fill: var(--c); fill-opacity: .22; stroke: var(--c); stroke-width: 1.5; }
.whisker line { stroke: var(--c); stroke-width: 2.5; stroke-linecap: round; }
.whisker circle { fill: var(--c); stroke: var(--card); stroke-width: 1.5; }
.legend {
  display: flex; flex-wrap: wrap; gap: 2px 18px; list-style: none; padding: 0;
  margin: 0 0 8px; font-size: .85rem;
}
.key { display: inline-block; width: 18px; border-top: 3px solid var(--c);
  margin-right: 7px; vertical-align: middle; }
.key.d1 { border-top-style: dashed; } .key.d2 { border-top-style: dotted; }
.scroll { overflow-x: auto; }
.scroll:focus-visible, summary:focus-visible, a:focus-visible {
  outline: 2px solid var(--accent); outline-offset: 3px;
}
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
caption { text-align: left; color: var(--soft); font-size: .8rem; padding-bottom: 4px; }
th, td { padding: 6px 10px; border-bottom: 1px solid var(--rule); text-align: left;
  vertical-align: top; }
th { font-weight: 500; }
thead th { color: var(--soft); font-size: .82rem; vertical-align: bottom; }
tbody tr:last-child > * { border-bottom: 0; }
td small { display: block; white-space: nowrap; }
th small { display: block; }
td.clear { font-weight: 650; }
td.bars { position: relative; min-width: 62px; vertical-align: middle; }
.bar { position: absolute; inset: 4px auto 4px 4px; max-width: calc(100% - 8px);
  background: var(--c); opacity: .28; border-radius: 4px; }
.number { position: relative; padding-left: 4px; }
table:has(.bars) { table-layout: auto; }
table:has(.bars) tbody th { width: 1%; }
.options td, .options th { padding: 3px 10px; }
details summary { cursor: pointer; padding: 10px 0; color: var(--accent); }
.run { border-top: 1px solid var(--rule); margin-top: 18px; }
.run > summary h2 { display: inline; }
.queries { grid-column: 1 / -1; }
.queries > div { display: grid; gap: 12px; margin-top: 14px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); }
.queries > div > :is(h4, h5) { grid-column: 1 / -1; color: var(--soft); }
.query { background: var(--card); border: 1px solid var(--rule); border-radius: 12px;
  padding: 14px 16px; min-width: 0; }
.ask { display: flex; gap: 12px; justify-content: space-between;
  align-items: flex-start; font-weight: 500; }
.ask q { quotes: none; }
.rank { flex: none; font-size: .8rem; font-weight: 500; color: var(--soft);
  border: 1px solid var(--rule); border-radius: 99px; padding: 1px 9px; }
.photos { display: grid; gap: 10px; list-style: none; padding: 0; margin: 12px 0 0;
  grid-template-columns: repeat(auto-fill, minmax(76px, 1fr)); font-size: .85rem; }
.photos li { min-width: 0; }
.photos img { width: 100%; aspect-ratio: 1; object-fit: contain;
  background: var(--page); border-radius: 8px; border: 3px solid var(--rule);
  display: block; }
.right img { border-color: var(--right); }
.wrong img { border-color: var(--wrong); }
.right .verdict b { color: var(--right); } .wrong .verdict b { color: var(--wrong); }
.ask img { width: 104px; height: 104px; object-fit: contain; border-radius: 8px;
  background: var(--page); border: 1px solid var(--rule); }
.i2t .query:has(img) { display: grid; grid-template-columns: 104px 1fr; gap: 16px; }
.i2t .query:has(img) .ask { flex-direction: column; gap: 8px;
  justify-content: flex-start; }
.captions { list-style: none; padding: 0; margin: 10px 0 0; }
.i2t .query:has(img) .captions { margin: 0; }
.captions li { display: grid; grid-template-columns: auto 1fr; gap: 10px;
  padding: 3px 0; }
.captions .verdict { white-space: nowrap; min-width: 3.4em; }
@media (max-width: 520px) {
  main { padding: 18px 14px 40px; } h1 { font-size: 1.6rem; }
  nav { margin-inline: -14px; padding-inline: 14px; }
  .card, .query { padding: 12px; }
  th, td { padding: 5px 7px; }
  .i2t .query:has(img) { grid-template-columns: 1fr; }
  .i2t .query:has(img) .ask { flex-direction: row; }
  svg text { font-size: 14px; }
}
@media print { nav { position: static; } .card, .query { break-inside: avoid; } }
"""
