"""Holds the style sheet and the script of every page.

Colours are named once; dark is a screen's choice, paper is always light. What one task's page alone needs stands beside
that page.
"""

STYLE = """
:root{--paper:#fdfcfa;--ink:#1d1c1a;--soft:#6c6861;--line:#e6e2da;--wash:#f5f2ec;--one:#1f5f8b;--two:#c9651c;--three:#3f7d5b;
--quiet:#bdb7ab;--extra:#fbdfd3;--extra-line:#c9651c;--missed:#dcebe0;--missed-line:#3f7d5b;
--serif:Charter,'Bitstream Charter','Iowan Old Style','Source Serif 4',Georgia,serif;
--sans:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;
--mono:ui-monospace,SFMono-Regular,Menlo,Consolas,'Liberation Mono',monospace}
@media screen and (prefers-color-scheme:dark){:root{--paper:#16171a;--ink:#e9e7e2;--soft:#9f9b93;--line:#2f3136;
--wash:#1f2125;--one:#7db5e0;--two:#f0a162;--three:#7fbf9a;--quiet:#5d5c58;--extra:#4b2c1c;--extra-line:#f0a162;--missed:#1f3a2b;
--missed-line:#7fbf9a}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 var(--sans);font-variant-numeric:tabular-nums}
main{max-width:1080px;margin:0 auto;padding:clamp(20px,5vw,64px) clamp(16px,4vw,40px) 80px}
h1,h2,h3,p,dl,dd,figure,ol{margin:0;padding:0}
small{font-size:13px;color:var(--soft)}
h1{font:400 clamp(34px,6vw,52px)/1.1 var(--serif);letter-spacing:-.015em;overflow-wrap:anywhere}
h2{font:400 27px/1.2 var(--serif);letter-spacing:-.01em}
h3{font-size:15px;font-weight:600;line-height:1.4}
section{margin-top:64px;padding-top:22px;border-top:1px solid var(--line)}
.note{color:var(--soft);margin-top:4px;max-width:80ch}
.eyebrow{color:var(--soft);font-size:14px;letter-spacing:.02em;margin-bottom:6px}
.headline{display:flex;flex-wrap:wrap;align-items:center;gap:8px 24px;margin:30px 0 34px}
.headline>b{font:400 clamp(68px,13vw,112px)/.95 var(--serif);letter-spacing:-.035em;color:var(--one);
font-variant-numeric:lining-nums}
.headline p{display:flex;flex-direction:column}
.headline strong{font-size:18px;font-weight:600}
.headline span{color:var(--soft)}
.facts dt{color:var(--soft);font-size:13px;line-height:1.4}
.facts dd{overflow-wrap:anywhere}
.facts.strip{display:flex;flex-wrap:wrap;gap:16px 40px;margin-top:26px}
.facts.strip dd{font-weight:600}
.facts.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(44%,215px),1fr));gap:18px 32px;
margin:20px 0 28px}
.facts.list{columns:2;column-gap:48px;padding:4px 0 20px;font-size:14px}
.facts.list div{display:flex;justify-content:space-between;gap:18px;padding:4px 0;border-bottom:1px solid var(--line);
break-inside:avoid}
.facts.list dt{font-family:var(--mono);font-size:12.5px;line-height:1.7;overflow-wrap:anywhere}
.facts.list dd{text-align:right;max-width:62%}
details{border-top:1px solid var(--line)}
details:last-of-type{border-bottom:1px solid var(--line)}
summary{cursor:pointer;padding:11px 0;font-weight:600}
summary small{font-weight:400;margin-left:4px}
table{width:100%;border-collapse:collapse;margin-top:20px}
thead th{font-size:13px;font-weight:400;color:var(--soft);text-align:left;padding:6px 22px 8px 0;
border-bottom:1px solid var(--line);white-space:nowrap}
tbody th,td{text-align:left;vertical-align:top;padding:15px 22px 15px 0;border-bottom:1px solid var(--line);
font-weight:400}
tbody th strong{display:block;font-weight:600;line-height:1.35;padding-top:4px}
td:last-child,thead th:last-child{padding-right:0}
.score{display:block;font-size:21px;font-weight:600;line-height:1.35}
td>small{white-space:nowrap}
td p{font-size:14.5px;display:grid;grid-template-columns:64px 1fr;gap:12px;line-height:1.5}
td p small{line-height:21.75px}
.signature{display:block;font:12px/1.6 var(--mono);color:var(--soft);margin-top:5px;overflow-wrap:anywhere}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:36px 56px;margin-top:30px}
.columns.small{grid-template-columns:repeat(auto-fit,minmax(min(100%,250px),1fr));gap:30px 44px;margin-top:36px}
figcaption{display:flex;flex-wrap:wrap;justify-content:space-between;align-items:baseline;gap:0 18px}
.legend{display:flex;flex-wrap:wrap;gap:0 16px;font-size:14px;color:var(--soft)}
.legend b{color:var(--ink);font-weight:600}
.legend i{display:inline-block;width:14px;height:3px;border-radius:2px;margin-right:6px;vertical-align:middle}
i.c1{background:var(--one)}i.c2{background:var(--two)}i.c3{background:var(--three)}
.plot{position:relative;height:250px;margin:14px 2px 24px 48px}
.small .plot{height:130px}
.plot svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible}
.plot path{vector-effect:non-scaling-stroke;fill:none}
.grid{stroke:var(--line);stroke-width:1}
.line{stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.small .line{stroke-width:1.5}
.dots{stroke-width:6.5;stroke-linecap:round}
path.c1{stroke:var(--one)}path.c2{stroke:var(--two)}path.c3{stroke:var(--three)}
.rule{stroke:var(--soft);stroke-width:1;stroke-dasharray:3 3}
.x span,.y span{position:absolute;font-size:12px;line-height:1;color:var(--soft);white-space:nowrap}
.y span{right:calc(100% + 9px);transform:translateY(-50%)}
.x span{top:calc(100% + 9px);transform:translateX(-50%)}
.x span:first-child{transform:none}
.axis{font-size:13px;color:var(--soft);margin-left:48px;display:flex;flex-wrap:wrap;justify-content:space-between;
gap:0 16px}
.bars{margin-top:14px;display:grid;grid-template-columns:fit-content(46%) 1fr;gap:9px 16px;align-items:center}
.bars>div{display:contents}
.bars dt{font-size:14px;line-height:1.3;overflow-wrap:anywhere}
.bars dd{display:grid;grid-template-columns:1fr 52px;gap:10px;align-items:center;font-size:14px}
.bars.noted dd{grid-template-columns:1fr 52px 60px}
.bars:not(.noted) dd small{display:none}
.bars b{text-align:right;font-weight:600}
.bars small{white-space:nowrap}
.bars svg{width:100%;height:12px;border-radius:2px;display:block}
.track{fill:var(--wash)}.strong{fill:var(--one)}.quiet{fill:var(--quiet)}
dd.quiet{color:var(--soft)}
.bars+.axis{margin:6px 0 0}
section>h3{margin:30px 0 0}
.samples{list-style:none}
.samples li{padding:14px 0;border-bottom:1px solid var(--line);break-inside:avoid}
.samples dl{display:grid;grid-template-columns:84px 1fr;gap:1px 14px}
.samples dt{font-size:13px;line-height:1.9;color:var(--soft)}
.samples dd{overflow-wrap:anywhere}
.tags{float:right;font-size:13px;line-height:1.9;color:var(--soft);margin-left:20px}
mark{color:inherit;background:var(--extra);box-shadow:inset 0 -2px var(--extra-line);padding:1px 3px;margin:0 -1px;
border-radius:2px;-webkit-box-decoration-break:clone;box-decoration-break:clone}
mark.missed{background:var(--missed);box-shadow:inset 0 -2px var(--missed-line)}
.attention{margin-top:26px;display:grid;grid-template-columns:minmax(0,auto) minmax(0,330px);gap:18px 48px;
justify-content:start;align-items:start}
.attention figcaption{grid-column:1/-1;font:italic 18px/1.4 var(--serif)}
.scroll{overflow-x:auto;padding-bottom:4px}
.heatmap{display:block;max-width:100%;height:auto}
.heatmap text{font:12.5px var(--sans);fill:var(--ink)}
.heatmap rect{fill:var(--one)}
.heatmap rect:hover{stroke:var(--two);stroke-width:2}
.frame{fill:none;stroke:var(--line)}
.reading{font-size:14px;color:var(--soft);min-height:1.6em;margin-top:8px}
.heads{display:grid;gap:5px;align-items:center;font-size:12px;color:var(--soft)}
.heads span{text-align:center;line-height:1.3}
.heads button{border:1px solid var(--line);border-radius:3px;background:none;padding:0;cursor:pointer;display:block;
width:100%;aspect-ratio:1;overflow:hidden}
.heads button:hover{border-color:var(--soft)}
.heads button[aria-pressed=true]{outline:2px solid var(--two);outline-offset:0}
.heads canvas{display:block;width:100%;height:100%;image-rendering:pixelated}
.choose{font:inherit;font-size:15px;color:inherit;background:var(--paper);border:1px solid var(--line);
border-radius:6px;padding:8px 10px;margin-top:18px;max-width:100%;width:560px}
.choose~.attention figcaption{display:none}
[hidden]{display:none!important}
@media (max-width:760px){.attention{grid-template-columns:minmax(0,1fr)}.heads{max-width:420px}}
@media (max-width:640px){
body{font-size:15.5px}
section{margin-top:48px}
.facts.list{columns:1}
.facts.strip{display:grid;grid-template-columns:1fr 1fr;gap:14px 20px}
thead{display:none}
tbody,tr,tbody th,td{display:block;padding:0}
tr{padding:14px 0;border-bottom:1px solid var(--line);display:grid;grid-template-columns:1fr 1fr;gap:4px 18px}
tbody th,td{border:0}
tbody th,td:last-child{grid-column:1/-1}
td[data-column]:not(:last-child):before{content:attr(data-column);font-size:13px;color:var(--soft)}
td.empty{display:none}
.axis,.plot{margin-left:42px}
.plot{height:210px}
.samples dl{grid-template-columns:62px 1fr;gap:1px 10px}
.tags{float:none;margin:0}
}
@media print{
:root{--paper:#fff}
body{font-size:13px;-webkit-print-color-adjust:exact;print-color-adjust:exact}
main{max-width:none;padding:0}
section{margin-top:28px}
figure,tr{break-inside:avoid}
h2,h3,section>.note,.choose{break-after:avoid}
.columns{grid-template-columns:1fr 1fr;gap:24px 32px}
.columns.small{grid-template-columns:1fr 1fr 1fr}
.plot{height:190px}
.small .plot{height:100px}
td p{font-size:12px}
.choose{display:none}.choose~.attention figcaption{display:block}
}
"""

