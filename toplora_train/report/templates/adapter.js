// Inside the adapter: the heat map, the pictures of the chosen module, and the gates of a text.

// A table of numbers as coloured cells; negative ones have the other colour.
const heat = (figure, {title, rows, columns, values, pick = null, chosen = null}) => {
  const all_values = values.flat().filter(value => value !== null);
  const most = Math.max(...all_values.map(Math.abs), 1e-30);
  const left = Math.min(150, 8 + 7 * Math.max(...rows.map(name => name.length)));
  const width = Math.max(240, figure.clientWidth), cell = Math.min(40, (width - left) / columns.length);
  const height = rows.length === columns.length ? cell : Math.max(18, Math.min(26, cell));
  const root = svg("svg", {viewBox: `0 0 ${width} ${rows.length * height + 20}`, role: "img", "aria-label": title});
  const every = Math.ceil(Math.max(...columns.map(name => 7 * name.length + 6)) / cell);
  rows.forEach((name, row) => {
    root.append(svg("text", {x: left - 6, y: (row + 0.5) * height + 4, "text-anchor": "end"}, name.slice(0, 20)));
    columns.forEach((column, at) => {
      const value = values[row][at];
      if (value === null) return;
      const rect = svg("rect", {class: value < 0 ? "cell negative" : "cell", x: left + at * cell, y: row * height,
        width: Math.max(1, cell - 1), height: height - 1, "fill-opacity": (0.06 + 0.94 * Math.abs(value) / most).toFixed(3)},
      svg("title", {}, `${name}, ${column}: ${short(value)}`));
      if (pick) rect.addEventListener("click", () => pick(row, at));
      root.append(rect);
    });
  });
  columns.forEach((name, at) => {
    if (at % every === 0) root.append(svg("text", {x: left + (at + 0.5) * cell, y: rows.length * height + 15,
      "text-anchor": "middle"}, name));
  });
  if (chosen) root.append(svg("rect", {class: "chosen", x: left + chosen[1] * cell, y: chosen[0] * height,
    width: Math.max(1, cell - 1), height: height - 1}));
  const bounds = all_values.length ? `${short(Math.min(...all_values))} to ${short(Math.max(...all_values))}` : "no values";
  figure.replaceChildren(make("figcaption", {}, title, make("span", {}, bounds)), root);
};

// An empty chart with its axes, and the functions that place a value in it.
const chart = (figure, title, note, [x0, x1], [y0, y1], height = 150) => {
  const width = Math.max(240, figure.clientWidth), [left, right, top, bottom] = [52, 10, 8, 24];
  const x = value => left + (value - x0) / (x1 - x0 || 1) * (width - left - right);
  const y = value => height - bottom - (value - y0) / (y1 - y0 || 1) * (height - top - bottom);
  const root = svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title});
  for (const [value, text] of ticks(y0, y1, 3)) root.append(
    svg("line", {class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value)}),
    svg("text", {x: left - 6, y: y(value) + 4, "text-anchor": "end"}, text));
  for (const [value, text] of ticks(x0, x1, width / 90)) root.append(
    svg("text", {x: Math.min(x(value), width - 4 * text.length), y: height - 6, "text-anchor": "middle"}, text));
  figure.replaceChildren(make("figcaption", {}, title, make("span", {}, note)), root);
  return {root, x, y};
};

