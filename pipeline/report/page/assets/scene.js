/* The model section of a report page: COLMAP models in 3D, their photographs, charts and tables.
 *
 *   eloftrScene(container, data)            data of pipeline/report/page/scene.py
 *   eloftrModelComparison(container, data)  data of pipeline/report/page/compare.py
 *
 * It needs the global Plotly (strict build) and scene.css. It is made for a strict Content-Security-
 * Policy: no network, no eval, no inline handlers. Names of files are not trusted: they only become
 * text nodes, and Plotly, which reads tags in its texts, is never given one.
 */
(function () {
  "use strict";

  const ARRAYS = { f4: Float32Array, u1: Uint8Array, u2: Uint16Array, i2: Int16Array, i4: Int32Array };
  const RANGE = 4; // radii to each side of the middle that the view holds; what is farther is cut off
  const FIRST = [-0.33, -0.86, 0.39]; // where the first view is taken from, seen from the middle
  const HALF = Math.tan(Math.PI / 8); // of Plotly's field of view, which is 45° high
  const TURN = Math.PI / 24; // of the view by one press of an arrow key
  const ROWS = 50; // of a table before all are asked for
  const NAMED = 24; // images that a chart has room to name
  const SVG = "http://www.w3.org/2000/svg";
  const QUIET = { displayModeBar: false, responsive: true };
  // Points of cividis (Nuñez, Anderton, Renslow 2018) and viridis, for whatever sight a reader has.
  const CIVIDIS = ["#00224e", "#35456c", "#666970", "#948e77", "#c8b866", "#fee838"];
  const VIRIDIS = ["#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725"];

  /* ---------- elements ---------- */

  function el(tag, properties, ...children) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(properties || {})) {
      if (key === "class") made.className = value;
      else if (key === "text") made.textContent = value;
      else if (key in made && key !== "list" && key !== "form") made[key] = value;
      else made.setAttribute(key, value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  function svg(tag, attributes) {
    const made = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  function unpack(packed) {
    const text = atob(packed.base64);
    const bytes = new Uint8Array(text.length);
    for (let k = 0; k < text.length; k++) bytes[k] = text.charCodeAt(k);
    return new ARRAYS[packed.type](bytes.buffer);
  }

  const whole = (value) => Number(value).toLocaleString("en-US");
  const missing = (value) => value === null || value === undefined || Number.isNaN(value);

  function short(value, digits = 3) {
    if (missing(value)) return "–";
    if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return value.toExponential(digits - 1);
    return String(Number(value.toPrecision(Math.max(digits, Math.trunc(Math.log10(Math.abs(value) || 1)) + 1))));
  }

  /** The end of a name, in which names of one folder differ. */
  const tail = (name) => (name.length > 18 ? `…${name.slice(-17)}` : name);
  const px = (value) => (missing(value) ? "–" : `${value.toFixed(value < 10 ? 2 : 1)} px`);

  function quantile(values, share) {
    const sorted = Float64Array.from(values).sort();
    return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] : 0;
  }

  function facts(pairs) {
    const list = el("dl", { class: "es-facts" });
    for (const [name, value, more] of pairs) {
      list.append(el("div", {}, el("dt", { text: name }), el("dd", { text: value, title: more || "" })));
    }
    return list;
  }

  function card(title, text, ...children) {
    return el("div", { class: "es-card" },
      el("header", {}, el("h3", { text: title }), text ? el("p", { text }) : null), ...children);
  }

  function labelled(text, control) {
    return el("label", { class: "es-field" }, el("span", { text }), control);
  }

  function choice(options, chosen, changed, label) {
    const select = el("select", { "aria-label": label });
    for (const [value, text] of options) select.append(el("option", { value, text }));
    select.value = chosen;
    select.addEventListener("change", () => changed(select.value));
    return select;
  }

  function slider(low, high, step, value, changed, label) {
    const input = el("input", { type: "range", min: low, max: high, step, "aria-label": label });
    input.value = value;
    input.addEventListener("input", () => changed(Number(input.value)));
    return input;
  }

  function button(text, label, pressed) {
    const made = el("button", { type: "button", text, title: label });
    if (text.length === 1) made.setAttribute("aria-label", label); // a sign is no name
    made.addEventListener("click", pressed);
    return made;
  }

  /* ---------- colours of the page ---------- */

  function theme(root) {
    const style = getComputedStyle(root);
    const read = (name) => style.getPropertyValue(name).trim();
    return {
      ink: read("--es-ink"), muted: read("--es-muted"), line: read("--es-line"), ground: read("--es-ground"),
      accent: read("--es-accent"), camera: read("--es-camera"), chosen: read("--es-chosen"),
    };
  }

  function whenThemeChanges(redraw) {
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    new MutationObserver(redraw).observe(document.documentElement, {
      attributes: true, attributeFilter: ["class", "data-theme", "style"],
    });
  }

  function steps(colours) {
    return colours.map((colour, k) => [k / (colours.length - 1), colour]);
  }

  /* ---------- plots ---------- */

  const webgl = (function () {
    const canvas = document.createElement("canvas");
    return Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));
  })();

  function flatLayout(colours, x, y, extra) {
    const axis = (title) => ({
      title: { text: title, font: { size: 12 }, standoff: 6 }, color: colours.muted, gridcolor: colours.line,
      linecolor: colours.line, zeroline: false, fixedrange: true, automargin: true, ...((extra || {})[title] || {}),
    });
    return {
      margin: { l: 46, r: 10, t: 8, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "inherit", size: 12, color: colours.muted }, showlegend: false, bargap: 0.15, hovermode: "closest",
      xaxis: axis(x), yaxis: axis(y), dragmode: false,
    };
  }

  /* A text that follows the pointer: Plotly's own labels would read tags in a name. */
  function tip(host) {
    const box = el("div", { class: "es-tip", hidden: true });
    host.append(box);
    let x = 0, y = 0;
    host.addEventListener("pointermove", (event) => {
      const frame = host.getBoundingClientRect();
      [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
    }, { capture: true });
    return {
      show(lines) {
        const frame = host.getBoundingClientRect();
        box.replaceChildren(...lines.map((text, k) => el(k ? "span" : "strong", { text })));
        box.hidden = false;
        box.style.left = `${Math.max(4, Math.min(x + 14, frame.width - box.offsetWidth - 8))}px`;
        box.style.top = `${Math.max(4, Math.min(y + 14, frame.height - box.offsetHeight - 8))}px`;
      },
      hide() { box.hidden = true; },
    };
  }

  /* A plot whose points a reader can point at and choose. told(point) gives lines, or null. */
  function plot(host, make, told, chosen) {
    const area = el("div", { class: "es-plot" });
    host.append(area);
    const label = tip(host);
    let drawn = false, waits = false;
    // What is asked for several times before the next frame is drawn once.
    const later = () => {
      if (!waits) requestAnimationFrame(() => { waits = false; draw(); });
      waits = true;
    };
    const draw = () => {
      const made = make();
      Plotly.react(area, made.traces, made.layout, QUIET);
      if (drawn) return;
      drawn = true;
      let under = null, tapped = -1e9;
      area.on("plotly_hover", (found) => {
        [under] = found.points;
        const lines = told && told(under);
        if (lines) label.show(lines);
        if (chosen && performance.now() - tapped < 600) chosen(under);
      });
      area.on("plotly_unhover", () => { under = null; label.hide(); });
      if (!chosen) return;
      area.on("plotly_click", (found) => chosen(found.points[0]));
      // Plotly's 3D view looks at the mouse once a frame: it misses a click that is shorter, and of
      // a tap it knows only afterwards what lies there.
      let from = null;
      area.addEventListener("pointerdown", (event) => { from = event; }, { capture: true });
      area.addEventListener("pointerup", (event) => {
        if (!from || Math.hypot(event.clientX - from.clientX, event.clientY - from.clientY) > 5) return;
        if (under) chosen(under);
        else tapped = performance.now();
      }, { capture: true });
    };
    return { area, draw, later };
  }

  /* The camera of Plotly that sees most of some points (flat x, y, z) from the direction FIRST. */
  function fitted(points, radius, aspect) {
    const [x, y, z] = FIRST, level = Math.hypot(x, y), length = Math.hypot(x, y, z);
    const right = [-y / level, x / level, 0], ahead = [-x, -y, -z].map((value) => value / length);
    const up = [-z * x / level, -z * y / level, level].map((value) => value / length);
    const dot = (axis, k) => (axis[0] * points[k] + axis[1] * points[k + 1] + axis[2] * points[k + 2]) / radius;
    const u = [], v = [], w = [];
    for (let k = 0; k < points.length; k += 3) { u.push(dot(right, k)); v.push(dot(up, k)); w.push(dot(ahead, k)); }
    let far = 2, across = 0, above = 0;
    const middle = (values) => 0.5 * (quantile(values, 0.01) + quantile(values, 0.99));
    for (let round = 0; round < 6 && u.length; round++) {
      const depth = w.map((value) => Math.max(far + value, 0.05));
      across += far * middle(u.map((value, k) => (value - across) / depth[k]));
      above += far * middle(v.map((value, k) => (value - above) / depth[k]));
      const needed = u.map((value, k) => Math.max(Math.abs(value - across) / aspect, Math.abs(v[k] - above)) / (0.88 * HALF) - w[k]);
      far = Math.max(quantile(needed, 0.985), 0.1);
    }
    const center = [0, 1, 2].map((axis) => across * right[axis] + above * up[axis]);
    const place = (at) => ({ x: at[0], y: at[1], z: at[2] });
    return { eye: place(center.map((value, axis) => value - far * ahead[axis])), center: place(center) };
  }

  /* ---------- the 3D view: turned by mouse, touch and keys ---------- */

  /* seen(): the points, flat x, y, z, that the first view should hold, and the radius of the scene. */
  const stills = []; // of the views in 3D: each paints its picture anew
  // Browsers print no WebGL. common.js listens before this, and draws what was not yet seen.
  addEventListener("beforeprint", () => stills.forEach((paint) => paint()));

  function space(host, label, make, seen, told, chosen) {
    host.classList.add("es-space");
    if (!webgl) {
      host.append(el("p", { class: "es-empty", text: "This browser shows no 3D graphics (WebGL); the tables and charts hold the same numbers." }));
      return { draw() {}, later() {}, look() {}, first() {} };
    }
    // The layout knows nothing of a wheel's turn, so the view itself of this very Plotly is asked.
    const camera = () => area._fullLayout.scene._scene.getCamera();
    const view = plot(host, () => {
      const made = make();
      if (area._fullLayout) made.layout.scene.camera = camera();
      return made;
    }, told, chosen);
    const area = view.area;
    Object.assign(area, { tabIndex: 0 });
    area.setAttribute("role", "application");
    area.setAttribute("aria-label", label);
    const look = (eye, center) => Plotly.relayout(area, {
      "scene.camera": { eye, center, up: { x: 0, y: 0, z: 1 } },
    });
    const first = () => {
      const { points, radius } = seen(), { eye, center } = fitted(points, radius, area.clientWidth / Math.max(area.clientHeight, 1));
      look(eye, center);
    };
    const turn = (around, above, nearer) => {
      const { eye, center } = camera();
      const x = eye.x - center.x, y = eye.y - center.y, z = eye.z - center.z;
      const far = Math.hypot(x, y, z) * nearer;
      const angle = Math.atan2(y, x) + around;
      const height = Math.max(-1.5, Math.min(1.5, Math.asin(z / Math.hypot(x, y, z)) + above));
      look({
        x: center.x + far * Math.cos(height) * Math.cos(angle),
        y: center.y + far * Math.cos(height) * Math.sin(angle), z: center.z + far * Math.sin(height),
      }, center);
    };
    const keys = {
      ArrowLeft: () => turn(-TURN, 0, 1), ArrowRight: () => turn(TURN, 0, 1), ArrowUp: () => turn(0, TURN, 1),
      ArrowDown: () => turn(0, -TURN, 1), "+": () => turn(0, 0, 0.85), "=": () => turn(0, 0, 0.85),
      "-": () => turn(0, 0, 1 / 0.85), 0: first,
    };
    area.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
      event.preventDefault();
      keys[event.key]();
    });
    // The page scrolls past a view that nobody has clicked.
    area.addEventListener("pointerdown", () => area.focus({ preventScroll: true }));
    area.addEventListener("wheel", (event) => {
      if (document.activeElement !== area) event.stopPropagation();
    }, { capture: true, passive: true });
    const still = el("canvas", { class: "es-still", "aria-hidden": "true" });
    stills.push(() => {
      const plotted = area._fullLayout.scene._scene.glplot;
      plotted.redraw(); // what WebGL drew is there until the browser shows it
      Object.assign(still, { width: plotted.canvas.width, height: plotted.canvas.height });
      still.getContext("2d").drawImage(plotted.canvas, 0, 0);
    });
    host.append(still, el("div", { class: "es-zoom" },
      button("+", "Nearer", () => turn(0, 0, 0.8)), button("−", "Farther", () => turn(0, 0, 1.25)),
      button("⟲", "The first view", first)));
    return { draw: view.draw, later: view.later, look, first };
  }

  function spaceLayout(colours, radius) {
    const axis = { visible: false, showspikes: false, range: [-RANGE * radius, RANGE * radius], autorange: false };
    const side = 2 * RANGE;
    return {
      margin: { l: 0, r: 0, t: 0, b: 0 }, paper_bgcolor: "rgba(0,0,0,0)", showlegend: false,
      font: { family: "inherit", size: 11, color: colours.muted }, hovermode: "closest",
      scene: {
        xaxis: axis, yaxis: axis, zaxis: axis, aspectmode: "manual", aspectratio: { x: side, y: side, z: side },
        bgcolor: colours.ground, dragmode: "turntable",
        camera: { up: { x: 0, y: 0, z: 1 } },
      },
    };
  }

  /* ---------- tables ---------- */

  /* columns: title, value(row) to sort by, text(row); number: right-aligned. rows: indices. */
  function table(columns, rows, options) {
    let sorted = options.sort ?? 0, down = options.down ?? false, all = false, wanted = "";
    const body = el("tbody"), heads = el("tr"), box = el("div", { class: "es-table" });
    const more = button("", "Show all rows", () => { all = true; fill(); });
    const shown = new Map();
    const filter = el("input", { type: "search", placeholder: "Filter by name", "aria-label": "Filter by name" });
    filter.addEventListener("input", () => { wanted = filter.value.toLowerCase(); fill(); });
    columns.forEach((column, k) => {
      const press = button(column.title, column.about || `Sort by ${column.title.toLowerCase()}`, () => {
        down = sorted === k ? !down : Boolean(column.number);
        sorted = k;
        fill();
      });
      heads.append(el("th", { scope: "col", class: column.number ? "es-number" : "" }, press));
    });
    function order(a, b) {
      const { value } = columns[sorted];
      const x = value(a), y = value(b);
      if (missing(x) || missing(y)) return missing(x) - missing(y);
      const less = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
      return down ? -less : less;
    }
    function fill() {
      [...heads.children].forEach((head, k) => {
        head.setAttribute("aria-sort", k === sorted ? (down ? "descending" : "ascending") : "none");
      });
      const found = rows.filter((row) => !wanted || options.name(row).toLowerCase().includes(wanted)).sort(order);
      const some = all ? found : found.slice(0, ROWS);
      shown.clear();
      body.replaceChildren(...some.map((row) => {
        const cells = columns.map((column, k) => {
          const cell = el(k ? "td" : "th", { class: column.number ? "es-number" : "" });
          if (!k) cell.scope = "row";
          if (!k && options.chosen) {
            const press = el("button", { type: "button", text: column.text(row), class: "es-link" });
            press.addEventListener("click", () => options.chosen(row));
            cell.append(press);
          } else cell.textContent = column.text(row);
          return cell;
        });
        const line = el("tr", {}, ...cells);
        shown.set(row, line);
        return line;
      }));
      more.textContent = `Show all ${whole(found.length)}`;
      more.hidden = some.length === found.length;
      mark(marked);
    }
    let marked = null;
    function mark(row) {
      marked = row;
      for (const [other, line] of shown) line.classList.toggle("es-chosen", other === row);
    }
    box.append(el("div", { class: "es-scroll", tabIndex: 0, role: "region", "aria-label": options.label },
      el("table", {}, el("thead", {}, heads), body)), more);
    fill();
    return { node: rows.length > 12 ? el("div", {}, filter, box) : box, mark };
  }

  /* ---------- a model ---------- */

  const COLOURS = [
    ["colour", "Photographs"], ["error", "Residual"], ["length", "Track length"], ["block", "Block"],
  ];

  function unpacked(model) {
    if (model.ready) return model.ready;
    const { shown, views, seen } = model;
    model.ready = {
      xyz: unpack(shown.xyz), rgb: unpack(shown.colour), error: unpack(shown.error), length: unpack(shown.length),
      block: unpack(shown.block), centre: unpack(views.centre), corners: unpack(views.corners),
      start: unpack(seen.start), at: unpack(seen.xy), off: unpack(seen.residual),
    };
    const { ready } = model;
    ready.count = ready.error.length;
    ready.points = Object.fromEntries(["x", "y", "z"].map((axis, k) => [axis, column(ready.xyz, k)]));
    ready.coloured = {};
    return model.ready;
  }

  const column = (flat, axis) => {
    const made = new Float32Array(flat.length / 3);
    for (let k = 0; k < made.length; k++) made[k] = flat[3 * k + axis];
    return made;
  };

  /* The edges of cameras as polylines: the picture with a mark at its top, and the sight lines. */
  function frusta(ready, rows, size) {
    const x = [], y = [], z = [], of = [];
    const add = (row, point) => { x.push(point[0]); y.push(point[1]); z.push(point[2]); of.push(row); };
    for (const row of rows) {
      const c = [0, 1, 2].map((axis) => ready.centre[3 * row + axis]);
      const at = (corner) => [0, 1, 2].map((axis) => c[axis] + size * ready.corners[12 * row + 3 * corner + axis]);
      const [a, b, d, e] = [0, 1, 2, 3].map(at);
      const roof = [0, 1, 2].map((axis) => 0.5 * (a[axis] + b[axis]) + 0.22 * (a[axis] - e[axis]));
      for (const line of [[a, b, d, e, a, c, b], [d, c, e], [a, roof, b]]) {
        for (const point of line) add(row, point);
        add(row, [null, null, null]);
      }
    }
    return { x, y, z, of };
  }

  /* What the first view should hold: cameras, and about as many points, so that both count. */
  function viewed(model) {
    const ready = unpacked(model), made = [];
    const some = (flat, most) => {
      const step = Math.max(1, Math.floor(flat.length / 3 / most));
      for (let k = 0; k < flat.length / 3; k += step) made.push(flat[3 * k], flat[3 * k + 1], flat[3 * k + 2]);
    };
    some(ready.centre, 1000);
    const cameras = made.slice();
    some(ready.xyz, 2000);
    const points = (made.length - cameras.length) / 3;
    for (let k = 1; k < Math.min(points / Math.max(cameras.length / 3, 1), 200); k++) made.push(...cameras);
    return made;
  }

  function pointColours(model, by, colours) {
    const ready = unpacked(model), n = ready.count;
    if (by === "colour") {
      ready.coloured.colour ??= { color: Array.from({ length: n }, (_, k) => `rgb(${ready.rgb[3 * k]},${ready.rgb[3 * k + 1]},${ready.rgb[3 * k + 2]})`) };
      return ready.coloured.colour;
    }
    if (by === "block") return { color: Array.from(ready.block, (number) => model.blocks[number] || colours.muted) };
    const residual = by === "error";
    const values = residual ? Float32Array.from(ready.error, (value) => value / model.seen.steps) : Float32Array.from(ready.length);
    return {
      color: values, colorscale: steps(residual ? CIVIDIS : VIRIDIS), cmin: residual ? 0 : 2,
      cmax: Math.max(quantile(values, 0.97), residual ? 0.01 : 3), showscale: true,
      colorbar: {
        title: { text: residual ? "px" : "images", side: "top" }, thickness: 10, len: 0.5, x: 0.99, xanchor: "right", y: 0.98,
        yanchor: "top", outlinewidth: 0, tickcolor: colours.muted, nticks: 5, bgcolor: "rgba(0,0,0,0)",
      },
    };
  }

  function sceneTraces(state, colours) {
    const { model } = state, ready = unpacked(model);
    const rows = Array.from({ length: model.images }, (_, row) => row);
    const size = model.frustum * state.frustum;
    const byBlock = state.by === "block";
    const lines = frusta(ready, rows, size);
    const ofBlock = (row) => model.blocks[model.views.block[row]] || colours.muted;
    const quiet = { type: "scatter3d", hoverinfo: "none", showlegend: false };
    const traces = [
      {
        ...quiet, name: "points", mode: "markers", hoverinfo: "skip", ...ready.points,
        marker: { size: state.size, opacity: 1, line: { width: 0 }, ...pointColours(model, state.by, colours) },
      },
      {
        ...quiet, name: "frusta", mode: "lines", hoverinfo: "skip", x: lines.x, y: lines.y, z: lines.z, connectgaps: false,
        visible: state.cameras, line: { width: 1.5, color: byBlock ? lines.of.map(ofBlock) : colours.camera },
      },
      {
        ...quiet, name: "cameras", mode: "markers", visible: state.cameras, x: column(ready.centre, 0), y: column(ready.centre, 1),
        z: column(ready.centre, 2), marker: { size: model.images > 200 ? 2.5 : 4, color: byBlock ? rows.map(ofBlock) : colours.camera, line: { width: 0 } },
      },
    ];
    if (state.chosen !== null) {
      const one = frusta(ready, [state.chosen], 1.6 * size), row = 3 * state.chosen;
      traces.push({ ...quiet, name: "chosen", mode: "lines", hoverinfo: "skip", x: one.x, y: one.y, z: one.z, line: { width: 5, color: colours.chosen } });
      traces.push({
        ...quiet, name: "chosen", mode: "markers", hoverinfo: "skip", x: [ready.centre[row]], y: [ready.centre[row + 1]],
        z: [ready.centre[row + 2]], marker: { size: 7, color: colours.chosen, line: { width: 0 } },
      });
    }
    return traces;
  }

  /* A photograph with the points that it sees and their residuals, longer by a round factor. */
  function photograph(model, row, uri) {
    const ready = unpacked(model), [width, height] = model.views.size[row];
    const name = model.views.name[row];
    const figure = el("figure", { class: "es-photo" });
    const frame = el("div", { class: uri ? "es-frame" : "es-frame es-blank" });
    frame.style.aspectRatio = `${width} / ${height}`;
    frame.style.maxWidth = `min(100%, ${(26 * width / height).toFixed(3)}rem)`;
    if (uri) frame.append(el("img", { src: uri, alt: `The photograph ${name}` }));
    const from = ready.start[row], to = ready.start[row + 1];
    const lengths = [];
    for (let k = from; k < to; k++) lengths.push(Math.hypot(ready.off[2 * k], ready.off[2 * k + 1]) / model.seen.steps);
    const unit = Math.max(width, height) / 320; // pixels of the photograph in one of the drawing
    const factor = round125(14 * unit / Math.max(quantile(lengths, 0.9), 1e-3));
    const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "es-seen", "aria-hidden": "true" });
    for (let k = from; k < to; k++) {
      const x = ready.at[2 * k] / 65535 * width, y = ready.at[2 * k + 1] / 65535 * height;
      const dx = ready.off[2 * k] / model.seen.steps * factor, dy = ready.off[2 * k + 1] / model.seen.steps * factor;
      drawing.append(svg("line", { x1: x, y1: y, x2: x + dx, y2: y + dy, "stroke-width": 1.3 * unit }));
      drawing.append(svg("circle", { cx: x, cy: y, r: 1.7 * unit, "stroke-width": 0.5 * unit }));
    }
    frame.append(drawing);
    const all = model.views.points[row], drawn = to - from;
    const count = drawn < all ? `${whole(drawn)} of ${whole(all)} points` : `${whole(all)} points`;
    figure.append(frame, el("figcaption", {
      text: `${count}, with their residuals drawn ${factor === 1 ? "as they are" : `${whole(factor)} times as long`}.`
        + (uri ? "" : " The photograph is not in this page."),
    }));
    return figure;
  }

  function round125(value) {
    if (!(value > 1)) return 1;
    const ten = 10 ** Math.floor(Math.log10(value));
    return ten * [5, 2, 1].find((step) => step * ten <= value * 1.0001);
  }

  function cameraFacts(model, row) {
    const { views } = model, camera = views.camera[row];
    const group = model.cameras.find((one) => one.number.includes(camera));
    const list = [
      ["Camera", `${camera}, ${group.model}`], ["Photograph", `${views.size[row].map(whole).join(" × ")} px`],
      ["Points", whole(views.points[row])], ["Median residual", px(views.residual[row])], ["90 % below", px(views.most[row])],
      ["Position", views.place[row].map((value) => short(value, 4)).join(", ")],
    ];
    if (Object.keys(model.blocks).length) list.push(["Block", views.block[row] < 0 ? "none" : String(views.block[row])]);
    return facts(list);
  }

  function modelFacts(model) {
    const cameras = model.cameras.reduce((sum, group) => sum + group.number.length, 0);
    const shown = unpacked(model).count;
    const list = [
      ["Images", whole(model.images)], ["Cameras", whole(cameras)],
      ["Points", whole(model.points), shown < model.points ? `${whole(shown)} of them are drawn, chosen by chance` : ""],
      ["Observations", whole(model.observations)], ["Mean track length", short(model.track_length)],
      ["Mean residual", px(model.error)],
    ];
    if (model.behind) list.push(["Behind their camera", whole(model.behind)]);
    const blocks = Object.keys(model.blocks).filter((number) => number !== "-1").length;
    if (blocks) list.push(["Blocks", whole(blocks)]);
    return facts(list);
  }

  /* Cameras of one model: every parameter, or its spread where there are several cameras. */
  function cameraTable(group) {
    const one = group.number.length === 1;
    const heads = ["Parameter", ...(one ? ["Value"] : ["Least", "Median", "Largest", "Standard deviation"])];
    const rows = group.names.map((name, k) => [
      name, ...(one ? [group.params[0][k]] : [group.least[k], group.median[k], group.largest[k], group.deviation[k]]).map((value) => short(value, 6)),
    ]);
    const head = el("tr", {}, ...heads.map((text, k) => el("th", { text, scope: "col", class: k ? "es-number" : "" })));
    const body = rows.map((cells) => el("tr", {}, ...cells.map((text, k) => el(k ? "td" : "th", { text, class: k ? "es-number" : "" }))));
    const sizes = [...new Set(group.size.map((size) => size.map(whole).join(" × ")))];
    const title = one ? `Camera ${group.number[0]}: ${group.model}` : `${whole(group.number.length)} cameras: ${group.model}`;
    const images = group.images.reduce((sum, count) => sum + count, 0);
    const text = `${sizes.length > 3 ? `${sizes.length} sizes` : sizes.join(", ")} px, ${whole(images)} images`;
    return card(title, text, el("div", { class: "es-scroll", tabIndex: 0, role: "region", "aria-label": title },
      el("table", {}, el("thead", {}, head), el("tbody", {}, ...body))));
  }

  function cameraList(model) {
    const all = model.cameras.flatMap((group) => group.number.map((number, k) => ({
      number, model: group.model, images: group.images[k], focal: group.params[k][0], rest: group.params[k].slice(1),
    })));
    if (all.length < 2) return null;
    const about = table([
      { title: "Camera", number: true, value: (row) => all[row].number, text: (row) => String(all[row].number) },
      { title: "Model", value: (row) => all[row].model, text: (row) => all[row].model },
      { title: "Images", number: true, value: (row) => all[row].images, text: (row) => whole(all[row].images) },
      { title: "Focal length", about: "The first parameter, pixels", number: true, value: (row) => all[row].focal, text: (row) => short(all[row].focal, 6) },
      { title: "Other parameters", value: (row) => all[row].rest[0], text: (row) => all[row].rest.map((value) => short(value, 4)).join(", ") },
    ], all.map((_, row) => row), { label: "Cameras", name: (row) => `${all[row].number} ${all[row].model}` });
    return card("All cameras", "", about.node);
  }

  function trackChart(state, colours) {
    const { tracks, longest } = state.model, last = tracks.length - 1;
    const first = tracks.findIndex((count) => count > 0);
    const x = [], y = [];
    for (let length = Math.max(first, 0); length <= last; length++) { x.push(length); y.push(tracks[length]); }
    const layout = flatLayout(colours, "images that see a point", "points", { "images that see a point": { dtick: last > 24 ? 5 : last > 12 ? 2 : 1, tick0: 0 }, points: Math.max(...y) < 5 ? { dtick: 1, tick0: 0 } : {} });
    return {
      traces: [{ type: "bar", x, y, hoverinfo: "none", marker: { color: colours.accent } }], layout,
      told: (point) => [`${longest > last && point.x === last ? `${last} or more` : point.x} images`, `${whole(point.y)} points`],
    };
  }

  function residualChart(state, colours) {
    const { views } = state.model;
    const rows = state.order, x = rows.map((_, k) => k + 1);
    const height = (values) => rows.map((row) => values[row]);
    const quiet = { hoverinfo: "none", type: "scatter", x };
    const traces = [
      { ...quiet, mode: "markers", y: height(views.most), marker: { size: rows.length > 300 ? 3 : 5, color: colours.muted, opacity: 0.6 } },
      { ...quiet, mode: "markers", y: height(views.residual), marker: { size: rows.length > 300 ? 4 : 6, color: colours.accent } },
    ];
    if (state.chosen !== null) {
      const k = rows.indexOf(state.chosen);
      traces.push({ ...quiet, mode: "markers", hoverinfo: "skip", x: [k + 1], y: [views.residual[state.chosen]], marker: { size: 11, color: colours.chosen } });
    }
    // Plotly reads tags in its texts: a name that has what could be one is given as a number.
    const plain = (row, k) => (/[<>&]/.test(views.name[row]) ? String(k + 1) : tail(views.name[row]));
    const named = rows.length > NAMED ? {} : { tickvals: x, ticktext: rows.map(plain), tickangle: -60, tickfont: { size: 10 } };
    return { traces, layout: flatLayout(colours, "images by name", "px", { px: { rangemode: "tozero" }, "images by name": named }) };
  }

  window.eloftrScene = function (container, data) {
    const root = el("div", { class: "eloftr-scene" });
    container.replaceChildren(root);
    if (!data.models.length) {
      root.append(el("p", { class: "es-empty", text: "There is no model." }));
      return;
    }
    const state = { model: data.models[0], chosen: null, by: "colour", size: 1.5, frustum: 1, cameras: true, order: [] };
    const picker = choice(data.models.map((model, k) => [String(k), `${model.title} · ${whole(model.images)} images`]), "0",
      (k) => open(data.models[Number(k)]), "Model");
    const summary = el("div"), under = el("div", { class: "es-under" }), stage = el("div", { class: "es-stage" });
    const side = el("aside", { class: "es-side", "aria-label": "The chosen camera" });
    const view = el("div"), inner = el("div", { class: "es-chosen-camera", "aria-live": "polite" });
    const names = el("select", { "aria-label": "Camera" });
    const notes = el("ul", { class: "es-notes" });
    const colourBy = el("select", { "aria-label": "Colour of points" });
    colourBy.addEventListener("change", () => { state.by = colourBy.value; scene.later(); });
    const sizes = slider(1, 6, 0.5, state.size, (value) => { state.size = value; scene.later(); }, "Size of points");
    const shows = el("input", { type: "checkbox", checked: true });
    shows.addEventListener("change", () => { state.cameras = shows.checked; scene.later(); });
    const tools = el("div", { class: "es-tools" },
      labelled("Colour points by", colourBy),
      labelled("Points", sizes),
      labelled("Cameras", slider(0.2, 4, 0.1, state.frustum, (value) => { state.frustum = value; scene.later(); }, "Size of cameras")),
      el("label", { class: "es-check" }, shows, el("span", { text: "Show cameras" })));
    const hint = el("p", { class: "es-hint", text: "Drag to turn, right-drag to shift, scroll after a click to zoom. Keys: arrows, +, −, 0. Choose a camera to see its photograph." });
    let images = null, tracks = null, spread = null;

    names.addEventListener("change", () => choose(names.value === "" ? null : Number(names.value)));
    const step = (by) => {
      const k = state.chosen === null ? (by > 0 ? -1 : 0) : state.order.indexOf(state.chosen);
      choose(state.order[(k + by + state.order.length) % state.order.length]);
    };
    const go = el("div", { class: "es-go" }, button("‹", "The camera before", () => step(-1)), names, button("›", "The next camera", () => step(1)));
    side.append(go, inner);
    stage.append(view, side);
    if (data.models.length > 1) root.append(el("div", { class: "es-tools" }, labelled("Model", picker)));
    root.append(summary, ...(webgl ? [tools, stage, hint] : [stage]), notes, under);
    const lines = (row) => {
      const { views } = state.model;
      return [views.name[row], `${whole(views.points[row])} points, ${px(views.residual[row])}`];
    };
    const scene = space(view, "The model in three dimensions. Arrow keys turn it, plus and minus change the distance, 0 shows the first view.", () => {
      const colours = theme(root);
      return { traces: sceneTraces(state, colours), layout: spaceLayout(colours, state.model.radius) };
    }, () => ({ points: viewed(state.model), radius: state.model.radius }), (point) => (point.data.name === "cameras" ? lines(point.pointNumber) : null),
    (point) => { if (point.data.name === "cameras") choose(point.pointNumber); });

    function through(row) {
      const ready = unpacked(state.model), { radius } = state.model;
      const eye = [0, 1, 2].map((axis) => ready.centre[3 * row + axis] / radius);
      const ahead = [0, 1, 2].map((axis) => [0, 1, 2, 3].reduce((sum, k) => sum + ready.corners[12 * row + 3 * k + axis], 0));
      const far = Math.hypot(...ahead), at = (step) => ({
        x: eye[0] + step * ahead[0] / far, y: eye[1] + step * ahead[1] / far, z: eye[2] + step * ahead[2] / far,
      });
      scene.look(at(0), at(0.8));
    }

    function choose(row) {
      if (row !== null && row === state.chosen) return;
      state.chosen = row;
      names.value = row === null ? "" : String(row);
      if (row === null) {
        inner.replaceChildren(el("p", { class: "es-empty", text: "No camera is chosen. Click one in the view, or choose it in the list above or the table below." }));
      } else {
        const { model } = state, name = model.views.name[row];
        const look = button("Look from here", "Move the view to this camera", () => through(row));
        look.className = "es-wide";
        inner.replaceChildren(el("h3", { class: "es-name", text: name }), photograph(model, row, data.photographs[name]), cameraFacts(model, row),
          webgl ? look : "");
      }
      scene.later();
      if (images) images.mark(row);
      if (spread) spread.later();
    }

    function open(model) {
      state.model = model;
      state.chosen = null;
      const { views } = model, blocks = Object.keys(model.blocks).length > 0;
      const rows = views.name.map((_, row) => row);
      state.order = [...rows].sort((a, b) => views.name[a].localeCompare(views.name[b], "en", { numeric: true }));
      if (state.by === "block" && !blocks) state.by = "colour";
      colourBy.replaceChildren(...COLOURS.filter(([by]) => by !== "block" || blocks).map(([value, text]) => el("option", { value, text })));
      colourBy.value = state.by;
      names.replaceChildren(el("option", { value: "", text: "Choose a camera" }),
        ...state.order.map((row) => el("option", { value: String(row), text: views.name[row] })));
      summary.replaceChildren(modelFacts(model));
      const shown = unpacked(model).count;
      state.size = shown > 25000 ? 1.5 : shown > 8000 ? 2 : 2.5;
      sizes.value = state.size;
      const said = shown < model.points ? [`${whole(shown)} of ${whole(model.points)} points are drawn, chosen by chance.`] : [];
      notes.replaceChildren(...[...said, ...data.notes].map((text) => el("li", { text })));

      const of = (values, text, number = true) => ({ number, value: (row) => values[row], text: (row) => text(values[row]) });
      images = table([
        { title: "Image", ...of(views.name, (name) => name, false) }, { title: "Camera", ...of(views.camera, String) },
        { title: "Points", ...of(views.points, whole) }, { title: "Median", about: "Median residual, pixels", ...of(views.residual, px) },
        { title: "90 %", about: "90 % of the residuals are below, pixels", ...of(views.most, px) },
        ...(blocks ? [{ title: "Block", ...of(views.block, (number) => (number < 0 ? "–" : String(number))) }] : []),
      ], rows, {
        label: "Images of the model", name: (row) => views.name[row], sort: 3, down: true,
        chosen: (row) => { choose(row); stage.scrollIntoView({ block: "nearest", behavior: "smooth" }); },
      });
      const left = card("Track lengths", "How many images see a point. Long tracks hold a model together.");
      const right = card("Residuals by image", "Median, and above it the 90th percentile. Click one to see its photograph.");
      let told = null;
      tracks = plot(left, () => { const made = trackChart(state, theme(root)); told = made.told; return made; }, (point) => told(point));
      spread = plot(right, () => residualChart(state, theme(root)),
        (point) => lines(state.order[point.pointNumber]), (point) => choose(state.order[point.pointNumber]));
      under.replaceChildren(left, right, ...[card("Images", "Those with the largest residuals first.", images.node)].map((wide) => {
        wide.classList.add("es-full");
        return wide;
      }), ...model.cameras.map(cameraTable), ...[cameraList(model)].filter(Boolean));
      scene.draw();
      scene.first();
      choose(null);
      tracks.draw();
    }

    open(data.models[0]);
    whenThemeChanges(() => { scene.draw(); tracks.draw(); spread.draw(); });
  };

  /* ---------- two models ---------- */

  window.eloftrModelComparison = function (container, data) {
    const root = el("div", { class: "eloftr-scene" });
    container.replaceChildren(root);
    const rows = data.name.map((_, row) => row), [mine, other] = data.titles;
    let chosen = null;
    const moved = unpack(data.moved), centre = unpack(data.centre);
    root.append(facts([
      ["Images in both", whole(rows.length)], [`Only in “${mine}”`, whole(data.only_in_model.length)],
      [`Only in “${other}”`, whole(data.only_in_reference.length)], ["Scale", short(data.similarity[0], 5)],
      ["Median rotation", `${short(data.rotation.median)}°`], ["Largest rotation", `${short(data.rotation.largest)}°`],
      ["Median position", short(data.position.median)], ["Largest position", short(data.position.largest)],
    ]));
    root.append(el("p", { class: "es-hint", text: `A similarity brings “${mine}” to “${other}” first. Positions are in units of “${other}”, whose cameras are ${short(data.radius)} from their middle in the median.` }));
    const lines = (row) => [data.name[row], `position ${short(data.positions[row])}`, `rotation ${short(data.rotations[row])}°`];
    const off = rows.map((row) => Math.hypot(...[0, 1, 2].map((k) => moved[3 * row + k] - centre[3 * row + k])));
    const factor = round125(0.12 * data.view_radius / Math.max(quantile(off, 0.9), 1e-12));
    const drawn = centre.map((value, k) => value + factor * (moved[k] - value));
    const wide = (values) => quantile(values, 0.99) > 30 * quantile(values, 0.5);
    const scaled = (values) => (wide(values) ? { type: "log", exponentformat: "power" } : { rangemode: "tozero" });
    const dots = card("Differences by image", "After the alignment, in degrees and in units of the reference.");
    const places = card("Where the cameras are", `“${other}” in blue, “${mine}” in orange` + (factor > 1 ? `, with differences drawn ${whole(factor)} times as long.` : "."));
    const body = el("div", { class: "es-under" }, places, dots);
    root.append(body);
    const above = (values) => { const least = Math.min(...values.filter((value) => value > 0)); return values.map((value) => Math.max(value, Number.isFinite(least) ? least : 1e-12)); };
    const chart = plot(dots, () => {
      const colours = theme(root), [x, y] = [data.rotations, data.positions].map((values) => (wide(values) ? above(values) : values));
      const quiet = { type: "scatter", mode: "markers", hoverinfo: "none" };
      const traces = [{ ...quiet, x, y, marker: { size: 7, color: colours.accent, opacity: 0.8 } }];
      if (chosen !== null) traces.push({ ...quiet, hoverinfo: "skip", x: [x[chosen]], y: [y[chosen]], marker: { size: 13, color: colours.chosen } });
      const layout = flatLayout(colours, "rotation, degrees", "position", { "rotation, degrees": scaled(data.rotations), position: scaled(data.positions) });
      return { traces, layout };
    }, (point) => lines(point.pointNumber), (point) => choose(point.pointNumber));
    const view = el("div", { class: "es-small" });
    places.append(view);
    const scene = space(view, "The cameras of both models. Arrow keys turn the view, plus and minus change the distance.", () => {
      const colours = theme(root), quiet = { type: "scatter3d", showlegend: false, hoverinfo: "none" };
      const link = { x: [], y: [], z: [] };
      for (const row of rows) {
        ["x", "y", "z"].forEach((axis, k) => link[axis].push(drawn[3 * row + k], centre[3 * row + k], null));
      }
      const marks = (flat, color, size, name) => ({ ...quiet, name, mode: "markers", x: column(flat, 0), y: column(flat, 1), z: column(flat, 2), marker: { size, color, line: { width: 0 } } });
      const traces = [
        { ...quiet, name: "between", mode: "lines", hoverinfo: "skip", ...link, line: { width: 2, color: colours.muted } },
        marks(centre, colours.accent, 5, "cameras"), marks(drawn, colours.camera, 3.5, "cameras"),
      ];
      if (chosen !== null) traces.push({ ...marks(centre.slice(3 * chosen, 3 * chosen + 3), colours.chosen, 9, "chosen"), hoverinfo: "skip" });
      return { traces, layout: spaceLayout(colours, data.view_radius) };
    }, () => ({ points: [...centre, ...drawn], radius: data.view_radius }), (point) => (point.data.name === "cameras" ? lines(point.pointNumber) : null), (point) => choose(point.pointNumber));
    const list = table([
      { title: "Image", value: (row) => data.name[row], text: (row) => data.name[row] },
      { title: "Position", about: `In units of ${other}`, number: true, value: (row) => data.positions[row], text: (row) => short(data.positions[row]) },
      { title: "Rotation", about: "Degrees", number: true, value: (row) => data.rotations[row], text: (row) => `${short(data.rotations[row])}°` },
    ], rows, { label: "Differences by image", name: (row) => data.name[row], sort: 1, down: true, chosen: (row) => choose(row) });
    const listed = card("Images in both", "Those that lie farthest apart first.", list.node);
    listed.classList.add("es-full");
    places.classList.add("es-tall");
    dots.classList.add("es-tall");
    body.append(listed);
    for (const [title, names] of [[`Only in “${mine}”`, data.only_in_model], [`Only in “${other}”`, data.only_in_reference]]) {
      if (names.length) body.append(card(title, "", el("ul", { class: "es-names" }, ...names.map((text) => el("li", { text })))));
    }
    function choose(row) {
      if (row === chosen) return;
      chosen = row;
      list.mark(row);
      chart.later();
      scene.later();
    }
    const draw = () => { chart.draw(); scene.draw(); };
    draw();
    scene.first();
    whenThemeChanges(draw);
  };
})();