SCRIPT = """
'use strict';
const say = value => {
  const size = Math.abs(value);
  const short = number => number.toLocaleString('en', {maximumSignificantDigits: 4});
  if (size >= 1e6) return size < 1e10 ? short(value / 1e6) + ' M' : short(value / 1e9) + ' G';
  if (size >= 1000 || Number.isInteger(value)) return Math.round(value).toLocaleString('en');
  return size < 1e-3 ? Number(value.toPrecision(3)).toExponential() : String(Number(value.toPrecision(4)));
};

// Charts: the values under the pointer take the place of the last ones in the legend.
for (const chart of document.querySelectorAll('[data-chart]')) {
  const {end, lines} = JSON.parse(chart.dataset.chart);
  const plot = chart.querySelector('.plot'), svg = plot.querySelector('svg'), where = chart.querySelector('.where');
  const shown = [...chart.querySelectorAll('.legend b')], last = shown.map(each => each.textContent);
  const label = where.textContent;
  const rule = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  rule.setAttribute('class', 'rule');
  svg.append(rule);
  plot.addEventListener('pointermove', event => {
    const box = svg.getBoundingClientRect();
    const x = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1) * end;
    const nearest = lines.map(points => points.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
    const at = nearest.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a)[0];
    rule.setAttribute('d', `M${100 * at / end} 0V100`);
    nearest.forEach((point, index) => { shown[index].textContent = say(point[1]); });
    where.textContent = `${label} ${say(Math.round(at))}`;
  });
  plot.addEventListener('pointerleave', () => {
    rule.removeAttribute('d');
    shown.forEach((each, index) => { each.textContent = last[index]; });
    where.textContent = label;
  });
}

// Attention: one thumbnail a head; the chosen one is drawn large.
const panels = [...document.querySelectorAll('.attention')];
const dark = matchMedia('(prefers-color-scheme: dark)');
for (const panel of panels) {
  const {shape: [layers, heads, rows, columns], levels} = JSON.parse(panel.querySelector('script').textContent);
  const bytes = Uint8Array.from(atob(levels), each => each.charCodeAt(0)), size = rows * columns;
  const cells = [...panel.querySelectorAll('rect')], names = [...panel.querySelectorAll('.heatmap text')];
  const reading = panel.querySelector('.reading'), grid = panel.querySelector('.heads'), thumbnails = [];
  const weightsOf = (layer, head) => {
    const weights = new Float32Array(size);
    const chosen = head < 0 ? [...Array(heads).keys()] : [head];
    for (const each of chosen)
      for (let i = 0; i < size; i++) weights[i] += bytes[(layer * heads + each) * size + i] / 255 / chosen.length;
    return weights;
  };
  let weights, name;
  const show = (layer, head, button) => {
    weights = weightsOf(layer, head);
    name = `layer ${layer + 1}, ${head < 0 ? 'mean of heads' : 'head ' + (head + 1)}`;
    cells.forEach((cell, i) => cell.setAttribute('fill-opacity', weights[i].toFixed(2)));
    reading.textContent = name;
    for (const each of thumbnails) each.button.setAttribute('aria-pressed', each.button === button);
  };
  const draw = () => {
    const pixel = document.createElement('canvas').getContext('2d');
    pixel.fillStyle = getComputedStyle(document.documentElement).getPropertyValue('--one');
    pixel.fillRect(0, 0, 1, 1);
    const [red, green, blue] = pixel.getImageData(0, 0, 1, 1).data;
    for (const {canvas, layer, head} of thumbnails) {
      const context = canvas.getContext('2d'), picture = context.createImageData(columns, rows);
      weightsOf(layer, head).forEach((each, i) => picture.data.set([red, green, blue, 255 * each], 4 * i));
      context.putImageData(picture, 0, 0);
    }
  };
  grid.style.gridTemplateColumns = `auto repeat(${heads + 1}, minmax(0, 52px))`;
  const say = words => { const span = document.createElement('span'); span.textContent = words; grid.append(span); };
  say('');
  say('mean');
  for (let head = 0; head < heads; head++) say(head + 1);
  for (let layer = 0; layer < layers; layer++) {
    say(layer ? layer + 1 : layers > 1 ? 'layer 1' : 'layer');
    for (let head = -1; head < heads; head++) {
      const button = document.createElement('button'), canvas = document.createElement('canvas');
      button.type = 'button';
      button.title = `layer ${layer + 1}, ${head < 0 ? 'mean of heads' : 'head ' + (head + 1)}`;
      button.setAttribute('aria-label', button.title);
      canvas.width = columns;
      canvas.height = rows;
      button.append(canvas);
      grid.append(button);
      thumbnails.push({button, canvas, layer, head});
      button.addEventListener('click', () => show(layer, head, button));
    }
  }
  draw();
  dark.addEventListener('change', draw);
  show(layers - 1, -1, thumbnails[(layers - 1) * (heads + 1)].button);
  panel.addEventListener('pointerover', event => {
    const i = cells.indexOf(event.target);
    if (i < 0) { reading.textContent = name; return; }
    const target = names[Math.floor(i / columns)].textContent, source = names[rows + i % columns].textContent;
    reading.textContent = `${name}: ${target} → ${source} ${weights[i].toFixed(2)}`;
  });
}
if (panels.length > 1) {
  const choose = document.createElement('select');
  choose.className = 'choose';
  choose.setAttribute('aria-label', 'sentence');
  panels.forEach((panel, index) => choose.add(new Option(panel.querySelector('figcaption').textContent, index)));
  const pick = () => panels.forEach((panel, index) => { panel.hidden = index !== Number(choose.value); });
  choose.addEventListener('change', pick);
  panels[0].before(choose);
  pick();
}
"""
