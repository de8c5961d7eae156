"""How the chat page looks: the system's own fonts, so that nothing is fetched; quiet colours; narrow screens too."""

from __future__ import annotations

FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONOSPACE = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",  # gradio's own page needs both
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",  # an image in an answer would tell another server who reads it
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)

CHAT_HEIGHT = "max(16rem, calc(100vh - 21.75rem))"
"""So that the page just fills a window; in a narrow one, what comes below is scrolled to."""

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
@media (max-width: 640px) {
  .gradio-container > main { padding: 0.75rem !important; }
  .answering + .answering .chatbot, .answering:has(+ .answering) .chatbot { height: 38vh !important; }
}
"""
