"""The style of the chat page: system fonts, so that nothing is fetched; quiet colours; narrow screens."""

from __future__ import annotations

FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONOSPACE = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")

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

CHAT_HEIGHT = "max(16rem, calc(100vh - 21.75rem))"
"""Makes the page fill the window; in a narrow window, the settings below are reached by scrolling."""

CSS = """
.gradio-container > main { padding: 1rem 1.5rem !important; max-width: 86rem; }
#heading .html-container, #page .html-container { padding: 0; }
#heading h1 { font-size: 1.3rem; font-weight: 650; letter-spacing: -0.01em; line-height: 1.3; margin: 0; }
#heading p { margin: 0.1rem 0 0; font-size: 0.9rem; color: var(--body-text-color-subdued); }
#heading b { font-weight: 600; color: var(--body-text-color); }
#page { gap: 2rem; }
#page .tabs, #page .tabitem > div { gap: 0.75rem; }
#page .tabitem { padding: 0.75rem 0 0; }
.quiet { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.problem, #heading p.problem { color: var(--error-text-color); }
.answering { gap: 0.5rem; }
.measure { min-height: 1.4rem; font-size: 0.85rem; }
.picker { width: 16rem !important; max-width: 100%; align-self: flex-start; margin: 0; }
.chatbot .placeholder * { color: var(--body-text-color-subdued); }
.box textarea { background: transparent !important; }
.chatbot button[aria-label="Clear"] { display: none; }
.under { justify-content: space-between; gap: 0.5rem; }
.under > .row { flex: 0 1 auto; width: auto; min-width: 0; gap: 0.4rem; }
.under > .actions { margin-left: auto; }
.under button { flex: 0 0 auto; min-width: 0 !important; width: auto; padding: 0.3rem 0.75rem; font-weight: 450; }
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
  color: var(--body-text-color-subdued); font-size: 0.92rem; }
.labels .label { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.labels .track { height: 0.7rem; border-radius: 0.35rem; background: var(--background-fill-secondary);
  box-shadow: inset 0 0 0 1px var(--border-color-primary); overflow: hidden; }
.labels .track i { display: block; height: 100%; min-width: 2px; background: var(--neutral-400); }
.labels .share { text-align: right; font-variant-numeric: tabular-nums; }
.labels .bar.chosen { color: var(--body-text-color); font-weight: 600; }
.labels .bar.chosen i { background: var(--primary-500); }
.labels .number-row { display: flex; gap: 1rem; align-items: baseline; font-size: 1rem; }
.labels .number-row strong { font-size: 1.6rem; font-variant-numeric: tabular-nums; }
.labels .marked { font-size: 1.05rem; line-height: 2.1; white-space: pre-wrap; overflow-wrap: anywhere; }
.labels mark { color: inherit; padding: 0.15em 0.3em; border-radius: 0.35em; box-decoration-break: clone;
  background: hsl(var(--hue) 75% 50% / 0.18); box-shadow: inset 0 0 0 1px hsl(var(--hue) 60% 50% / 0.45); }
.labels mark b { margin-left: 0.4em; font-size: 0.68em; font-weight: 650; letter-spacing: 0.03em; color: var(--body-text-color-subdued); }
.hue-0 { --hue: 220; } .hue-1 { --hue: 150; } .hue-2 { --hue: 30; } .hue-3 { --hue: 280; } .hue-4 { --hue: 345; }
.hue-5 { --hue: 185; } .hue-6 { --hue: 60; } .hue-7 { --hue: 250; } .hue-8 { --hue: 100; } .hue-9 { --hue: 320; }
.labels .places { display: flex; flex-direction: column; gap: 0.7rem; margin: 0; padding: 0; list-style: none; }
.labels .place { display: grid; grid-template-columns: 1fr minmax(3rem, 30%) 3rem; align-items: center; gap: 0.6rem; }
.labels .place .said { overflow-wrap: anywhere; }
.labels .place .track i { background: var(--primary-500); }
.labels .why { font-size: 0.82rem; color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.labels .why b { font-weight: 600; }
@media (max-width: 640px) {
  .gradio-container > main { padding: 0.75rem !important; }
  .answering + .answering .chatbot, .answering:has(+ .answering) .chatbot { height: 38vh !important; }
}
"""
