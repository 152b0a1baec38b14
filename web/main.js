// Start the race; mount each explorable when it comes near.

import { Race } from "./race.js";

new Race().start();

const nearby = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => mount(target)),
  { rootMargin: "600px" },
);
document.querySelectorAll("[data-explore]").forEach((root) => nearby.observe(root));

async function mount(root) {
  nearby.unobserve(root);
  const { mount: fill } = await import(`./explore/${root.dataset.explore}.js`);
  fill(root);
}
