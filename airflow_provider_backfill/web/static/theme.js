// Light or dark as Airflow shows itself around this page; alone in a tab, as the system does.
// A script of its own and not a module: it runs before anything is painted.
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  let outer = null;
  try {
    outer = window.parent !== window ? window.parent.document.documentElement : null;
  } catch {
    // Another origin around us: none of our business.
  }
  const apply = () => {
    const named = outer && (outer.classList.contains("dark") ? "dark" : outer.classList.contains("light") ? "light" : "");
    const theme = named || (system.matches ? "dark" : "light");
    if (root.dataset.theme !== theme) {
      root.dataset.theme = theme;
      window.dispatchEvent(new Event("themechange"));
    }
  };
  apply();
  system.addEventListener("change", apply);
  if (outer) new MutationObserver(apply).observe(outer, { attributes: true, attributeFilter: ["class"] });
})();
