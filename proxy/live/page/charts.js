// Curves of the last ten minutes, drawn by uPlot; each with its values now, and as a table for who cannot see curves.

import { clock, figure } from "./words.js";

const LONGEST_S = 600, SHORTEST_S = 120;
const MOST_POINTS = 600;

/** A colour of the style sheet as a canvas wants it; asked anew at each drawing, as it follows light and dark. */
export function colour(name) {
  const probe = document.getElementById(`colour-${name}`) ?? create_probe(name);
  return getComputedStyle(probe).color;
}

function create_probe(name) {
  const probe = document.createElement("span");
  probe.id = `colour-${name}`;
  probe.hidden = true;
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  return probe;
}

/**
 * @param parent where the figure goes
 * @param title and unit, in words
 * @param curves [{name, colour, dash, thin, fill, bars}]; others may be shown later
 * @param least what the scale reaches to at least, so that counts have whole numbers beside them
 */
export function chart(parent, title, unit, curves, { empty = "nothing yet", digits = figure, least = 0 } = {}) {
  const figure_ = document.createElement("figure");
  const caption = document.createElement("figcaption"), heading = document.createElement("h3"), legend = document.createElement("ul");
  heading.textContent = title;
  if (unit) heading.append(Object.assign(document.createElement("span"), { className: "unit", textContent: ` ${unit}` }));
  legend.className = "legend";
  caption.append(heading, legend);
  const plot = document.createElement("div"), nothing = document.createElement("p");
  plot.className = "plot";
  plot.setAttribute("role", "img");
  nothing.className = "empty";
  nothing.textContent = empty;
  plot.append(nothing);
  const details = document.createElement("details"), summary = document.createElement("summary");
  summary.textContent = `${title} as a table`;
  details.append(summary);
  figure_.append(caption, plot, details);
  parent.append(figure_);

  let drawn = null, data = [[]], values = [];
  details.addEventListener("toggle", () => { if (details.open) tabulate(); });
  new ResizeObserver(() => drawn?.setSize(size())).observe(plot);

  const size = () => ({ width: Math.max(plot.clientWidth, 120), height: plot.clientHeight });

  function draw() {
    drawn?.destroy();
    legend.replaceChildren();
    values = curves.map((curve) => {
      const item = document.createElement("li"), key = document.createElement("span"), value = document.createElement("b");
      key.className = `key ${curve.dash ? "dashed" : ""} ${curve.bars ? "block" : ""}`;
      key.style[curve.bars ? "background" : "borderColor"] = `var(--${curve.colour})`;
      item.append(key, `${curve.name} `, value);
      legend.append(item);
      return value;
    });
    drawn = new uPlot(options(curves, size(), tell, least), data, plot);
    drawn.root.setAttribute("aria-hidden", "true");
  }

  /** Values at the cursor, else the latest. */
  function tell(index) {
    const at = index ?? data[0].length - 1;
    values.forEach((value, place) => { value.textContent = digits(data[place + 1]?.[at]); });
  }

  function tabulate() {
    const table = document.createElement("table");
    table.innerHTML = "<thead><tr><th scope='col'>at</th></tr></thead><tbody></tbody>";
    for (const curve of curves) {
      const head = document.createElement("th");
      head.scope = "col";
      head.className = "n";
      head.textContent = unit ? `${curve.name}, ${unit}` : curve.name;
      table.tHead.rows[0].append(head);
    }
    const last = data[0].length - 1;
    for (let at = last; at >= 0 && last - at < LONGEST_S; at -= 60) {
      const row = table.tBodies[0].insertRow();
      row.insertCell().textContent = clock(data[0][at]);
      for (let place = 1; place < data.length; place += 1) {
        const cell = row.insertCell();
        cell.className = "n";
        cell.textContent = digits(data[place][at]);
      }
    }
    details.replaceChildren(summary, table);
  }

  return {
    /** Columns: instants, then one for each curve; `named` are the curves, where they are others now. */
    show(columns, named = curves) {
      const changed = named.length !== curves.length || named.some((curve, place) => curve.name !== curves[place].name);
      [curves, data] = [named, columns];
      const known = columns.slice(1).some((column) => column.some((value) => value !== null));
      nothing.hidden = known;
      legend.hidden = !known;
      if (known && (changed || !drawn)) draw();
      else if (known) drawn.setData(data);
      if (drawn) drawn.root.hidden = !known;
      if (known) tell(drawn.cursor.idx);
    },
    /** What a screen reader says of it. */
    describe() {
      const said = curves.map((curve, place) => {
        const there = (data[place + 1] ?? []).filter((value) => value !== null);
        if (!there.length) return `${curve.name}: unknown`;
        return `${curve.name}: now ${digits(there.at(-1))}, between ${digits(Math.min(...there))} and ${digits(Math.max(...there))}`;
      });
      plot.setAttribute("aria-label", `${title}${unit ? `, ${unit}` : ""}. ${said.join(". ")}`);
      if (details.open) tabulate();
    },
    redraw() { drawn?.redraw(false, true); },
  };
}

function options(curves, size, tell, least) {
  const axis = { stroke: () => colour("soft"), grid: { stroke: () => colour("line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
  return {
    ...size,
    padding: [10, 8, 0, 0],
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, sync: { key: "paceline" }, points: { size: 6 } },
    scales: { x: { range: (_, first, most) => [Math.min(Math.max(first, most - LONGEST_S), most - SHORTEST_S), most] }, y: { range: (_, lowest, most) => [0, ceiling(Math.max(most ?? 0, least))] } },
    axes: [
      { ...axis, size: 26, space: 70, values: (_, splits) => splits.map((at) => clock(at).slice(0, at % 60 ? 8 : 5)) },
      { ...axis, size: 50, space: 34, values: (_, splits) => splits.map((value) => value.toLocaleString("en")) },
    ],
    series: [{}, ...curves.map(series)],
    hooks: { setCursor: [(plot) => tell(plot.cursor.idx)] },
  };
}

function series(curve) {
  const common = { stroke: () => colour(curve.colour), points: { show: false }, spanGaps: false };
  if (curve.bars) return { ...common, width: 0, fill: () => colour(curve.colour), paths: uPlot.paths.bars({ size: [0.8, 6, 1], align: 0 }) };
  const fill = curve.fill ? () => colour(curve.fill) : undefined;
  return { ...common, width: curve.dash || curve.thin ? 1.25 : 2, dash: curve.dash ? [5, 4] : undefined, fill };
}

/** A round number above, so that the scale rests while values move a little. */
function ceiling(value) {
  if (!(value > 0)) return 1;
  const step = 10 ** Math.floor(Math.log10(value * 1.08)) / 2;
  return Math.ceil((value * 1.08) / step) * step;
}

/** The last ten minutes as columns, to which points are added. */
export function memory() {
  let columns = { at_unix_s: [] };
  return {
    begin(history) { columns = history; },
    add(point) {
      const at = columns.at_unix_s;
      if (at.length && point.at_unix_s <= at.at(-1)) return;
      for (const name of Object.keys(columns)) {
        if (Array.isArray(columns[name])) columns[name].push(point[name] ?? null);
      }
      const watts = columns.power_w ??= {};
      for (const name of Object.keys(point.power_w)) watts[name] ??= new Array(at.length - 1).fill(null);
      for (const name of Object.keys(watts)) watts[name].push(point.power_w[name] ?? null);
      while (at.length > MOST_POINTS) {
        for (const column of [...Object.values(columns).filter(Array.isArray), ...Object.values(watts)]) column.shift();
      }
    },
    get columns() { return columns; },
  };
}
