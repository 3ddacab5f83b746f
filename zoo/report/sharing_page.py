"""Style and behaviour of the page of `zoo shared --html`."""

from __future__ import annotations

STYLE = """
:root {
  --page: #fbfbfa; --text: #1c1d1f; --soft: #5d6168; --line: #d9dade; --track: #eeeff1;
  --decoder: #1f5fa8; --embeddings: #0b7a75; --other: #646a73; --image: #b4500b; --video: #8e3b8c; --audio: #a3283d;
  --again: #c2410c; --distinct: #1f5fa8; --ink: #ffffff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #17181b; --text: #e9eaec; --soft: #a2a7b0; --line: #3a3d44; --track: #24262b;
    --decoder: #3f86d8; --embeddings: #2aa198; --other: #868d98; --image: #dd7a2c; --video: #b96ab7; --audio: #dd5f73;
    --again: #ea7a3c; --distinct: #3f86d8; --ink: #0d0e10;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; font-variant-numeric: tabular-nums;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.3rem; margin: 2.75rem 0 .5rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 2rem 0 .25rem; }
p { margin: .25rem 0 .75rem; max-width: 46rem; color: var(--soft); }
.facts { margin: .25rem 0 1rem; padding-left: 1.1rem; }
.overview { display: flex; gap: 2px; height: 1.6rem; border-radius: 4px; overflow: hidden; }
.piece, .block, .key { min-width: 1px; }
.distinct { background: var(--distinct); }
.again { background: var(--again); }
.unknown, .k-unknown, .key.unknown {
  background: repeating-linear-gradient(135deg, var(--line) 0 4px, var(--track) 4px 8px); color: var(--text);
}
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: .5rem 0 1rem; padding: 0; list-style: none;
  color: var(--soft); font-size: .9rem; }
.legend b { color: var(--text); }
.key { display: inline-block; width: .85rem; height: .85rem; margin-right: .4rem; border-radius: 2px;
  vertical-align: -.1rem; }
.k-decoder { --k: var(--decoder); } .k-embeddings { --k: var(--embeddings); } .k-other { --k: var(--other); }
.k-image { --k: var(--image); } .k-video { --k: var(--video); } .k-audio { --k: var(--audio); }
.block:not(.k-unknown), .key[class*="k-"]:not(.k-unknown) { background: var(--k); color: var(--ink); }
.block.own:not(.k-unknown), .key.pale { background: color-mix(in srgb, var(--k, var(--decoder)) 30%, var(--page));
  color: var(--text); }
figure { margin: 0 0 1.25rem; }
figcaption { font-weight: 600; margin-bottom: .25rem; }
figcaption span { font-weight: 400; color: var(--soft); margin-left: .4rem; }
.panel { display: grid; grid-template-columns: 12.5rem 1fr; gap: 3px .75rem; align-items: center; }
.name { font-size: .85rem; line-height: 1.25; overflow-wrap: anywhere; }
@media (max-width: 45rem) { .panel { grid-template-columns: 1fr; } }
.row { position: relative; height: 1.9rem; background: var(--track); border-radius: 3px; overflow: hidden; }
.block { position: absolute; top: 0; bottom: 0; overflow: hidden; white-space: nowrap; text-overflow: ellipsis;
  padding-left: 3px; font-size: .72rem; line-height: 1.9rem; border-right: 1px solid var(--page); cursor: default; }
.twice { box-shadow: inset 0 -4px var(--again), inset 0 -5px var(--page); }
.block.hit { outline: 2px solid var(--text); outline-offset: -2px; }
.detail { position: sticky; bottom: 0; margin: 0; padding: .6rem .8rem; max-width: none; min-height: 2.7rem;
  background: var(--page); border: 1px solid var(--line); border-radius: 4px; color: var(--text); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; }
caption { text-align: left; color: var(--soft); padding: .25rem 0 .5rem; }
th, td { padding: .28rem .65rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
.number, .matrix thead th, .matrix td { text-align: right; white-space: nowrap; }
.matrix td:not(.self):not(.none) {
  background: color-mix(in srgb, var(--again) calc(var(--part, 0%) * .6), var(--page)); }
.matrix .self, .matrix .none { color: var(--soft); }
.matrix .self { background: var(--track); }
.matrix th, .matrix caption { white-space: nowrap; font-weight: 500; }
abbr { text-decoration: none; }
code { font-size: .92em; }
details { margin-top: 1.5rem; }
summary { font-size: 1.05rem; font-weight: 600; cursor: pointer; }
:focus-visible { outline: 2px solid var(--distinct); outline-offset: 2px; }
@media print { .detail { display: none; } .block, .piece, .key, td { print-color-adjust: exact; } }
"""

SCRIPT = """
for (const map of document.querySelectorAll('.maps')) {
  const detail = map.querySelector('.detail');
  const mark = (block, on) => {
    const panel = block.closest('.panel');
    for (const same of panel.querySelectorAll(`[data-column="${block.dataset.column}"]`))
      same.classList.toggle('hit', on);
  };
  map.addEventListener('pointerover', event => {
    const block = event.target.closest('.block');
    if (!block) return;
    mark(block, true);
    detail.textContent = block.title;
  });
  map.addEventListener('pointerout', event => {
    const block = event.target.closest('.block');
    if (!block) return;
    mark(block, false);
    detail.textContent = detail.dataset.empty;
  });
}
"""
