// Mount what stands on the page. ?theme=dark shows it dark wherever one prefers light.

const theme = new URLSearchParams(location.search).get("theme");
if (theme) document.documentElement.dataset.theme = theme;

for (const root of document.querySelectorAll("[data-explore]")) {
  const { mount } = await import(`./${root.dataset.explore}.js`);
  await mount(root);
}
document.documentElement.dataset.ready = "";
