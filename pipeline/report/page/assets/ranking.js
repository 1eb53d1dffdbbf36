"use strict";
// The queries of a reranking, each with its candidates before and after.
(() => {
  const { data, element, number, pager, thumbnailOf } = report;
  if (!data.ranking) return;
  const image = new Map(data.images.name.map((name, k) => [name, k]));
  const search = document.getElementById("ranking-search");
  const changed = document.getElementById("ranking-changed");
  const list = document.getElementById("ranking-list");
  let found = [];

  /** The picture of a photograph; a run of two folders puts a label before its name. */
  function picture(label, name) {
    const number = image.get(`${label}/${name}`) ?? image.get(name);
    const source = number === undefined ? null : thumbnailOf(number);
    return source ? element("img", { src: source, alt: "", decoding: "async" }) : element("span", { class: "blank" }, "no picture");
  }

  function card(query, one, before) {
    const rank = before ? one.retrieval_rank : one.rank;
    const true_ = rank === (before ? query.positive_before : query.positive_after);
    const result = one.num_inliers === null ? one.reason || one.status : `${number(one.num_inliers)} inliers`;
    const moved = one.retrieval_rank - one.rank;
    const move = before || !moved ? "" : ` (${moved > 0 ? "up" : "down"} ${Math.abs(moved)})`;
    return element("div", { class: `place${true_ ? " true" : ""}` }, picture("database", one.candidate),
      element("b", {}, `${rank}${move}`), true_ ? " · first true one" : "", element("br"), result,
      element("span", { class: "name", title: one.candidate }, one.candidate));
  }

  function block(query) {
    const order = (key) => [...query.list].sort((a, b) => a[key] - b[key]).slice(0, 8);
    const facts = [];
    if (query.first_before !== query.first_after) facts.push(`another first place, by ${number(query.margin)} inliers`);
    if (query.gated) facts.push("the gate kept retrieval's first place");
    if (query.ap_before !== null) facts.push(`average precision ${(100 * query.ap_before).toFixed(1)} → ${(100 * query.ap_after).toFixed(1)} %`);
    if (query.ap_before !== null && query.positive_after === null) facts.push("no true image among the candidates");
    return element("article", { class: "query" },
      element("h3", { class: "name" }, query.query),
      element("p", { class: "facts" }, `${number(query.candidates)} candidates, ${number(query.matched)} matched${facts.length ? " · " : ""}${facts.join(" · ")}`),
      element("div", { class: "row" }, element("div", { class: "place" }, picture("query", query.query), "query"),
        element("div", {},
          element("div", { class: "quiet" }, "before"), element("div", { class: "cards", tabindex: 0 }, ...order("retrieval_rank").map((one) => card(query, one, true))),
          element("div", { class: "quiet" }, "after"), element("div", { class: "cards", tabindex: 0 }, ...order("rank").map((one) => card(query, one, false))))));
  }

  const pages = pager(document.getElementById("ranking-pager"), 5, (begin, end) =>
    list.replaceChildren(...found.slice(begin, end).map(block)));

  function refresh() {
    const words = search.value.toLowerCase();
    found = data.ranking.queries.filter((query) =>
      (!changed.checked || query.first_before !== query.first_after) &&
      (!words || query.query.toLowerCase().includes(words) || query.list.some((one) => one.candidate.toLowerCase().includes(words))));
    const held = data.ranking.queries.length;
    const part = held < data.ranking.total ? `; ${number(held)} that changed most stand in this page` : "";
    document.getElementById("ranking-count").textContent = `${number(found.length)} of ${number(data.ranking.total)} queries${part}`;
    pages.reset(found.length);
  }
  search.addEventListener("input", refresh);
  changed.addEventListener("change", refresh);
  refresh();
})();