const adapter = async () => {
  const data = await unpack(find("#adapter-data")), layer = find("#layer"), kinds = all("[name=kind]");
  const pictures = find(".pictures"), layers = data.layers.map(String), gates = data.gates;
  const picture = () => pictures.appendChild(make("figure", {className: "drawn"}));
  const has = name => data[name].some(row => row.some(one => one !== null));
  const shown = {
    singular: has("singular") && picture(),
    A: has("functions") && picture(),
    B: has("functions") && picture(),
    changes: data.changes.length > 0 && picture(),
    energies: data.energies.length > 0 && picture(),
    similarities: data.similarities.map(picture),
  };
  const kind = () => Number(find("[name=kind]:checked").value);
  const at = table => table[kind()][Number(layer.value)];
  const pick = (row, column) => {
    kinds[row].checked = true;
    layer.value = column;
    draw();
  };

  const drawSingular = () => {
    const values = at(data.singular) ?? [];
    const {root, x, y} = chart(shown.singular, "singular values", `${values.length} of them`,
      [0.5, values.length + 0.5], [0, Math.max(...values, 1e-30) * 1.04]);
    values.forEach((value, number) => root.append(svg("rect", {class: "bar", x: x(number + 0.6), y: y(value),
      width: Math.max(1, x(0.8) - x(0)), height: Math.max(0, y(0) - y(value))}, svg("title", {}, short(value)))));
  };

  const drawFunctions = matrix => {
    const one = at(data.functions)?.[matrix];
    if (!one) return shown[matrix].replaceChildren(make("figcaption", {}, `functions of ${matrix}: not kept for this module`));
    const bounds = range(one.functions.flat());
    const {root, x, y} = chart(shown[matrix], `functions of ${matrix} over the latent line`,
      `${one.functions.length} rows, first group`, [one.latent[0], one.latent.at(-1)], bounds);
    const cells = (tag, ...texts) => texts.map(value => make(tag, {}, value));
    find(`.values-of-${matrix} table`).replaceChildren(
      make("thead", {}, make("tr", {}, ...cells("th", "latent", ...one.functions.map((_, row) => String(row + 1))))),
      make("tbody", {}, ...one.latent.map((point, place) => make("tr", {}, make("th", {scope: "row"}, short(point)),
        ...cells("td", ...one.functions.map(values => short(values[place])))))));
    for (const values of one.functions) root.append(svg("path", {class: "main thin",
      d: values.map((value, place) => `${place ? "L" : "M"}${x(one.latent[place]).toFixed(1)} ${y(value).toFixed(1)}`).join("")}));
  };

  const drawChanges = () => {
    const chosen = at(data.modules);
    const bounds = column => [0, Math.max(...data.changes.map(row => row[column]), 1e-9) * 1.06];
    const {root, x, y} = chart(shown.changes, "change of direction (up) against magnitude (across)",
      "a dot for each module", bounds(1), bounds(2));
    for (const [name, magnitude, direction] of data.changes) root.append(
      svg("circle", {class: name === chosen ? "points" : "raw-dot", cx: x(magnitude), cy: y(direction), r: name === chosen ? 5 : 3},
        svg("title", {}, `${name}: magnitude ${short(magnitude)}, direction ${short(direction)}`)));
  };

  const drawTensors = () => {
    if (shown.energies) {
      const most = Math.max(...data.energies.map(one => one.energy.length));
      heat(shown.energies, {title: "energy by direction of each mode", rows: data.energies.map(one => one.mode),
        columns: Array.from({length: most}, (_, number) => String(number + 1)),
        values: data.energies.map(one => Array.from({length: most}, (_, number) => one.energy[number] ?? null))});
    }
    data.similarities.forEach((one, number) =>
      heat(shown.similarities[number], {title: one.title, rows: one.names, columns: one.names, values: one.values}));
  };

  const gate = token => direction.value === "mean" ? token.reduce((sum, one) => sum + one, 0) / token.length
    : token[Number(direction.value)];
  const text = find("#text"), direction = find("#direction");

  const drawTokens = () => {
    const one = gates.texts[Number(text.value)], values = at(one.values)?.map(gate) ?? [];
    const logs = values.map(value => Math.log(Math.max(value, 1e-4))), most = Math.max(0.05, ...logs.map(Math.abs));
    find("#tokens").replaceChildren(...one.tokens.flatMap((token, number) => {
      const word = make("span", {}, token.replace(/\n/g, "⏎"));
      const box = make("span", {className: logs[number] < 0 ? "token below" : "token"}, word,
        make("small", {}, values.length ? values[number].toPrecision(3) : "–"));
      word.style.setProperty("--part", `${Math.round(45 * Math.abs(logs[number] ?? 0) / most)}%`);
      return token.endsWith("\n") ? [box, make("br")] : [box];
    }));
    find(".scale-of-gates").replaceChildren(
      make("span", {className: "key-cell"}), "gate above one, the direction counts more than in a LoRA; ",
      make("span", {className: "key-cell below"}), "below one, less. The number under each token is its gate",
      direction.value === "mean" ? ", the mean over the directions." : ".");
  };

  const drawSpread = () => {
    const figure = find(".spread"), table = find(".gate-values table"), one = at(gates.statistics);
    find(".gate-values").hidden = !one;
    if (!one) return figure.replaceChildren(make("figcaption", {}, "this module has no gate"));
    const values = [...one.quantiles.flat(), ...one.mean], low = Math.min(...values, 1), high = Math.max(...values, 1);
    const scale = low > 0 ? Math.log : value => value, row = 18, width = Math.max(240, figure.clientWidth), left = 52;
    const x = value => left + (scale(value) - scale(low)) / (scale(high) - scale(low) || 1) * (width - left - 10);
    const height = row * one.mean.length + 26;
    const root = svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "the gates' distribution over tokens by direction"});
    const marks = low > 0 ? [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20].filter(value => value >= low && value <= high)
      : ticks(low, high, 5).map(([value]) => value);
    for (const value of marks) root.append(
      svg("line", {class: value === 1 ? "one" : "grid", x1: x(value), x2: x(value), y1: 0, y2: height - 22}),
      svg("text", {x: Math.min(x(value), width - 12), y: height - 6, "text-anchor": "middle"}, short(value)));
    one.mean.forEach((mean, number) => {
      const y = row * (number + 0.5), [q5, q25, q50, q75, q95] = one.quantiles[number].map(x);
      const band = svg("g", {class: String(number) === direction.value ? "direction picked" : "direction"},
        svg("rect", {class: "row", x: 0, y: row * number, width, height: row}),
        svg("text", {x: left - 8, y: y + 4, "text-anchor": "end"}, String(number + 1)),
        svg("line", {class: "whisker", x1: q5, x2: q95, y1: y, y2: y}),
        svg("rect", {class: "bar", x: q25, y: y - 4, width: Math.max(1, q75 - q25), height: 8}),
        svg("line", {class: "median", x1: q50, x2: q50, y1: y - 6, y2: y + 6}),
        svg("circle", {class: "mean", cx: x(mean), cy: y, r: 3}));
      band.addEventListener("click", () => { direction.value = String(number); draw(); });
      root.append(band);
    });
    figure.replaceChildren(make("figcaption", {}, "distribution of the gate over tokens, by direction",
      make("span", {}, "line 5 to 95 %, bar 25 to 75 %, tick median, dot mean")), root);
    const cells = (tag, values) => values.map(value => make(tag, {}, value));
    table.replaceChildren(
      make("thead", {}, make("tr", {}, ...cells("th", ["direction", "mean", "deviation", "5 %", "25 %", "median", "75 %", "95 %"]))),
      make("tbody", {}, ...one.mean.map((mean, number) => make("tr", {}, make("th", {scope: "row"}, String(number + 1)),
        ...cells("td", [mean, one.deviation[number], ...one.quantiles[number]].map(short))))));
  };

  const draw = () => {
    const chosen = data.quantities[Number(find("[name=quantity]:checked").value)];
    heat(find(".heat"), {title: `${chosen.title}, by layer`, rows: data.kinds, columns: layers, values: chosen.values,
      pick, chosen: [kind(), Number(layer.value)]});
    const facts = data.quantities.filter(one => at(one.values) !== null).map(one =>
      `${one.title} ${short(at(one.values))}${one.title === "effective rank" && at(data.ranks) ? ` of ${at(data.ranks)}` : ""}`);
    find("#place").textContent = at(data.modules) === null ? "no update here" : [at(data.modules), ...facts].join(" · ");
    layer.setAttribute("aria-valuetext", `layer ${layers[Number(layer.value)]}, ${find("#place").textContent}`);
    if (shown.singular) drawSingular();
    if (shown.A) ["A", "B"].forEach(drawFunctions);
    if (shown.changes) drawChanges();
    drawTensors();
    if (text) {
      drawTokens();
      drawSpread();
    }
  };

  // Begin where the update is largest.
  const first = data.quantities[0].values;
  const largest = first.flatMap((row, r) => row.map((value, c) => [value ?? -1, r, c])).sort((a, b) => b[0] - a[0])[0];
  if (text) {
    const r = Math.max(...gates.statistics.flat().map(one => one?.mean.length ?? 0));
    direction.append(make("option", {value: "mean"}, "mean of all"),
      ...Array.from({length: r}, (_, number) => make("option", {value: String(number)}, String(number + 1))));
    [text, direction].forEach(select => select.addEventListener("change", draw));
  }
  [...kinds, ...all("[name=quantity]")].forEach(input => input.addEventListener("change", draw));
  layer.addEventListener("input", draw);
  all("#adapter .controls").forEach(controls => { controls.hidden = false; });
  pick(largest[1], largest[2]);
  let width = find("#adapter").clientWidth;
  new ResizeObserver(() => {
    if (find("#adapter").clientWidth !== width) {
      width = find("#adapter").clientWidth;
      draw();
    }
  }).observe(find("#adapter"));
};

// Drawn when it is about to be seen.
if (find("#adapter-data") && find("#layer")) {
  const near = new IntersectionObserver(entries => {
    if (entries.some(entry => entry.isIntersecting)) {
      near.disconnect();
      adapter();
    }
  }, {rootMargin: "600px"});
  near.observe(find("#adapter"));
}
