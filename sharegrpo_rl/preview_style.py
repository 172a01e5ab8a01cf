"""The style sheet of the preview page: one column on a phone, light or dark as the reader's system is."""

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b2330; --soft: #5d6878; --line: #dfe3e9;
  --tag: #eef1f5; --strong: #fde9c8; --strong-ink: #7a4a00; --warn: #b3261e; --right: #14713d; }
@media (prefers-color-scheme: dark) { :root { --page: #12161c; --card: #1b212a; --ink: #e6eaf0; --soft: #9aa5b4;
  --line: #313a46; --tag: #28303b; --strong: #4a3717; --strong-ink: #ffd591; --warn: #ff8a80; --right: #6fd69b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 24px 20px 64px; }
header { margin-bottom: 28px; }
h1 { font-size: 1.7rem; margin: 0 0 12px; overflow-wrap: anywhere; }
dl { display: flex; flex-wrap: wrap; gap: 8px 28px; margin: 0; }
dt, h3 { color: var(--soft); font-size: .75rem; font-weight: 600; letter-spacing: .04em; text-transform: uppercase; }
dd { margin: 0; overflow-wrap: anywhere; }
h3 { margin: 18px 0 6px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 20px;
  margin-bottom: 20px; }
h2 { font-size: 1.15rem; margin: 0 0 4px; overflow-wrap: anywhere; white-space: pre-line; }
.id { margin: 0; color: var(--soft); }
.question { display: grid; grid-template-columns: 260px minmax(0, 1fr); gap: 28px; margin-top: 14px; }
.groups > h3:first-child { margin-top: 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(205px, 1fr)); gap: 14px; }
article { border: 1px solid var(--line); border-radius: 10px; padding: 12px; min-width: 0; }
article p { margin: 8px 0 0; }
.pictures { display: flex; flex-wrap: wrap; gap: 6px; }
img { max-width: 100%; max-height: 240px; background: #fff; border: 1px solid var(--line); border-radius: 6px; }
img.small { height: 126px; image-rendering: pixelated; }
ol, ul { margin: 0; padding-left: 1.4em; }
li { overflow-wrap: anywhere; }
.answer { margin: 0; font-weight: 650; color: var(--right); overflow-wrap: anywhere; }
.text { overflow-wrap: anywhere; white-space: pre-line; }
.tag { display: inline-block; background: var(--tag); border-radius: 99px;
  padding: 1px 9px; margin: 0 2px 3px 0; font-size: .8rem; }
.strong { background: var(--strong); color: var(--strong-ink); }
.dropped { list-style: none; padding: 0; margin-top: 6px; font-size: .85rem; color: var(--soft); }
.dropped li { margin-top: 4px; }
.dropped s { border: 1px solid var(--line); border-radius: 99px; padding: 0 7px; white-space: nowrap; }
.id .tag { margin-right: 8px; }
aside p { margin: 0; }
.tokens, summary { color: var(--soft); font-size: .85rem; }
.warn { color: var(--warn); text-transform: none; letter-spacing: 0; font-weight: 500; }
details { margin-top: 4px; }
summary { cursor: pointer; }
pre, code { font: 12px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--page);
  border-radius: 6px; padding: 10px; margin: 6px 0 0; }
@media (max-width: 760px) { main { padding: 16px 12px 40px; } section { padding: 14px; }
  .question { grid-template-columns: minmax(0, 1fr); gap: 20px; } }
"""
