"use strict";
// The matrix of inliers: a cell is a pair of images, or of groups of them where there are many.
(() => {
  const { data, number, colour, whenDark } = report;
  const canvas = document.getElementById("matrix");
  const said = document.getElementById("matrix-said");
  const choice = document.getElementById("matrix-order");
  const { name, place, taken } = data.images;
  const { first, second, inliers, kind } = data.pairs;
  const count = name.length;
  const most = 700; // cells of a side
  const side = Math.max(1, Math.min(count, most));
  const verified = inliers.filter((_, row) => kind[row] === 0);
  const highest = verified.reduce((a, b) => Math.max(a, b), 1);
  const lowest = Math.max(1, verified.reduce((a, b) => Math.min(a, b), highest));
  /** The place of a number of inliers between the lowest and the highest, by their logarithms. */
  const share = (value) => (highest > lowest ? Math.log(value / lowest) / Math.log(highest / lowest) : 1);
  // Stops of cividis, which looks the same to most colour-blind people.
  const cividis = [[0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115], [138, 134, 120], [165, 156, 116], [195, 179, 105], [225, 204, 85], [254, 232, 56]];

  function shade(part) {
    const at = Math.min(0.9999, Math.max(0, part)) * (cividis.length - 1);
    const k = Math.floor(at);
    return cividis[k].map((value, n) => Math.round(value + (cividis[k + 1][n] - value) * (at - k)));
  }

  const orders = {
    name: () => [...name.keys()],
    cluster: () => [...name.keys()].sort((a, b) => place[a] - place[b]),
    time: () => [...name.keys()].sort((a, b) => (taken[a] || "~").localeCompare(taken[b] || "~") || a - b),
  };
  if (!taken || !taken.some(Boolean)) choice.querySelector('[value="time"]').disabled = true;

  let order = [];
  let cells = new Int32Array(0); // row of the best pair of a cell, −1 for none
  let cursor = [0, 0];

  function arrange() {
    order = orders[choice.value]();
    const at = new Int32Array(count);
    order.forEach((image, position) => { at[image] = Math.floor((position * side) / count); });
    cells = new Int32Array(side * side).fill(-1);
    const value = (row) => inliers[row] + (kind[row] === 0 ? 0.5 : 0);
    for (let row = 0; row < first.length; row++) {
      const a = at[first[row]];
      const b = at[second[row]];
      for (const cell of [a * side + b, b * side + a])
        if (cells[cell] < 0 || value(row) > value(cells[cell])) cells[cell] = row;
    }
    draw();
  }

  function draw() {
    canvas.width = canvas.height = side;
    const pen = canvas.getContext("2d");
    const pixels = pen.createImageData(side, side);
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const nothing = dark ? [27, 31, 36] : [255, 255, 255];
    const refused = dark ? [52, 57, 64] : [226, 226, 220];
    for (let cell = 0; cell < cells.length; cell++) {
      const row = cells[cell];
      const rgb = row < 0 ? nothing : kind[row] === 0 ? shade(share(Math.max(1, inliers[row]))) : refused;
      pixels.data.set([...rgb, 255], 4 * cell);
    }
    pen.putImageData(pixels, 0, 0);
  }

  const group = (k) => order.slice(Math.ceil((k * count) / side), Math.ceil(((k + 1) * count) / side)).map((i) => name[i]);

  function describe([x, y]) {
    const row = cells[y * side + x];
    if (x === y && side === count) return name[order[x]];
    const ends = row >= 0 ? [name[first[row]], name[second[row]]] : [group(y)[0], group(x)[0]];
    const pair = `${ends[0]} – ${ends[1]}`;
    if (row < 0) return `${pair}: no such pair in this page`;
    return `${pair}: ${number(inliers[row])} inliers, ${data.pairs.kinds[kind[row]]}`;
  }

  function look(to) {
    cursor = to.map((k) => Math.max(0, Math.min(side - 1, k)));
    said.textContent = count ? describe(cursor) : "";
  }

  function open() {
    const row = cells[cursor[1] * side + cursor[0]];
    if (row >= 0) report.openPair(row, true);
  }

  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    look([event.clientX - box.left, event.clientY - box.top].map((p) => Math.floor((p / box.width) * side)));
  });
  canvas.addEventListener("click", open);
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step) look([cursor[0] + step[0], cursor[1] + step[1]]);
    else if (event.key === "Enter") open();
    else return;
    event.preventDefault();
  });
  choice.addEventListener("change", arrange);
  whenDark(draw);

  const legend = document.getElementById("matrix-legend");
  const ramp = report.element("canvas", { width: 200, height: 1 });
  const pen = ramp.getContext("2d");
  for (let x = 0; x < 200; x++) {
    pen.fillStyle = `rgb(${shade(x / 199).join(" ")})`;
    pen.fillRect(x, 0, 1, 1);
  }
  legend.append(number(lowest), ramp, `${number(highest)} inliers (logarithmic); grey: not verified`);
  if (side < count) legend.after(report.element("p", { class: "note" }, `A cell stands for up to ${Math.ceil(count / side)} × ${Math.ceil(count / side)} images and shows the best of their pairs.`));
  arrange();
})();
