"use strict";
// What the other scripts share: the data of the page, elements, numbers, colours, pages of a list.
const report = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const pictures = data.pictures;

  /** An element. Text is set as text: names of files never become markup. */
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false)
        made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  const number = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en-US"));
  const percent = (value) => `${Math.round(100 * value)} %`;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const jpeg = (base64) => (base64 ? `data:image/jpeg;base64,${base64}` : null);
  /** The address of a picture of an image, the large one where there is one; null for none. */
  const pictureOf = (image) => jpeg((pictures.large || {})[image] || (pictures.small || {})[image]);
  const thumbnailOf = (image) => jpeg((pictures.small || {})[image] || (pictures.large || {})[image]);

  /** Buttons that turn the pages of a list. show(begin, end) is called for every page. */
  function pager(place, size, show) {
    let count = 0;
    let begin = 0;
    const said = element("span");
    const turn = (by) => () => go(begin + by * size);
    const back = element("button", { type: "button", onclick: turn(-1) }, "Previous");
    const next = element("button", { type: "button", onclick: turn(1) }, "Next");
    place.append(back, next, said);
    function go(to) {
      begin = Math.max(0, Math.min(to, Math.floor(Math.max(0, count - 1) / size) * size));
      const end = Math.min(count, begin + size);
      said.textContent = count ? `${number(begin + 1)}–${number(end)} of ${number(count)}` : "";
      back.disabled = begin === 0;
      next.disabled = end >= count;
      place.hidden = count <= size;
      show(begin, end);
    }
    return {
      reset(length) { count = length; go(0); },
      reveal(index) { go(Math.floor(index / size) * size); },
    };
  }

  /** Why a pair failed or was refused, the word and its meaning; an empty text for a verified one. */
  function whyOf(row) {
    const { kind, geometry, reason, geometries, reasons, meanings } = data.pairs;
    const word = reason[row] >= 0 ? reasons[reason[row]] : kind[row] === 1 && geometry[row] >= 0 ? geometries[geometry[row]] : "";
    return word && meanings[word] ? `${word.replaceAll("_", " ")} (${meanings[word]})` : word.replaceAll("_", " ");
  }

  const waiting = new Set(); // what is still to be drawn

  /** Call a function once: when an element comes near the window, the page is printed, or nothing else is to be done. */
  function whenSeen(place, call) {
    const once = () => {
      if (!waiting.delete(once)) return;
      watch.disconnect();
      call();
    };
    const watch = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && once(), { rootMargin: "300px" });
    waiting.add(once);
    watch.observe(place);
  }

  const whenIdle = (call) => (window.requestIdleCallback ? requestIdleCallback(call) : setTimeout(call, 200));
  function drawNext() {
    const [next] = waiting;
    if (!next) return;
    next();
    whenIdle(drawNext);
  }
  addEventListener("load", () => whenIdle(drawNext));
  addEventListener("beforeprint", () => [...waiting].forEach((once) => once()));

  /** Call a function when the colours of the system change. */
  const whenDark = (call) =>
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", call);

  return { data, pictures, element, number, percent, colour, pictureOf, thumbnailOf, pager, whyOf, whenSeen, whenDark };
})();
