"""CSS of a classifier's report, in addition to the style of all pages."""

STYLE = """
.cards { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); }
.cards div { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem; }
.cards h3 { margin: 0; font-size: .85rem; font-weight: 600; color: var(--dim); }
.cards b { font-size: 1.7rem; font-variant-numeric: tabular-nums; } .cards p { margin: 0; font-size: .85rem; color: var(--dim); }
.kept { color: var(--good); font-weight: 600; } .missed { color: var(--bad); font-weight: 600; }
table.fit { width: auto; } table.fit th { padding-right: 3rem; }
.tall { max-height: 34rem; overflow: auto; }
.charts { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
.charts svg { max-width: 26rem; } .charts figure { margin: 0; }
rect.first, rect.second { fill: currentColor; opacity: .8; }
line.even { stroke: var(--dim); stroke-dasharray: 4 4; } line.first { stroke: currentColor; stroke-width: 2; }
.heat { width: auto; border-collapse: separate; border-spacing: 2px; }
/* no lines between the cells of a heat map */
.heat th, .heat td { border: 0 !important; padding: .3rem .5rem; }
.heat thead th { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 9rem; padding: .3rem .1rem; }
.heat th { max-width: 14rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; vertical-align: middle; }
.heat tbody th { text-align: right; } .heat td { text-align: right; min-width: 2.6rem; border-radius: .25rem; font-variant-numeric: tabular-nums; }
.heat td.none { color: var(--dim); }
.bar { display: inline-block; width: 6.5rem; height: .6rem; background: var(--line); border-radius: .3rem; overflow: hidden; margin-right: .5rem; }
.bar i { display: block; height: 100%; background: var(--mark); }
td.bars { white-space: nowrap; font-variant-numeric: tabular-nums; }
td.name { max-width: 18rem; overflow-wrap: anywhere; }
svg.range { width: 9rem; height: .9rem; vertical-align: middle; } svg.range circle { fill: var(--line-0); } svg.range .grid { stroke: var(--line); }
article p.input { font-weight: 400; overflow-wrap: anywhere; white-space: pre-wrap; margin: 0 0 .5rem; }
article p.said { font-weight: 400; margin: 0; font-size: .9rem; overflow-wrap: anywhere; }
.words { line-height: 1.15; margin: 0 0 .5rem; overflow-wrap: anywhere; }
.word { display: inline-block; min-height: 2rem; vertical-align: top; margin: 0 .2rem .5rem 0; }
.word small { display: block; font-size: .7rem; color: var(--dim); } .word.wrong { border-bottom: 2px solid var(--bad); }
.word.wrong small { color: var(--bad); }
.thumbs { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); }
.thumbs article { margin: 0; padding: .6rem; } .thumbs img { width: 100%; image-rendering: auto; border-radius: .25rem; display: block; margin-bottom: .4rem; }
"""
