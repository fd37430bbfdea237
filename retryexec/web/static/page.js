// What htmx does not do: live updates that can be stopped, choosing, and keys.
(() => {
  const every = 3000; // milliseconds
  const stored = (value) => {
    try {
      if (value === undefined) return localStorage.getItem("retryexec-live") !== "off";
      localStorage.setItem("retryexec-live", value ? "on" : "off");
    } catch { return true; }
  };
  const toggle = document.getElementById("live-switch");
  const region = () => document.getElementById("live");
  let live = stored();
  const show = () => {
    if (!toggle || !region()) return;
    toggle.hidden = false;
    toggle.setAttribute("aria-pressed", String(live));
    toggle.querySelector(".words").textContent = live ? "Live" : "Stopped";
    toggle.title = live ? "The page is brought up to date every 3 s: stop that" : "Bring the page up to date again";
  };
  const set = (value) => { live = value; stored(value); show(); if (live) tick(true); };
  // Whoever is choosing, reading a text or filling in a form is not disturbed.
  const busy = () => {
    const part = region();
    const active = document.activeElement;
    return !part || document.hidden || part.querySelector("input[type=checkbox]:checked") ||
      (part.contains(active) && active.matches("input:not([type=checkbox]), textarea, select")) ||
      String(getSelection()) !== "";
  };
  const tick = (now) => { if (live && window.htmx && (now || !busy())) htmx.trigger(document.body, "tick"); };
  setInterval(tick, every);
  // What was asked for before somebody began to choose comes too late.
  document.body.addEventListener("htmx:beforeSwap", (event) => { if (busy()) event.detail.shouldSwap = false; });
  toggle?.addEventListener("click", () => set(!live));
  show();

  const needs = () => {
    const some = document.querySelector("td input[name=id]:checked");
    document.querySelectorAll("[data-needs]").forEach((one) => { one.disabled = !some; });
  };
  document.addEventListener("change", (event) => {
    const box = event.target;
    if (box.matches("[data-all]")) {
      document.querySelectorAll("td input[name=id]").forEach((one) => { one.checked = box.checked; });
    }
    needs();
  });
  document.body.addEventListener("htmx:afterSwap", needs);
  needs();

  const rows = () => [...document.querySelectorAll("a.open")];
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const field = event.target.closest("input:not([type=checkbox]), textarea, select");
    if (field) { if (event.key === "Escape") field.blur(); return; }
    const all = rows();
    const row = document.activeElement.closest("tr");
    const at = all.findIndex((one) => one.closest("tr") === row && row);
    const step = { j: 1, k: -1 }[event.key];
    if (step) { all[Math.min(all.length - 1, Math.max(0, at + step))]?.focus(); }
    else if (event.key === "/") { (document.querySelector(".filters input:not([type=hidden])") || document.getElementById("find"))?.focus(); }
    else if (event.key === "l" && toggle && !toggle.hidden) set(!live);
    else if (event.key === "x" && row) { row.querySelector("td input[name=id]")?.click(); }
    else return;
    event.preventDefault();
  });
})();
