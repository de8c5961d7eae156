"""The style of the chat page, over the look of all pages: what it lays out, and narrow screens."""

from __future__ import annotations

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",  # gradio's own page needs both
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",  # an image in an answer would reveal the reader to another server
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)

CHAT_HEIGHT = "max(16rem, calc(100vh - 22.5rem))"
"""Makes the page fill the window; in a narrow window, the settings below are reached by scrolling."""

CSS = """
.gradio-container > main { padding: 1rem 1.5rem !important; max-width: 86rem; }
#heading .html-container, #page .html-container { padding: 0; }
#heading h1 { font-size: 1.3rem; font-weight: 650; letter-spacing: -0.01em; line-height: 1.3; margin: 0; }
#heading p { margin: 0.1rem 0 0; font-size: 0.9rem; color: var(--dim); }
#heading b { font-weight: 600; color: var(--ink); }
#page { gap: 2rem; }
#page .tabs, #page .tabitem > div { gap: 0.75rem; }
#page .tabitem { padding: 0.75rem 0 0; }
.quiet { color: var(--dim); font-variant-numeric: tabular-nums; }
.problem, #heading p.problem { color: var(--bad); }
.answering { gap: 0.5rem; }
.measure { min-height: 1.4rem; font-size: 0.85rem; }
.measure .quiet { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.unseen, .form:not(:has(> :not(.unseen))) { display: none !important; }
.chances-of:not(:has(.chances)) { display: none; }
.chances-of .quiet { margin: 0 0 0.3rem; font-size: 0.85rem; }
.chances { max-height: 7rem; overflow-y: auto; line-height: 1.9; white-space: pre-wrap; overflow-wrap: anywhere; }
.token { padding: 0.1em 0; border-bottom: 2px solid transparent; cursor: default; }
.likely-1 { border-color: hsl(150 60% 45% / 0.6); } .likely-2 { border-color: hsl(45 90% 50%); }
.likely-3 { border-color: hsl(25 90% 50%); } .likely-4 { border-color: hsl(0 80% 55%); }
.token:hover, .token:focus { background: var(--card); outline: 1px solid var(--mark); }
.token:hover::after, .token:focus::after { content: attr(data-told); position: fixed; z-index: 50; right: 1rem; bottom: 1rem;
  max-width: 24rem; padding: 0.6rem 0.8rem; white-space: pre; font-family: var(--font-mono); font-size: 0.8rem; line-height: 1.5;
  color: var(--ink); background: var(--paper); border: 1px solid var(--line);
  border-radius: var(--radius-lg); box-shadow: var(--shadow-drop-lg); }
#library .sidebar-content { gap: 0.75rem; }
#library h2 { font-size: 1rem; font-weight: 650; margin: 0; }
#chats .wrap { display: flex; flex-direction: column; flex-wrap: nowrap; gap: 0.15rem; max-height: 45vh; overflow-y: auto; }
#chats label { border: 0; box-shadow: none; background: transparent; padding: 0.35rem 0.5rem; border-radius: var(--radius-md); }
#chats label > span { margin: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; font-weight: 400; }
#chats label:hover { background: var(--paper); }
#chats label.selected { background: var(--paper); box-shadow: inset 2px 0 0 var(--mark); }
#chats label.selected > span { font-weight: 600; color: var(--ink); }
#chats input { position: absolute; opacity: 0; }
#chats label:has(input:focus-visible) { outline: 2px solid var(--mark); }
#library .note:has(> .html-container > :empty) { display: none; }
#library .note { font-size: 0.85rem; color: var(--dim); }
#chosen { gap: 0.4rem; } #chosen > .form { flex-basis: 100%; } #chosen button, #rows button { flex: 1 1 0; min-width: 0 !important; }
#rows { gap: 0.5rem; padding-top: 0.75rem; border-top: 1px solid var(--line); }
.chatbot .katex-display, .chatbot .katex { max-width: 100%; overflow: auto hidden; }
.chatbot .katex { display: inline-block; max-height: 60vh; contain: paint; vertical-align: middle; }
.chatbot .katex-display > .katex { display: block; }
.chatbot .edit-textarea { width: min(34rem, 60vw) !important; height: auto !important; min-height: 5rem; max-height: 22rem; field-sizing: content; }
.chatbot img.asked { max-width: min(100%, 20rem); max-height: 16rem; border-radius: var(--radius-md); }
.branches { align-items: center; }
.picker { width: 16rem !important; max-width: 100%; align-self: flex-start; margin: 0; }
.chatbot .placeholder * { color: var(--dim); }
.box textarea { background: transparent !important; }
.chatbot button[aria-label="Clear"] { display: none; }
.under { justify-content: space-between; gap: 0.5rem; }
.under > .row { flex: 0 1 auto; width: auto; min-width: 0; gap: 0.4rem; }
@media (min-width: 641px) {
  .under { flex-wrap: nowrap; } .under > .actions { flex: none; flex-wrap: nowrap; }
  .under > .examples { flex-wrap: nowrap; overflow-x: auto; scrollbar-width: none; }
}
.under > .actions { margin-left: auto; }
.under button { flex: 0 0 auto; min-width: 0 !important; width: auto; padding: 0.3rem 0.75rem; font-weight: 450; }
/* Other tabs than chats have no settings. The browser knows which tab is open; a busy server would say so late. */
body:has(button[data-tab-id][aria-selected="true"]:not([data-tab-id="Chat"], [data-tab-id="Side by side"])) :is(#settings, #library),
body:not(:has(button[data-tab-id="Chat"][aria-selected="true"])) #systems-1,
body:not(:has(button[data-tab-id="Side by side"][aria-selected="true"])) #systems-2 { display: none; }
#settings h2 { font-size: 1rem; font-weight: 650; margin: 0; }
.asking { gap: 1.5rem; align-items: flex-start; }
.form:has(> .words), .block.words, .block.words > label, .block.words .input-container { border: 0 !important; padding: 0 !important; background: transparent !important; }
.words textarea { font-size: 1rem; line-height: 1.5; padding: 0.75rem !important; border-radius: var(--radius-lg); }
.labels .html-container { padding: 0; }
.labels { min-height: 6rem; }
.result { display: flex; flex-direction: column; gap: 0.6rem; }
.result p { margin: 0; } .labels .quiet { font-size: 0.85rem; }
.labels .bars { display: flex; flex-direction: column; gap: 0.45rem; }
.labels .bar { display: grid; grid-template-columns: minmax(3.5rem, 35%) 1fr 3.9rem; align-items: center; gap: 0.6rem;
  color: var(--dim); font-size: 0.92rem; }
.labels .label { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.labels .track { height: 0.7rem; border-radius: 0.35rem; background: var(--card);
  box-shadow: inset 0 0 0 1px var(--line); overflow: hidden; }
.labels .track i { display: block; height: 100%; min-width: 2px; background: var(--neutral-400); }
:focus-visible { outline: 2px solid var(--mark); outline-offset: 2px; }
.labels .share { text-align: right; font-variant-numeric: tabular-nums; }
.labels .bar.chosen { color: var(--ink); font-weight: 600; }
.labels .bar.chosen i { background: var(--mark); }
.labels .number-row { display: flex; gap: 1rem; align-items: baseline; font-size: 1rem; }
.labels .number-row strong { font-size: 1.6rem; font-variant-numeric: tabular-nums; }
.labels .marked { font-size: 1.05rem; line-height: 2.1; white-space: pre-wrap; overflow-wrap: anywhere; }
.labels mark { color: inherit; padding: 0.15em 0.3em; border-radius: 0.35em; box-decoration-break: clone;
  background: hsl(var(--hue) 75% 50% / 0.18); box-shadow: inset 0 0 0 1px hsl(var(--hue) 60% 50% / 0.45); }
.labels mark b { margin-left: 0.4em; font-size: 0.68em; font-weight: 650; letter-spacing: 0.03em; color: var(--dim); }
.hue-0 { --hue: 220; } .hue-1 { --hue: 150; } .hue-2 { --hue: 30; } .hue-3 { --hue: 280; } .hue-4 { --hue: 345; }
.hue-5 { --hue: 185; } .hue-6 { --hue: 60; } .hue-7 { --hue: 250; } .hue-8 { --hue: 100; } .hue-9 { --hue: 320; }
.labels .places { display: flex; flex-direction: column; gap: 0.7rem; margin: 0; padding: 0; list-style: none; }
.labels .place { display: grid; grid-template-columns: 1fr minmax(3rem, 30%) 3rem; align-items: center; gap: 0.6rem; }
.labels .place .said { overflow-wrap: anywhere; }
.labels .place .track i { background: var(--mark); }
.labels .why { font-size: 0.82rem; color: var(--dim); font-variant-numeric: tabular-nums; }
.labels .why b { font-weight: 600; }
@media (max-width: 640px) {
  .gradio-container > main { padding: 0.75rem !important; }
  .answering + .answering .chatbot, .answering:has(+ .answering) .chatbot { height: 38vh !important; }
}
"""
