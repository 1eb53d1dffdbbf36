"use strict";
// The browser of pairs: a table that is searched, filtered and sorted, and the chosen pair beside it.
(() => {
  const { data, element, number, percent, pager } = report;
  const { images, pairs, picked } = data;
  const form = document.getElementById("pair-filters");
  const table = document.getElementById("pair-table");
  const said = document.getElementById("pair-count");
  const chips = [...document.querySelectorAll(".chips button")];
  const viewer = report.viewer(document.getElementById("viewer"));
  const lower = images.name.map((name) => name.toLowerCase());
  const ratio = pairs.inliers.map((inliers, row) => (pairs.matches[row] ? inliers / pairs.matches[row] : 0));
  const size = 15; // rows of a page

  const columns = [
    { title: "Images", of: (row) => lower[pairs.first[row]] + lower[pairs.second[row]], up: true },
    { title: "Status", of: (row) => pairs.kind[row], up: true },
    { title: "Matches", of: (row) => pairs.matches[row], text: (row) => number(pairs.matches[row]) },
    { title: "Inliers", of: (row) => pairs.inliers[row], text: (row) => number(pairs.inliers[row]) },
    { title: "Share", of: (row) => ratio[row], text: (row) => percent(ratio[row]) },
    { title: "Angle", of: (row) => pairs.angle[row] ?? -1, text: (row) => (pairs.angle[row] === null ? "–" : `${pairs.angle[row]}°`) },
  ];
  // Of the pairs with photographs: those that they are taken from, and how they are taken.
  const groups = {
    best: { of: "verified", word: "verified", those: "those with most inliers" },
    worst: { of: "verified", word: "verified", those: "those with fewest inliers" },
    random: { of: "matched", word: "matched", those: "chosen by chance" },
    unverified: { of: "unverified", word: "refused", those: "those with most matches" },
  };
  let sorted = { column: 3, up: false };
  let group = "all";
  let rows = [];

  form.elements.kind.append(...pairs.kinds.map((kind, k) => element("option", { value: k }, kind)));

  function wanted() {
    const field = (name) => (form.elements[name].value === "" ? null : Number(form.elements[name].value));
    const words = form.elements.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const [kind, least, most, share, angle, turned] = ["kind", "inliers", "most", "ratio", "angle", "turned"].map(field);
    const all = group === "all" ? pairs.first.keys() : picked[group];
    const found = [];
    for (const row of all) {
      if (kind !== null && pairs.kind[row] !== kind) continue;
      if (least !== null && pairs.inliers[row] < least) continue;
      if (most !== null && pairs.inliers[row] > most) continue;
      if (share !== null && 100 * ratio[row] < share) continue;
      if (angle !== null && !(pairs.angle[row] !== null && pairs.angle[row] >= angle)) continue;
      if (turned !== null && !(pairs.angle[row] !== null && pairs.angle[row] <= turned)) continue;
      const [a, b] = [lower[pairs.first[row]], lower[pairs.second[row]]];
      if (words.every((word) => a.includes(word) || b.includes(word))) found.push(row);
    }
    return found;
  }

  function sort() {
    const { of } = columns[sorted.column];
    const keys = new Map(rows.map((row) => [row, of(row)]));
    const way = sorted.up ? 1 : -1;
    rows.sort((a, b) => {
      const [x, y] = [keys.get(a), keys.get(b)];
      return x < y ? -way : x > y ? way : a - b;
    });
  }

  const body = element("tbody");
  const heads = columns.map((column, k) =>
    element("th", { scope: "col", class: column.text ? "num" : null },
      element("button", { type: "button", onclick: () => {
        sorted = { column: k, up: sorted.column === k ? !sorted.up : Boolean(column.up) };
        refresh();
      } }, column.title)));
  table.append(element("thead", {}, element("tr", {}, ...heads)), body);
  const pages = pager(document.getElementById("pair-pager"), size, (begin, end) => {
    body.replaceChildren(...rows.slice(begin, end).map(line));
  });

  function line(row) {
    const kind = pairs.kinds[pairs.kind[row]];
    const names = [pairs.first[row], pairs.second[row]].map((k) => element("span", { class: "name" }, images.name[k]));
    const choose = element("button", { type: "button" }, names[0], element("br"), names[1]);
    return element("tr", { "aria-selected": String(row === viewer.row()), "data-row": row, onclick: () => open(row) },
      element("td", {}, choose), element("td", { title: report.whyOf(row) || null }, element("span", { class: `dot ${kind}` }), kind, reasonOf(row)),
      ...columns.slice(2).map((column) => element("td", { class: "num" }, column.text(row))));
  }

  /** The reason of a failed pair under its status. */
  function reasonOf(row) {
    if (pairs.reason[row] < 0) return null;
    return element("span", { class: "why" }, pairs.reasons[pairs.reason[row]].replaceAll("_", " "));
  }

  function open(row, reveal = false) {
    viewer.show(row);
    if (reveal) {
      if (!rows.includes(row)) {
        form.reset();
        choose("all");
      }
      pages.reveal(rows.indexOf(row));
      document.getElementById("pairs").scrollIntoView();
    }
    for (const one of body.children) one.setAttribute("aria-selected", String(Number(one.dataset.row) === row));
  }
  report.openPair = open;

  function counted() {
    if (group === "all") return `${number(rows.length)} of ${number(pairs.first.length)} pairs`;
    const { of, word, those } = groups[group];
    if (rows.length === data.counts[of]) return `${number(rows.length)} of ${number(rows.length)} ${word} pairs, drawn with photographs`;
    const status = of === "matched" ? "press All for every pair" : `choose status ${of} for all`;
    return `${number(rows.length)} of ${number(data.counts[of])} ${word} pairs, ${those}, drawn with photographs; ${status}`;
  }

  function refresh() {
    rows = wanted();
    sort();
    heads.forEach((head, k) => {
      if (k === sorted.column) head.setAttribute("aria-sort", sorted.up ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
    said.textContent = counted();
    pages.reset(rows.length);
  }

  function choose(name) {
    group = name;
    for (const chip of chips) chip.setAttribute("aria-pressed", String(chip.dataset.group === name));
    if (name === "worst") sorted = { column: 3, up: true };
    else if (name === "unverified") sorted = { column: 2, up: false };
    else sorted = { column: 3, up: false };
    refresh();
  }

  for (const chip of chips) {
    if (chip.dataset.group !== "all") chip.disabled = !picked[chip.dataset.group].length;
    chip.addEventListener("click", () => {
      form.elements.kind.value = "";
      choose(chip.dataset.group);
      if (rows.length) open(rows[0]);
    });
  }
  // A status is asked of all pairs, not of those with photographs alone.
  form.elements.kind.addEventListener("input", () => group !== "all" && choose("all"));
  form.addEventListener("input", refresh);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(refresh));
  // From a row of the list, the arrow keys go to its neighbours.
  body.addEventListener("keydown", (event) => {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const next = step && event.target.closest("tr")[step];
    if (!next) return;
    event.preventDefault();
    next.querySelector("button").focus();
    open(Number(next.dataset.row));
  });
  choose("all");
  if (rows.length) report.whenSeen(document.getElementById("viewer"), () => viewer.row() < 0 && open(rows[0]));
})();
