"""The style sheet of the comparison page: light, one column of text, tables that scroll sideways on a phone."""

STYLE = """
:root { color-scheme: light; --page: #f6f7f9; --card: #fff; --ink: #1b2330; --soft: #5d6878; --line: #dfe3e9;
  --tag: #eef1f5; --warn: #7a4a00; --warn-page: #fdf3e0; --right: #14713d; --wrong: #a8323e; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 32px 20px 72px; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 16px; overflow-wrap: anywhere; text-wrap: balance; }
h2 { font-size: 1.2rem; margin: 0 0 6px; }
h3 { font-size: 1rem; margin: 24px 0 8px; overflow-wrap: anywhere; }
p, ul { margin: 0 0 12px; max-width: 46rem; }
ul { padding-left: 1.2em; }
li { margin-bottom: 4px; overflow-wrap: anywhere; }
.facts { display: flex; flex-wrap: wrap; gap: 8px 32px; margin: 20px 0 0; padding-top: 16px;
  border-top: 1px solid var(--line); }
dt { color: var(--soft); font-size: .8rem; }
dd { margin: 0; overflow-wrap: anywhere; }
header, section { margin-bottom: 20px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 22px 24px; }
.findings { font-size: 1.08rem; list-style: none; padding: 0; }
.partial { background: var(--warn-page); color: var(--warn); border-radius: 10px; padding: 12px 16px; max-width: none; }
.note { color: var(--soft); font-size: .92rem; }
.scroll { overflow-x: auto; margin: 0 -24px; padding: 0 24px; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; min-width: min(100%, 30rem); }
th { color: var(--soft); font-weight: 500; font-size: .82rem; vertical-align: bottom; line-height: 1.3; }
th, td { text-align: right; padding: 7px 0 7px 15px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { white-space: normal; min-width: 5.2em; }
th:first-child, td:first-child, .words td, .words th { text-align: left; }
th:first-child, td:first-child { padding-left: 0; }
td:first-child { font-weight: 550; }
.words td { white-space: normal; overflow-wrap: anywhere; min-width: 8em; font-weight: 400; }
tr:last-child td { border-bottom: 0; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 24px 28px;
  margin-top: 16px; }
figure { margin: 0; min-width: 0; max-width: 640px; }
figure img { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .85rem; margin-top: 4px; }
.example { display: grid; grid-template-columns: 160px minmax(0, 1fr); gap: 6px 24px; padding: 18px 0;
  border-top: 1px solid var(--line); }
.example > div:first-child img { width: 100%; image-rendering: pixelated; border: 1px solid var(--line);
  border-radius: 6px; display: block; margin-bottom: 6px; }
.ask { font-weight: 600; margin: 0 0 2px; white-space: pre-line; overflow-wrap: anywhere; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 230px), 1fr)); gap: 14px; margin-top: 10px; }
.answers h4 { margin: 0 0 4px; font-size: .86rem; font-weight: 550; }
.right { color: var(--right); }
.wrong { color: var(--wrong); }
pre { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; background: var(--page); border-radius: 6px; padding: 10px; margin: 0;
  max-height: 22em; overflow-y: auto; }
code { font: .85em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; color: var(--soft); overflow-wrap: anywhere; }
summary { cursor: pointer; font-size: 1.2rem; font-weight: 700; }
details > :nth-child(2) { margin-top: 10px; }
@media (max-width: 640px) { main { padding: 20px 12px 48px; } section { padding: 16px; }
  .scroll { margin: 0 -16px; padding: 0 16px; } .example { grid-template-columns: minmax(0, 1fr); }
  .example > div:first-child img { width: 140px; } }
"""
