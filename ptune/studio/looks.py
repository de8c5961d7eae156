"""What the studio's page has beyond the style of the chat page: command lines, what data looks like, states."""

from __future__ import annotations

from ptune.looks.charts import CSS as CHARTS
from ptune.looks.tables import tables

_OWN = """
/* what waits for an answer is nearly transparent in gradio */
#page .html-container.pending { opacity: 1; }
#heading { padding-bottom: 0.25rem; }
#heading p { overflow-wrap: anywhere; }
#page .tabitem > div { gap: 1rem; }
#page .html-container { padding: 0; }
#page h2 { font-size: 1.05rem; font-weight: 650; margin: 1.5rem 0 0.5rem; }
#page h2:first-child { margin-top: 0; }
#page h3 { font-size: 0.9rem; font-weight: 600; margin: 1rem 0 0.4rem; color: var(--dim); }
.command textarea, .command input { font-family: var(--font-mono) !important; font-size: 0.82rem !important; line-height: 1.5;
  field-sizing: content; height: auto !important; max-height: 12rem; }
.command [data-testid="block-info"] { padding-right: 2.5rem; }
.pane { gap: 0.9rem; }
.panes { gap: 2rem; align-items: flex-start; }
#page .file-preview-holder, #page button[aria-dropeffect] { min-height: 0; }
.drop .wrap { padding-top: 1.6rem; }
.doing { gap: 0.5rem; flex-wrap: wrap; align-items: flex-end; }
.doing > button { flex: 0 0 auto; min-width: 0 !important; width: auto; }
.doing > .block { flex: 1 1 12rem; }
.data { display: block; }
.data p { margin: 0 0 0.35rem; }
.data .scroll { overflow-x: auto; }
.data th, .jobs th { white-space: nowrap; }
.data td { overflow-wrap: anywhere; min-width: 5rem; }
.data .number, .jobs .number { min-width: 0; white-space: nowrap; }
.data code, .jobs code { font-family: var(--font-mono); font-size: 0.82rem; background: var(--card);
  padding: 0.1em 0.35em; border-radius: 0.3em; }
.data .dim { opacity: 0.5; }
.bars { display: flex; flex-direction: column; gap: 0.35rem; }
.bar { display: grid; grid-template-columns: minmax(4.5rem, 26%) 1fr 4rem; align-items: center; gap: 0.6rem; font-size: 0.88rem; }
.bar .label { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
#plan .bar .label { white-space: normal; }
.bar .track { height: 0.6rem; border-radius: 0.3rem; background: var(--card);
  box-shadow: inset 0 0 0 1px var(--line); overflow: hidden; }
.bar .track i { display: block; height: 100%; min-width: 2px; background: var(--mark); }
.bar .track i.over { background: var(--bad); }
.bar .share { text-align: right; font-variant-numeric: tabular-nums; }
.findings { list-style: none; margin: 0; padding: 0; display: flex; flex-direction: column; gap: 0.6rem; }
.findings li { border-left: 3px solid var(--line); padding-left: 0.75rem; font-size: 0.9rem; overflow-wrap: anywhere; }
.findings li p { margin: 0.15rem 0 0; white-space: pre-wrap; }
.findings .error { border-color: var(--bad); } .findings .error > b { color: var(--bad); }
.findings .warning { border-color: var(--line-1); } .findings .warning > b { color: var(--line-1); }
.good-news { color: var(--good); font-weight: 550; }
.seen { border: 1px solid var(--line); border-radius: var(--radius-lg); padding: 0.6rem 0.8rem; margin: 0; }
.seen-rows { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 0.6rem; align-items: start; }
.seen header { font-size: 0.82rem; color: var(--dim); margin-bottom: 0.35rem; }
.seen p { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font-family: var(--font-mono); font-size: 0.82rem; line-height: 1.9; }
.token { border-radius: 0.25em; box-shadow: inset 0 0 0 1px var(--line); padding: 0.12em 0.05em; color: inherit;
  background: transparent; box-decoration-break: clone; }
[data-apart] .token { display: inline-block; line-height: 1.5; margin-right: 0.3em; padding: 0 0.25em; }
mark.learned { background: color-mix(in srgb, var(--good) 22%, transparent); color: inherit; border-radius: 0.25em;
  box-shadow: inset 0 0 0 1px color-mix(in srgb, var(--good) 55%, transparent); padding: 0.12em 0.05em; }
.chip { display: inline-block; padding: 0.05em 0.6em; border-radius: 1em; font-size: 0.8rem; font-weight: 600;
  background: color-mix(in srgb, var(--mark) 16%, transparent); color: var(--ink); white-space: nowrap; }
.chip.done, .chip.finished { background: color-mix(in srgb, var(--good) 20%, transparent); }
.chip.failed { background: color-mix(in srgb, var(--bad) 20%, transparent); }
.chip.waiting, .chip.stopped, .chip.interrupted { background: var(--card); color: var(--dim); }
.facts { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 0.6rem; margin: 0; }
.facts div { border: 1px solid var(--line); border-radius: var(--radius-lg); padding: 0.5rem 0.75rem; }
.facts dt { font-size: 0.78rem; color: var(--dim); }
.facts dd { margin: 0; font-size: 1.05rem; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.facts dd small { font-weight: 400; font-size: 0.78rem; color: var(--dim); }
.progress { height: 0.45rem; border-radius: 0.25rem; background: var(--card); overflow: hidden; margin: 0 0 0.9rem;
  box-shadow: inset 0 0 0 1px var(--line); }
.progress i { display: block; height: 100%; background: var(--mark); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1.25rem 2rem; }
#page figure { margin: 0; }
.charts figcaption .key:only-child { display: none; }
.keys { margin: 0 0 0.6rem; } .keys .key:first-child { margin-left: 0; }
.sampled { border: 1px solid var(--line); border-radius: var(--radius-lg); padding: 0.6rem 0.8rem; }
.sampled + .sampled { margin-top: 0.6rem; }
.sampled > p { font-weight: 600; white-space: pre-wrap; overflow-wrap: anywhere; }
.sampled td { width: 100%; white-space: pre-wrap; } .sampled tr:last-child > * { border-bottom: 0 !important; }
.data .sampled .dim { color: var(--dim); opacity: 1; }
.charts.searched { display: block; } .parallel .scroll { overflow-x: auto; }
.parallel polyline { color: var(--line-0); } .parallel polyline.kept { color: var(--good); stroke-width: 3.5; }
.parallel polyline.pruned { color: var(--line-1); stroke-dasharray: 4 4; }
.parallel svg text { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; } .parallel svg .name { font-weight: 600; }
.log textarea { font-family: var(--font-mono) !important; font-size: 0.78rem !important; line-height: 1.45; }
.diff td:nth-child(2) { text-decoration: line-through; color: var(--dim); }
@media (max-width: 640px) { .panes { gap: 1rem; } #page .form > .block { flex: 1 1 100%; } .facts { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@media print {
  .doing, .tab-wrapper, button, .command { display: none !important; }
  .sheet, .data .scroll { overflow: visible; } .gradio-container, body { background: var(--paper) !important; }
}
"""
CSS = f"{CHARTS}{tables('.data', '.jobs', '.sheet')}{_OWN}"
