"""How the report looks: by day and by night, on a desk, on a phone and on paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fff; --text: #1c2530; --quiet: #5b6775; --card: #f3f6f9; --line: #dde3ea;
  --good: #1b7a3d; --bad: #b3261e; --warning: #d98e04; --note: #9aa7b4;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14191f; --text: #e4e9ef; --quiet: #9fabb8; --card: #1f262e; --line: #35404b;
    --good: #6fcf8f; --bad: #ff8a80; --warning: #f0b13c; --note: #748292;
  }
}
body {
  font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  margin: 0 auto; max-width: 1080px; padding: 24px;
}
h1 { font-size: 28px; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 36px 0 12px; border-bottom: 2px solid var(--line); padding-bottom: 4px; }
.sub { color: var(--quiet); margin: 2px 0 18px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: 10px; }
.card { background: var(--card); border-radius: 8px; padding: 10px 14px; }
.card b { display: block; font-size: 20px; white-space: nowrap; }
.card span { color: var(--quiet); font-size: 13px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 600; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 0 0 22px; }
figure img { display: block; max-width: 100%; margin: auto; background: #fff; border: 1px solid var(--line); border-radius: 4px; }
figcaption { color: var(--quiet); font-size: 13px; margin-top: 4px; }
.good { color: var(--good); }
.bad { color: var(--bad); font-weight: 600; }
.finding { border-left: 4px solid var(--note); background: var(--card); padding: 6px 12px; margin: 6px 0; overflow-wrap: anywhere; }
.finding.warning { border-color: var(--warning); }
.finding.error { border-color: var(--bad); }
details { color: var(--quiet); font-size: 13px; }
.plots { display: flex; flex-wrap: wrap; gap: 14px 60px; margin-top: 14px; }
svg { width: 360px; max-width: 100%; }
svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
@media (max-width: 600px) {
  body { padding: 14px; }
  h1 { font-size: 22px; }
  .cards { grid-template-columns: 1fr 1fr; }
  .card b { font-size: 16px; }
}
@media print {
  body { padding: 0; }
  h2 { break-after: avoid; }
  figure, tr { break-inside: avoid; }
}
"""
