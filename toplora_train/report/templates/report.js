"use strict";
// What moves in report.html: the curves, drawn as wide as the screen, and the table of answers.

const find = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

const svg = (tag, attributes, ...children) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};

// What an element of the page holds as base64 of gzipped JSON.
const unpack = async element => {
  const text = atob(element.textContent), bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
};

const short = value => {
  if (value === null || value === undefined) return "NaN";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return value.toLocaleString("en", {maximumSignificantDigits: 4});
};

// Round numbers between two bounds, each with its text.
const ticks = (low, high, count) => {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find(factor => factor * power >= rough * 0.999);
  const [first, last] = [Math.ceil(low / step - 1e-9), Math.floor(high / step + 1e-9)];
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const text = value => digits > 4 ? value.toExponential(Math.abs(value) < step * 9.5 ? 0 : 1)
    : value.toLocaleString("en", {minimumFractionDigits: digits, maximumFractionDigits: digits});
  return Array.from({length: last - first + 1}, (_, at) => [(first + at) * step, text((first + at) * step)]);
};

const range = values => {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value === null) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return null;
  const room = (high - low || Math.abs(high) || 1) * 0.04;
  return [low >= 0 && low < room ? 0 : low - room, high + room];
};

const style = (line, at) => at > 0 && line.kind === "main" && line.name !== "smoothed" ? "second" : line.kind;

const curves = async () => {
  const data = await unpack(find("#curve-data"));
  const cursor = find("#cursor"), place = find(".curves"), said = find("#at");
  const marked = new Map(data.marks.map(mark => [mark.at, mark.text]));
  let axis = "step";

  const draw = chart => {
    const width = Math.max(240, chart.figure.clientWidth), height = chart.tall ? 230 : 150;
    const xs = data[axis], [left, right, top, bottom] = [52, 8, 8, 24];
    const [x0, x1] = [xs.find(x => x !== null) ?? 0, xs.findLast(x => x !== null) ?? 1];
    const [y0, y1] = range(chart.lines.flatMap(line => line.values)) ?? [0, 1];
    const x = value => left + (value - x0) / (x1 - x0 || 1) * (width - left - right);
    const y = value => height - bottom - (value - y0) / (y1 - y0) * (height - top - bottom);
    const root = svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img",
      "aria-label": `${chart.title} by ${axis}`});
    for (const [value, text] of ticks(y0, y1, chart.tall ? 5 : 3)) root.append(
      svg("line", {class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value)}),
      svg("text", {x: left - 6, y: y(value) + 4, "text-anchor": "end"}, text));
    for (const [value, text] of ticks(x0, x1 === x0 ? x0 + 1 : x1, width / 90)) root.append(
      svg("text", {x: Math.min(x(value), width - 4 * text.length), y: height - 6, "text-anchor": "middle"},
        text));
    for (const mark of data.marks) if (mark.kind === "resumed") root.append(
      svg("line", {class: "resumed", x1: x(xs[mark.at]), x2: x(xs[mark.at]), y1: top, y2: height - bottom}));
    chart.lines.forEach((line, number) => {
      const gaps = line.kind !== "points", path = [];
      let pen = "M";
      line.values.forEach((value, at) => {
        if (value !== null && xs[at] !== null) {
          path.push(`${pen}${x(xs[at]).toFixed(1)} ${y(value).toFixed(1)}`);
          pen = "L";
        } else if (gaps) pen = "M";
      });
      root.append(svg("path", {class: style(line, number), d: path.join("")}));
      const drawn = line.values.map((value, at) => [value, at]).filter(([value]) => value !== null);
      if (drawn.length < (line.kind === "points" ? 60 : 3)) for (const [value, at] of drawn) root.append(
        svg("circle", {class: style(line, number), cx: x(xs[at]), cy: y(value), r: 3}));
    });
    if (chart.tall) for (const mark of data.marks) if (mark.kind === "spike") root.append(
      svg("path", {class: "spike", d: `M${x(xs[mark.at]) - 5} 0h10l-5 8z`}));
    chart.cursor = svg("line", {class: "cursor", y1: top, y2: height - bottom});
    root.append(chart.cursor);
    chart.x = x;
    root.addEventListener("pointermove", event => {
      const box = root.getBoundingClientRect();
      const wanted = x0 + ((event.clientX - box.left) * width / box.width - left)
        / (width - left - right) * (x1 - x0);
      let nearest = 0;
      xs.forEach((value, at) => {
        if (Math.abs(value - wanted) < Math.abs(xs[nearest] - wanted)) nearest = at;
      });
      cursor.value = nearest;
      show();
    });
    find("svg", chart.figure)?.remove();
    chart.figure.append(root);
  };

  // Put every chart's cursor and values at the step of the slider.
  const show = () => {
    const at = Number(cursor.value);
    const parts = [`step ${data.step[at].toLocaleString("en")}`, `${short(data.time[at])} ${data.time_unit}`];
    if (marked.has(at)) parts.push(marked.get(at));
    said.textContent = parts.join(" · ");
    for (const chart of charts) {
      const place = chart.x(data[axis][at] ?? 0);
      chart.cursor.setAttribute("x1", place);
      chart.cursor.setAttribute("x2", place);
      chart.values.forEach((element, number) => {
        const line = chart.lines[number], value = line.values[at];
        element.textContent = line.kind === "points" && value === null ? "–" : short(value);
      });
    }
    const loss = charts[0].lines.map(line => `${line.name} ${short(line.values[at])}`);
    cursor.setAttribute("aria-valuetext", `${said.textContent}, ${charts[0].title}: ${loss.join(", ")}`);
  };

  const charts = data.charts.map((chart, number) => {
    const values = chart.lines.map(() => make("span"));
    const keys = chart.lines.map((line, at) => make("span", {},
      make("i", {className: `key ${style(line, at)}`}), line.name ? `${line.name} ` : "", values[at]));
    const figure = make("figure", {}, make("figcaption", {}, chart.title, ...keys));
    place.append(figure);
    return {...chart, values, figure, tall: number === 0};
  });
  const redraw = () => { charts.forEach(draw); show(); };
  cursor.addEventListener("input", show);
  for (const input of all("[name=axis]")) input.addEventListener("change", () => {
    axis = input.value;
    redraw();
  });
  find("#training .controls").hidden = false;
  let width = 0;
  new ResizeObserver(() => {
    if (place.clientWidth !== width) {
      width = place.clientWidth;
      redraw();
    }
  }).observe(place);
};

