"use strict";
// One pair: both images side by side with the matches that stand in the page, zoomed and filtered.
report.viewer = (place) => {
  const { data, pictures, element, number, percent, pictureOf } = report;
  const { images, pairs } = data;
  const space = "http://www.w3.org/2000/svg";
  const height = 600; // of an image in the units of the drawing
  const gap = 12;
  const steps = 65535;
  const view = { inliers: true, others: true, score: 0, box: null, whole: null };
  let shown = -1;

  function shape(tag, attributes) {
    const made = document.createElementNS(space, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  }

  /** The matches of a pair: corners from 0 to 1 over each image, score, inlier. */
  function matchesOf(row) {
    const packed = pictures.points && pictures.points[row];
    if (!packed) return null;
    const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
    const values = new DataView(bytes.buffer);
    const found = [];
    for (let at = 0; at < bytes.length; at += 10) {
      const [x0, y0, x1, y1] = [0, 2, 4, 6].map((k) => values.getUint16(at + k, true) / steps);
      found.push({ x0, y0, x1, y1, score: bytes[at + 8] / 255, inlier: bytes[at + 9] === 1 });
    }
    return found.sort((a, b) => a.inlier - b.inlier || a.score - b.score);
  }

  const title = element("h3", { class: "pair-title name" });
  const facts = element("p", { class: "facts" });
  const picture = shape("svg", { class: "picture", role: "img" });
  const lines = shape("g", {});
  const score = element("input", { type: "range", min: 0, max: 1, step: 0.01, value: 0, oninput: () => { view.score = Number(score.value); drawLines(); } });
  const tick = (name, ...label) => element("label", {}, element("input", { type: "checkbox", checked: true, onchange: (event) => { view[name] = event.target.checked; drawLines(); } }), ...label);
  const button = (text, label, call) => element("button", { type: "button", "aria-label": label, title: label, onclick: call }, text);
  const tools = element("div", { class: "tools" },
    tick("inliers", element("span", { class: "key" }), "inliers"),
    tick("others", element("span", { class: "key out" }), "outliers"),
    element("label", {}, "score from", score),
    element("div", { class: "zooms" }, button("+", "Zoom in", () => zoom(0.7)), button("−", "Zoom out", () => zoom(1 / 0.7)),
      button("Whole", "Show both images whole", () => zoom(Infinity))));
  const drawn = element("p", { class: "facts", role: "status" });
  const hint = element("p", { class: "quiet" }, "Choose a pair from the list or the matrix.");
  place.append(hint);

  let matches = null;
  let frames = [];

  function show(row) {
    shown = row;
    if (hint.isConnected) {
      hint.remove();
      place.append(title, picture, tools, drawn, facts);
    }
    const ends = [pairs.first[row], pairs.second[row]];
    const names = ends.map((k) => images.name[k]);
    title.replaceChildren(element("span", { class: "name" }, names[0]), " – ", element("span", { class: "name" }, names[1]));
    picture.setAttribute("aria-label", `${names[0]} beside ${names[1]}, ${number(pairs.inliers[row])} inliers of ${number(pairs.matches[row])} matches`);
    picture.replaceChildren();
    let left = 0;
    frames = ends.map((image) => {
      const [w, h] = images.size[image] || [4, 3];
      const frame = { x: left, width: (height * w) / h };
      left += frame.width + gap;
      picture.append(shape("rect", { x: frame.x, y: 0, width: frame.width, height }));
      const source = pictureOf(image);
      if (source) picture.append(shape("image", { href: source, x: frame.x, y: 0, width: frame.width, height, preserveAspectRatio: "none" }));
      else {
        const text = shape("text", { x: frame.x + frame.width / 2, y: height / 2 });
        text.textContent = "no picture in this page";
        picture.append(text);
      }
      return frame;
    });
    picture.append(lines);
    view.whole = [0, 0, left - gap, height];
    zoom(Infinity);
    matches = matchesOf(row);
    drawLines();
    const parts = [pairs.kinds[pairs.kind[row]], `${number(pairs.inliers[row])} inliers of ${number(pairs.matches[row])} matches`];
    if (pairs.matches[row]) parts.push(percent(pairs.inliers[row] / pairs.matches[row]));
    if (pairs.angle[row] !== null) parts.push(`cameras turned by ${pairs.angle[row]}°`);
    if (pairs.kind[row] === 0) parts.push(pairs.geometries[pairs.geometry[row]].replaceAll("_", " "));
    else if (report.whyOf(row)) parts.push(`reason: ${report.whyOf(row)}`);
    facts.textContent = parts.join(" · ");
  }

  function drawLines() {
    lines.replaceChildren();
    const [a, b] = frames;
    const kept = (matches || []).filter((m) => m.score >= view.score && (m.inlier ? view.inliers : view.others));
    for (const m of kept)
      lines.append(shape("line", { x1: a.x + m.x0 * a.width, y1: m.y0 * height, x2: b.x + m.x1 * b.width, y2: m.y1 * height, class: m.inlier ? "in" : "out" }));
    tools.hidden = !matches;
    if (matches) drawn.textContent = `${number(kept.length)} of ${number(pairs.matches[shown])} matches are drawn${matches.length < pairs.matches[shown] ? `; this page holds a sample of ${number(matches.length)}` : ""}.`;
    else drawn.textContent = pairs.matches[shown] ? "The matches of this pair are not in this page; eloftr draw --run RUN --pair A B draws them." : "This pair has no matches.";
  }

  function zoom(by, about = [0.5, 0.5]) {
    const [x, y, w, h] = view.box || view.whole;
    const width = Math.min(view.whole[2], Math.max(w * by, 40));
    const tall = (width * view.whole[3]) / view.whole[2];
    move(x + (w - width) * about[0], y + (h - tall) * about[1], width, tall);
  }

  function move(x, y, w, h) {
    const inside = (value, size, whole) => Math.min(Math.max(value, 0), Math.max(0, whole - size));
    view.box = [inside(x, w, view.whole[2]), inside(y, h, view.whole[3]), w, h];
    picture.setAttribute("viewBox", view.box.join(" "));
  }

  picture.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.shiftKey) return; // the wheel alone scrolls the page
    event.preventDefault();
    const box = picture.getBoundingClientRect();
    zoom(event.deltaY < 0 ? 0.8 : 1.25, [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]);
  }, { passive: false });
  picture.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "touch" && view.box[2] >= view.whole[2]) return; // a finger scrolls
    const start = { x: event.clientX, y: event.clientY, box: [...view.box] };
    const scale = view.box[2] / picture.getBoundingClientRect().width;
    const drag = (e) => move(start.box[0] - (e.clientX - start.x) * scale, start.box[1] - (e.clientY - start.y) * scale, view.box[2], view.box[3]);
    picture.setPointerCapture(event.pointerId);
    picture.addEventListener("pointermove", drag);
    picture.addEventListener("pointerup", () => picture.removeEventListener("pointermove", drag), { once: true });
  });
  picture.addEventListener("dblclick", () => zoom(0.5));
  return { show, row: () => shown };
};
