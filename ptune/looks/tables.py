"""CSS of tables: lines below rows, numbers at the right, heads that stand back."""

from __future__ import annotations


def tables(*scopes: str) -> str:
    """The style of the tables within these selectors. Borders are `!important`: gradio's own style of tables has boxes."""

    def all_of(*parts: str) -> str:
        return ", ".join(f"{scope} {part}" for scope in scopes for part in parts)

    return f"""
{all_of("table")} {{ border-collapse: collapse; width: 100%; margin: 0; font-size: 0.9rem; display: table; }}
{all_of("table", "thead", "tbody", "tr")} {{ border: 0 !important; background: transparent !important; }}
{all_of("th", "td")} {{ text-align: left; padding: 0.4rem 0.9rem 0.4rem 0; vertical-align: top; color: var(--ink); background: transparent;
  border: 0 !important; border-bottom: 1px solid var(--line) !important; }}
{all_of("th")} {{ font-weight: 600; color: var(--dim); }}
{all_of(".number", ".figure")} {{ text-align: right; font-variant-numeric: tabular-nums; }}
{all_of("td small", "th small")} {{ display: block; font-size: 0.8rem; font-weight: 400; color: var(--dim); }}
@media print {{ {all_of("tr")} {{ break-inside: avoid; }} {all_of("thead")} {{ display: table-header-group; }} }}
"""
