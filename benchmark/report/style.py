"""How a page looks: on a desk, on a phone and on paper."""

from html import escape

STYLE = """
:root { color-scheme: light; --ink: #1a1a1a; --soft: #4a4a4a; --line: #d4d4d4; --link: #00558c; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 76rem; padding: 1.2rem; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .2rem 0 .6rem; }
h2 { font-size: 1.25rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; margin: 2.4rem 0 .8rem; }
h3 { font-size: 1.05rem; margin: 1.2rem 0 .3rem; }
p, li, dd { max-width: 50rem; } ul { padding-left: 1.3rem; } dd { margin: 0 0 .6rem; }
a { color: var(--link); }
nav a { margin-right: 1rem; display: inline-block; }
.soft, figcaption { color: var(--soft); font-size: .875rem; }
.note { border-left: 4px solid #b34700; background: #fff6ef; padding: .5rem .9rem; }
.panels { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }
.broad { grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
.panel { border: 1px solid var(--line); border-radius: .4rem; padding: .2rem .9rem .6rem;
  min-width: 0; max-width: 40rem; }
.panel h3 { margin-top: .7rem; } .answer { font-weight: 600; margin: .2rem 0 .6rem; }
figure { margin: .4rem 0 1.2rem; min-width: 0; } .panel figure { margin: 0; }
img { display: block; width: 100%; max-width: 36rem; height: auto; }
.plain { list-style: none; padding: 0; }
details { margin: .5rem 0; } summary { cursor: pointer; color: var(--link); width: fit-content; max-width: 100%; }
details.about, .panel details { font-size: .875rem; color: var(--soft); } .panel ul { padding-left: 1.1rem; }
section > details { border-top: 1px solid var(--line); padding-top: .5rem; }
section > details > summary { font-weight: 600; }
table { border-collapse: collapse; font-size: .875rem; margin: .3rem 0; max-width: 100%; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
tbody th { font-weight: 600; } thead th { border-bottom: 2px solid #767676; vertical-align: bottom; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
thead .number { white-space: normal; }
.long { overflow-wrap: anywhere; } td.long { min-width: 9rem; }
.panel th, .panel td { padding: .3rem .4rem; }
.panel tbody .text { overflow-wrap: anywhere; }
pre { background: #f5f5f5; padding: .6rem; font-size: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
@media screen and (max-width: 44rem) {
  body { padding: .8rem; } h1 { font-size: 1.25rem; }
  .wide, .wide tbody, .wide tr, .wide th, .wide td { display: block; } .wide { width: 100%; }
  .wide thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .wide tbody tr { border: 1px solid var(--line); border-radius: .3rem; margin: .6rem 0; padding: .2rem .6rem; }
  .wide tbody th, .wide td { display: flex; gap: .8rem; justify-content: space-between; border: 0; padding: .15rem 0;
    text-align: right; white-space: normal; }
  .wide tbody [data-label]::before { content: attr(data-label); color: var(--soft); font-weight: 400;
    text-align: left; flex: 0 1 45%; }
  .wide tbody .long { display: block; text-align: left; } .wide tbody .long::before { display: block; }
  .narrow th, .narrow td { padding: .3rem .35rem; } .narrow tbody .text { overflow-wrap: anywhere; }
}
@media screen and (max-width: 22rem) {
  .narrow th { overflow-wrap: anywhere; }
}
@media print {
  html { font-size: 9.5pt; } body { max-width: none; font-size: 1rem; padding: 0; }
  nav, details.about, .more { display: none; } h2 + p { break-after: avoid; }
  details::details-content { content-visibility: visible; display: block; height: auto; opacity: 1; }
  summary { color: var(--ink); list-style: none; font-weight: 600; }
  .panels { display: block; orphans: 1; widows: 1; }
  .panel { display: inline-block; width: 48%; margin: 0 .5% .8rem; vertical-align: top; orphans: 2; widows: 2; }
  img { max-width: 100%; max-height: 12cm; width: auto; }
  .panel, figure, tr, li { break-inside: avoid; } h2, h3, summary, figcaption { break-after: avoid; }
  table { font-size: 7.5pt; } th, td { padding: .12rem .3rem; } td.long { min-width: 0; } pre { font-size: 7pt; }
  thead { display: table-header-group; } a { color: inherit; }
}
"""


def document(title: str, about: str, links: str, body: str, *, policy: str, style: str = "") -> str:
    """A page.

    Args:
        title: as text.
        about: HTML below the title.
        links: HTML of the navigation.
        body: HTML.
        policy: what browsers may load.
        style: more rules.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<header><h1>{escape(title)}</h1>
{about}
<nav aria-label="Sections">{links}</nav></header>
<main>
{body}
</main>
</body>
</html>
"""
