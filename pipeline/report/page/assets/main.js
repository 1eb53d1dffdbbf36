"use strict";
// What is left: models in 3D, and the section of the menu that is read.
(() => {
  const { data, whenSeen } = report;
  for (const place of document.querySelectorAll("[data-model]"))
    whenSeen(place, () => window.eloftrScene(place, data.models[Number(place.dataset.model)]));

  const links = new Map([...document.querySelectorAll(".bar a")].map((link) => [link.hash.slice(1), link]));
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting || !links.has(entry.target.id)) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id).setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  for (const section of document.querySelectorAll("main > section")) watch.observe(section);
  document.documentElement.dataset.ready = "yes";
})();
