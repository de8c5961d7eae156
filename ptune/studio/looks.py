"""What the studio's page has beyond the style of the chat page: command lines, tables, charts, states."""

from __future__ import annotations

CSS = """
:root { --good: #15803d; --bad: #b42318; --line-0: #4f46e5; --line-1: #b45309; --line-2: #15803d; --line-3: #be185d;
  --line-4: #0e7490; --line-5: #6d28d9; }
.dark { --good: #5fd38a; --bad: #ff8a7a; --line-0: #9aa5ff; --line-1: #f5b74f; --line-2: #5fd38a; --line-3: #ff8ab8;
  --line-4: #5cd6e6; --line-5: #c4a1ff; }
/* gradio's own grey has 2.6:1 on white, and what waits for an answer is nearly transparent. */
:root:root { --body-text-color-subdued: #475569; } :root .dark.dark { --body-text-color-subdued: #a3b1c6; }
#page .html-container.pending { opacity: 1; }
#heading { padding-bottom: 0.25rem; }
#heading p { overflow-wrap: anywhere; }
#page .tabitem > div { gap: 1rem; }
#page .html-container { padding: 0; }
#page h2 { font-size: 1.05rem; font-weight: 650; margin: 1.5rem 0 0.5rem; }
#page h2:first-child { margin-top: 0; }
#page h3 { font-size: 0.9rem; font-weight: 600; margin: 1rem 0 0.4rem; color: var(--body-text-color-subdued); }
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
.data table, .jobs table { border-collapse: collapse; width: 100%; font-size: 0.88rem; margin: 0.4rem 0 0; display: table; }
.data th, .data td, .jobs th, .jobs td { text-align: left; padding: 0.35rem 0.9rem 0.35rem 0; vertical-align: top;
  border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important; background: transparent !important; }
.data th, .jobs th { font-weight: 600; color: var(--body-text-color-subdued); white-space: nowrap; }
.data table, .data tr, .data tbody, .jobs table, .jobs tr, .jobs tbody { border: 0 !important; background: transparent !important; }
.data td { overflow-wrap: anywhere; min-width: 5rem; }
.data .number, .jobs .number { text-align: right; font-variant-numeric: tabular-nums; min-width: 0; white-space: nowrap; }
.data code, .jobs code { font-family: var(--font-mono); font-size: 0.82rem; background: var(--background-fill-secondary);
  padding: 0.1em 0.35em; border-radius: 0.3em; }
.data .dim { opacity: 0.5; }
.bars { display: flex; flex-direction: column; gap: 0.35rem; }
.bar { display: grid; grid-template-columns: minmax(4.5rem, 26%) 1fr 4rem; align-items: center; gap: 0.6rem; font-size: 0.88rem; }
.bar .label { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
#plan .bar .label { white-space: normal; }
.bar .track { height: 0.6rem; border-radius: 0.3rem; background: var(--background-fill-secondary);
  box-shadow: inset 0 0 0 1px var(--border-color-primary); overflow: hidden; }
.bar .track i { display: block; height: 100%; min-width: 2px; background: var(--primary-500); }
.bar .track i.over { background: var(--bad); }
.bar .share { text-align: right; font-variant-numeric: tabular-nums; }
.findings { list-style: none; margin: 0; padding: 0; display: flex; flex-direction: column; gap: 0.6rem; }
.findings li { border-left: 3px solid var(--border-color-primary); padding-left: 0.75rem; font-size: 0.9rem; overflow-wrap: anywhere; }
.findings li p { margin: 0.15rem 0 0; white-space: pre-wrap; }
.findings .error { border-color: var(--bad); } .findings .error > b { color: var(--bad); }
.findings .warning { border-color: var(--line-1); } .findings .warning > b { color: var(--line-1); }
.good-news { color: var(--good); font-weight: 550; }
.seen { border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg); padding: 0.6rem 0.8rem; margin: 0; }
.seen-rows { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 0.6rem; align-items: start; }
.seen header { font-size: 0.82rem; color: var(--body-text-color-subdued); margin-bottom: 0.35rem; }
.seen p { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font-family: var(--font-mono); font-size: 0.82rem; line-height: 1.9; }
.token { border-radius: 0.25em; box-shadow: inset 0 0 0 1px var(--border-color-primary); padding: 0.12em 0.05em; color: inherit;
  background: transparent; box-decoration-break: clone; }
[data-apart] .token { display: inline-block; line-height: 1.5; margin-right: 0.3em; padding: 0 0.25em; }
mark.learned { background: color-mix(in srgb, var(--good) 22%, transparent); color: inherit; border-radius: 0.25em;
  box-shadow: inset 0 0 0 1px color-mix(in srgb, var(--good) 55%, transparent); padding: 0.12em 0.05em; }
.chip { display: inline-block; padding: 0.05em 0.6em; border-radius: 1em; font-size: 0.8rem; font-weight: 600;
  background: color-mix(in srgb, var(--primary-500) 16%, transparent); color: var(--body-text-color); white-space: nowrap; }
.chip.done, .chip.finished { background: color-mix(in srgb, var(--good) 20%, transparent); }
.chip.failed { background: color-mix(in srgb, var(--bad) 20%, transparent); }
.chip.waiting, .chip.stopped, .chip.interrupted { background: var(--background-fill-secondary); color: var(--body-text-color-subdued); }
.facts { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 0.6rem; margin: 0; }
.facts div { border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg); padding: 0.5rem 0.75rem; }
.facts dt { font-size: 0.78rem; color: var(--body-text-color-subdued); }
.facts dd { margin: 0; font-size: 1.05rem; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.facts dd small { font-weight: 400; font-size: 0.78rem; color: var(--body-text-color-subdued); }
.progress { height: 0.45rem; border-radius: 0.25rem; background: var(--background-fill-secondary); overflow: hidden; margin: 0 0 0.9rem;
  box-shadow: inset 0 0 0 1px var(--border-color-primary); }
.progress i { display: block; height: 100%; background: var(--primary-500); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1.25rem 2rem; }
.charts figure { margin: 0; min-width: 0; }
.charts figcaption { font-size: 0.88rem; font-weight: 600; margin-bottom: 0.2rem; }
.charts svg { width: 100%; height: auto; display: block; overflow: visible; }
.charts svg text { font-size: 13px; fill: var(--body-text-color-subdued); }
.charts .grid { stroke: var(--border-color-primary); }
.charts polyline { fill: none; stroke-width: 2; stroke: currentColor; stroke-linejoin: round; }
.charts circle { fill: currentColor; }
.line-0 { color: var(--line-0); } .line-1 { color: var(--line-1); } .line-2 { color: var(--line-2); }
.line-3 { color: var(--line-3); } .line-4 { color: var(--line-4); } .line-5 { color: var(--line-5); }
.charts .faint { opacity: 0.35; } .charts polyline.faint { stroke-width: 1.2; }
.charts polyline.dashed { stroke-dasharray: 5 4; }
.key { font-size: 0.8rem; font-weight: 450; margin-left: 0.9em; white-space: nowrap; }
.key::before { content: ""; display: inline-block; width: 0.9em; height: 0.2em; margin: 0 0.4em 0.25em 0; background: currentColor; }
.key.dashed::before { background: repeating-linear-gradient(90deg, currentColor 0 0.3em, transparent 0.3em 0.45em); }
.charts figcaption .key:only-child { display: none; }
.keys { margin: 0 0 0.6rem; } .keys .key:first-child { margin-left: 0; }
.sampled { border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg); padding: 0.6rem 0.8rem; }
.sampled + .sampled { margin-top: 0.6rem; }
.sampled > p { font-weight: 600; white-space: pre-wrap; overflow-wrap: anywhere; }
.sampled td { width: 100%; white-space: pre-wrap; } .sampled tr:last-child > * { border-bottom: 0 !important; }
.data .sampled .dim { color: var(--body-text-color-subdued); opacity: 1; }
.charts.searched { display: block; } .parallel .scroll { overflow-x: auto; }
.parallel polyline { color: var(--line-0); } .parallel polyline.kept { color: var(--good); stroke-width: 3.5; }
.parallel polyline.pruned { color: var(--line-1); stroke-dasharray: 4 4; }
.parallel svg text { paint-order: stroke; stroke: var(--background-fill-primary); stroke-width: 3px; } .parallel svg .name { font-weight: 600; }
.log textarea { font-family: var(--font-mono) !important; font-size: 0.78rem !important; line-height: 1.45; }
.diff td:nth-child(2) { text-decoration: line-through; color: var(--body-text-color-subdued); }
@media (max-width: 640px) { .panes { gap: 1rem; } .facts { grid-template-columns: repeat(2, minmax(0, 1fr)); } .charts svg text { font-size: 14px; } }
@media print { .doing, .tab-wrapper, button { display: none !important; } }
"""
