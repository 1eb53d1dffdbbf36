"use strict";
// The plots of the page, drawn by plotly.js where an element has data-plot.
(() => {
  const { data, colour, whenSeen, whenDark, number } = report;
  const settings = { displayModeBar: false, responsive: true };

  /** An axis of counts, which has no fractions; most: the largest. */
  const counting = (most) => (most < 5 ? { dtick: 1, tick0: 0 } : {});
  const centres = (edges) => edges.slice(1).map((edge, k) => (edge + edges[k]) / 2);

  function histogram(name, axis) {
    const { edges, counts } = data.histograms[name];
    if (!counts.length) return null;
    const last = counts.length - 1;
    const hover = counts.map((count, k) =>
      `${number(edges[k])}${k === last && name !== "ratio" ? " and more" : `–${number(edges[k + 1])}`}: ${number(count)} pairs`);
    const bars = { type: "bar", x: centres(edges), y: counts, width: edges[1] - edges[0], hovertext: hover, hoverinfo: "text", marker: { color: colour("--bar"), line: { width: 0.5, color: colour("--card") } } };
    return { traces: [bars], layout: { xaxis: { title: { text: axis } }, yaxis: { title: { text: "pairs" }, ...counting(Math.max(...counts)) }, bargap: 0 } };
  }

  const plots = {
    inliers: () => histogram("inliers", "inliers"),
    matches: () => histogram("matches", "matches"),
    ratio: () => histogram("ratio", "inliers / matches"),
    angle: () => histogram("angle", "degrees"),
    curve() {
      const points = data.time.curve;
      if (!points.length) return null;
      const far = points[points.length - 1][0];
      const [unit, size] = far > 7200 ? ["hours", 3600] : far > 300 ? ["minutes", 60] : ["seconds", 1];
      const line = { type: "scatter", mode: points.length < 40 ? "lines+markers" : "lines", x: points.map((p) => p[0] / size), y: points.map((p) => p[1]), line: { color: colour("--bar"), width: 2 }, marker: { size: 5 }, hovertemplate: "%{y:,} pairs after %{x:.1f} " + unit + "<extra></extra>" };
      return { traces: [line], layout: { xaxis: { title: { text: unit }, rangemode: "tozero" }, yaxis: { title: { text: "finished pairs" }, rangemode: "tozero", ...counting(points[points.length - 1][1]) } } };
    },
    seconds() {
      const stages = Object.entries(data.time.seconds).reverse();
      if (!stages.length) return null;
      const bars = { type: "bar", orientation: "h", y: stages.map((s) => s[0]), x: stages.map((s) => s[1]), marker: { color: colour("--bar") }, text: stages.map((s) => number(s[1])), textposition: "auto", hoverinfo: "skip" };
      return { traces: [bars], layout: { xaxis: { title: { text: "seconds" } }, yaxis: { automargin: true } } };
    },
    measures() {
      const shades = [colour("--quiet"), colour("--inlier"), colour("--outlier")];
      const symbols = ["circle", "square", "diamond"];
      const traces = Object.entries(data.ranking.measures).map(([label, measures], k) => {
        const values = Object.values(measures);
        return {
          type: "scatter", mode: "markers", name: label, x: Object.keys(measures).map((_, n) => n + (k - 1) * 0.16), y: values.map((m) => 100 * m.mean),
          error_y: { type: "data", symmetric: false, array: values.map((m) => 100 * (m.high - m.mean)), arrayminus: values.map((m) => 100 * (m.mean - m.low)), thickness: 1.5, width: 4 },
          marker: { color: shades[k % 3], symbol: symbols[k % 3], size: 9 }, hovertemplate: "%{y:.1f} %<extra>%{fullData.name}</extra>",
        };
      });
      const names = Object.keys(data.ranking.change);
      return { traces, layout: { showlegend: true, legend: { orientation: "h", y: -0.15 }, xaxis: { tickvals: names.map((_, n) => n), ticktext: names }, yaxis: { title: { text: "per cent" }, range: [0, 102] } } };
    },
    dots() {
      const [a, b] = data.comparison.dots;
      if (!a.length) return null;
      const most = a.concat(b).reduce((x, y) => Math.max(x, y), 1);
      const equal = { type: "scatter", mode: "lines", x: [0, most], y: [0, most], line: { color: colour("--quiet"), dash: "dot", width: 1 }, hoverinfo: "skip" };
      const dots = { type: "scatter", mode: "markers", x: a, y: b, marker: { color: colour("--bar"), size: 5, opacity: 0.6 }, hovertemplate: "A %{x:,}, B %{y:,} inliers<extra></extra>" };
      return { traces: [equal, dots], layout: { xaxis: { title: { text: "inliers in A" }, rangemode: "tozero" }, yaxis: { title: { text: "inliers in B" }, rangemode: "tozero" } } };
    },
  };

  function draw(place) {
    const plot = plots[place.dataset.plot]();
    if (!plot) {
      place.classList.add("empty");
      place.textContent = "There is nothing to show.";
      return;
    }
    const text = colour("--quiet");
    const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), tickfont: { size: 11 }, title: { font: { size: 12 }, standoff: 6 }, fixedrange: true, automargin: true };
    const merged = (own = {}) => ({ ...axis, ...own, title: { ...axis.title, ...(own.title || {}) } });
    const layout = {
      margin: { l: 48, r: 12, t: 8, b: 40 }, paper_bgcolor: "transparent", plot_bgcolor: "transparent",
      font: { family: getComputedStyle(document.body).fontFamily, color: text, size: 12 }, showlegend: false,
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--text") } },
      ...plot.layout, xaxis: merged(plot.layout.xaxis), yaxis: merged(plot.layout.yaxis),
    };
    Plotly.react(place, plot.traces, layout, settings);
    place.dataset.drawn = "yes";
    const caption = place.parentElement.querySelector("figcaption");
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", caption ? caption.textContent : place.dataset.plot);
  }

  const places = [...document.querySelectorAll("[data-plot]")];
  for (const place of places) whenSeen(place, () => draw(place));
  whenDark(() => places.filter((place) => place.dataset.drawn).forEach(draw));
})();