// A row of the packed table, in the order of report/answers.py.
const [PLACE, ID, FLAGS, PROMPT, LABEL, ANSWER, OUTPUT, LENGTH, BASE_ANSWER, BASE_OUTPUT, SCORES] = Array(11).keys();
const [RIGHT, BASE_RIGHT, SEEN, NO_BASE] = [1, 2, 4, 8];
const changed = flags => !(flags & NO_BASE) && !!(flags & RIGHT) !== !!(flags & BASE_RIGHT);
const keeps = {
  fixed: row => changed(row[FLAGS]) && row[FLAGS] & RIGHT,
  broken: row => changed(row[FLAGS]) && !(row[FLAGS] & RIGHT),
  right: row => row[FLAGS] & RIGHT,
  wrong: row => !(row[FLAGS] & RIGHT),
  unreadable: row => row[ANSWER] === null,
  seen: row => row[FLAGS] & SEEN,
  all: () => true,
};
const PAGE = 50;

const answers = () => {
  const table = find("#answers table"), body = table.tBodies[0], more = find("#answers .more");
  const tasks = all("#answers .task"), select = find("#task"), search = find("#search");
  const loaded = new Map();
  let data, rows = [], shown = 0, sorted = null;

  const mark = (right, text) => [
    make("span", {className: right ? "yes" : "no", title: right ? "right" : "wrong"}, right ? "✓" : "✗"),
    make("span", {className: "hidden"}, right ? "right: " : "wrong: "), " ", text ?? "no answer found"];

  const preview = row => row[PROMPT].trim().replace(/\s+/g, " ").slice(0, 200) || row[ID];

  const detail = row => {
    const part = (title, ...content) => make("div", {}, make("h3", {}, title), ...content);
    const shared = text => make("span", {className: "shared"}, text);
    const box = make("div", {},
      part(`prompt of ${row[ID]}${row[FLAGS] & SEEN ? ", which is also in the training rows" : ""}`,
        make("pre", {tabIndex: 0}, shared(data.before), row[PROMPT], shared(data.after))));
    const pair = make("div", {className: "pair"});
    if (!(row[FLAGS] & NO_BASE)) pair.append(
      part("base model's answer", make("pre", {tabIndex: 0}, row[BASE_OUTPUT])));
    pair.append(part(`tuned model's answer, ${row[LENGTH].toLocaleString("en")} characters`,
      make("pre", {tabIndex: 0}, row[OUTPUT])));
    pair.append(part("label", make("pre", {tabIndex: 0}, row[LABEL])));
    box.append(pair);
    if (row[SCORES]) {
      const cells = (tag, ...texts) => texts.map(text => make(tag, {}, text));
      const base = row[SCORES].some(([, , value]) => value !== null);
      box.append(part("score of each choice", make("table", {}, make("tbody", {},
        make("tr", {}, ...cells("th", "choice", "tuned", ...base ? ["base"] : [])),
        ...row[SCORES].map(([choice, tuned, value]) => make("tr", {},
          ...cells("th", choice), ...cells("td", short(tuned), ...base ? [short(value)] : [])))))));
    }
    const columns = all("thead th", table).filter(head => head.offsetWidth > 0).length;
    return make("tr", {}, make("td", {colSpan: columns, className: "detail"}, box));
  };

  const line = row => {
    const flags = row[FLAGS], button = make("button", {type: "button", ariaExpanded: "false"}, preview(row));
    const own = make("tr", {},
      make("th", {scope: "row"}, button),
      make("td", {title: row[LABEL].slice(0, 200)}, row[LABEL].slice(0, 200)),
      make("td", {className: "base-answer"}, ...flags & NO_BASE ? ["–"]
        : mark(flags & BASE_RIGHT, row[BASE_ANSWER]?.slice(0, 200))),
      make("td", {}, ...mark(flags & RIGHT, row[ANSWER]?.slice(0, 200))),
      make("td", {className: "length"}, row[LENGTH].toLocaleString("en")));
    let opened = null;
    button.addEventListener("click", () => {
      if (opened) opened.remove();
      else own.after(opened = detail(row));
      if (!opened.isConnected) opened = null;
      button.ariaExpanded = String(!!opened);
    });
    return own;
  };

  const next = () => {
    const end = Math.min(shown + PAGE, rows.length);
    body.append(...rows.slice(shown, end).map(line));
    shown = end;
    more.hidden = shown === rows.length;
    more.textContent = `show ${Math.min(PAGE, rows.length - shown)} more`;
    find("#found").textContent = rows.length
      ? `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} shown` : "no such answer";
  };

  const filter = () => {
    const chosen = find("input:checked", tasks[select.value]).value, words = search.value.toLowerCase();
    const holds = row => [ID, PROMPT, LABEL, OUTPUT, BASE_OUTPUT].some(at => row[at]?.toLowerCase().includes(words));
    rows = data.rows.filter(row => keeps[chosen](row) && (!words || holds(row)));
    if (sorted) rows.sort((a, b) => {
      const [one, other] = [a[sorted.key], b[sorted.key]];
      if (one === null || other === null) return (one === null) - (other === null);
      return sorted.sign * (sorted.key === LENGTH ? one - other
        : one.trim().localeCompare(other.trim(), "en", {numeric: true})) || a[PLACE] - b[PLACE];
    });
    body.replaceChildren();
    shown = 0;
    next();
  };

  const choose = async () => {
    const task = tasks[select.value];
    tasks.forEach(one => { one.hidden = one !== task; });
    if (!loaded.has(task)) {
      loaded.set(task, await unpack(find(".answer-data", task)));
      const inputs = all("input", task);
      (inputs.find(input => data_count(input) > 0) ?? inputs.at(-1)).checked = true;
      inputs.forEach(input => input.addEventListener("change", filter));
    }
    data = loaded.get(task);
    table.hidden = false;
    table.classList.toggle("no-base", data.rows.every(row => row[FLAGS] & NO_BASE));
    filter();
  };
  const data_count = input => Number(find("b", input.parentElement).textContent.replaceAll(",", ""));

  for (const button of all("thead button", table)) button.addEventListener("click", () => {
    const key = Number(button.dataset.key);
    sorted = {key, sign: sorted?.key === key ? -sorted.sign : 1};
    all("thead th", table).forEach(head => {
      head.ariaSort = head !== button.parentElement ? "none" : sorted.sign > 0 ? "ascending" : "descending";
    });
    filter();
  });
  search.addEventListener("input", filter);
  select.addEventListener("change", choose);
  more.addEventListener("click", next);
  find("#answers .controls").hidden = false;
  choose();
};

if (find("#curve-data")) curves();
// The answers are unpacked when they are about to be seen.
if (find(".answer-data")) {
  const seen = new IntersectionObserver(entries => {
    if (entries.some(entry => entry.isIntersecting)) {
      seen.disconnect();
      answers();
    }
  }, {rootMargin: "600px"});
  seen.observe(find("#answers"));
}
