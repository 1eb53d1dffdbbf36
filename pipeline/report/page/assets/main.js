"use strict";
// What is left: models in 3D, and the section of the menu that is read.
(() => {
  const { data, whenSeen } = report;
  const scene = document.getElementById("model-view");
  if (scene) whenSeen(scene, () => window.eloftrScene(scene, data.models));
  const both = document.getElementById("model-comparison");
  if (both) whenSeen(both, () => window.eloftrModelComparison(both, data.comparison.models));

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
