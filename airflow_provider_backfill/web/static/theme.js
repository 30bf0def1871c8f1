// Follow Airflow's light or dark theme; outside Airflow's frame, follow the system.
// A separate script, not a module, because it must run before the first paint.
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  let outer = null;
  try {
    outer = window.parent !== window ? window.parent.document.documentElement : null;
  } catch {
    // The outer page has another origin and cannot be read.
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
