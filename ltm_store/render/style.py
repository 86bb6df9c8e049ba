"""The style sheet of the report."""

from typing import Final

STYLE: Final = """
:root{color-scheme:light dark;--page:#f7f7f5;--card:#fff;--ink:#1f2328;--muted:#5c646d;
--rule:#e2e2dd;--accent:#3a6ea5;--soft:#dbe6f2}
@media(prefers-color-scheme:dark){:root{--page:#101214;--card:#181b1f;--ink:#e4e6e9;
--muted:#9aa2ab;--rule:#2c3137;--accent:#79a9dc;--soft:#243b54}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
main{max-width:1120px;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.6rem;line-height:1.25;margin:0}
h2{font-size:1.05rem;margin:0}
p{margin:.25rem 0 0}
.note,.about{color:var(--muted);font-size:.875rem}
.figures{display:grid;grid-template-columns:repeat(4,1fr);gap:1px;
margin:1.75rem 0;padding:0;background:var(--rule);border:1px solid var(--rule);
border-radius:10px;overflow:hidden}
.figures div{background:var(--card);padding:.9rem 1.1rem;display:flex;flex-direction:column-reverse;
justify-content:flex-end}
dd{margin:0;font-size:1.6rem;line-height:1.2;font-weight:600}
dt{color:var(--muted);font-size:.8125rem}
.grid{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:1.25rem}
section{background:var(--card);border:1px solid var(--rule);border-radius:10px;
padding:1.1rem 1.25rem 1.25rem;min-width:0}
section.wide{grid-column:1/-1}
.chart{display:grid;grid-template-columns:auto minmax(0,1fr);gap:.35rem .6rem;margin-top:1rem}
.plot{position:relative;height:11rem;border-bottom:1px solid var(--muted)}
.plot svg{position:absolute;inset:0;width:100%;height:100%}
.grade{position:absolute;left:0;right:0;border-top:1px solid var(--rule)}
.scale{position:relative;color:var(--muted);font-size:.75rem;text-align:right}
.scale span{display:block}
.scale .mark{position:absolute;right:0;transform:translateY(-50%);white-space:nowrap}
.scale .widest{visibility:hidden;height:0}
.ticks{grid-column:2;display:grid;color:var(--muted);font-size:.75rem;height:1.2rem}
.ticks span{text-align:center;white-space:nowrap;justify-self:center;width:0;display:flex;
justify-content:center}
.column{fill:var(--accent)}
.column:hover,.bar:hover i{opacity:.75}
.band{fill:var(--soft)}
.key{display:inline-block;width:.8rem;height:.8rem;border-radius:3px;margin-right:.4rem;
vertical-align:-1px;background:var(--accent)}
.key.soft{background:var(--soft)}
.bars{list-style:none;margin:1rem 0 0;padding:0;font-size:.9rem}
.two{columns:2;column-gap:2.5rem}
.bar{break-inside:avoid;display:grid;grid-template-columns:minmax(4rem,7.5rem) 1fr 3.2em;
gap:.75rem;align-items:center;padding:.16rem 0}
.bar i{display:block;height:.7rem;border-radius:0 3px 3px 0;background:var(--accent);min-width:2px}
.bar b{font-weight:400;text-align:right}
.memories{list-style:none;margin:.75rem 0 0;padding:0;font-size:.925rem}
.memories li{display:grid;grid-template-columns:minmax(0,1fr) auto;gap:0 1rem;padding:.6rem 0;
border-top:1px solid var(--rule)}
.memories li:first-child{border-top:0}
.memories b{font-weight:600;text-align:right;white-space:nowrap}
.graph{overflow-x:auto;margin-top:1rem}
.graph svg{display:block;margin:0 auto;max-width:100%;height:auto;min-width:44rem}
.graph .ltm-graph .ltm-type{stroke:var(--card)}
.empty{margin-top:1.75rem}
footer{margin-top:1.5rem;color:var(--muted);font-size:.8125rem}
@media(max-width:760px){.two{columns:1}.grid{grid-template-columns:minmax(0,1fr)}
.tick1{visibility:hidden}main{padding-top:1.5rem}.figures{
grid-template-columns:repeat(2,1fr)}}
@media print{section{break-inside:avoid}}
"""
