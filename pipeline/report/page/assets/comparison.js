"use strict";
// The pairs of two runs, those whose inliers differ most first.
(() => {
  const { data, element, number, pager } = report;
  if (!data.comparison) return;
  const { rows, kinds } = data.comparison;
  const place = document.getElementById("comparison-rows");
  if (!rows.length) {
    place.append(element("p", {}, "No pair has other inliers in B than in A."));
    return;
  }
  const body = element("tbody");
  const heads = ["Images", "Status in A", "in B", "Matches in A", "in B", "Inliers in A", "in B", "Difference"];
  place.append(element("table", {},
    element("thead", {}, element("tr", {}, ...heads.map((text, k) => element("th", { scope: "col", class: k > 2 ? "num" : null }, text)))), body));
  const signed = (value) => (value > 0 ? `+${number(value)}` : number(value).replace("-", "−"));

  function line(one) {
    const numbers = [...one.matches, ...one.inliers].map((value) => element("td", { class: "num" }, number(value)));
    const status = one.kind.map((k) => element("td", {}, element("span", { class: `dot ${kinds[k]}` }), kinds[k]));
    return element("tr", {}, element("td", {}, element("span", { class: "name" }, one.images[0]), element("br"), element("span", { class: "name" }, one.images[1])),
      ...status, ...numbers, element("td", { class: "num" }, signed(one.inliers[1] - one.inliers[0])));
  }
  pager(document.getElementById("comparison-pager"), 15, (begin, end) =>
    body.replaceChildren(...rows.slice(begin, end).map(line))).reset(rows.length);
})();
