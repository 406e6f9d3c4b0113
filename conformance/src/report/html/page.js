"use strict";
// Filters and searches the cases of the page. The state is kept in the fragment, so that links preserve it:
// #?q=timeout&outcome=fail,error&level=documented&report=node-a, or #ID to open one case.
(() => {
  const controls = document.getElementById("controls");
  const search = document.getElementById("q");
  const report = document.getElementById("report");
  const shown = document.getElementById("shown");
  const boxes = (name) => [...controls.querySelectorAll(`input[name="${name}"]`)];
  const cases = [...document.querySelectorAll("details.case")].map((node) => ({
    node,
    text: node.textContent.toLowerCase(),
    outcome: node.dataset.outcome,
    level: node.dataset.level,
    report: node.dataset.report,
  }));
  const groups = [...document.querySelectorAll("section.group, section.report")];

  const chosen = (name) => new Set(boxes(name).filter((box) => box.checked).map((box) => box.value));

  function apply() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const outcomes = chosen("outcome");
    const levels = chosen("level");
    let count = 0;
    for (const one of cases) {
      const visible = outcomes.has(one.outcome) && levels.has(one.level) &&
        (!report || !report.value || report.value === one.report) &&
        words.every((word) => one.text.includes(word));
      one.node.hidden = !visible;
      count += visible ? 1 : 0;
    }
    for (const group of groups) {
      group.hidden = !group.querySelector("details.case:not([hidden])");
    }
    shown.textContent = `${count} of ${cases.length} shown`;
  }

  function keep() {
    const state = new URLSearchParams();
    if (search.value) state.set("q", search.value);
    for (const name of ["outcome", "level"]) {
      if (boxes(name).some((box) => !box.checked)) state.set(name, [...chosen(name)].join(","));
    }
    if (report && report.value) state.set("report", report.value);
    const text = state.toString();
    history.replaceState(null, "", text ? `#?${text}` : location.pathname + location.search);
  }

  function reveal(id) {
    const target = document.getElementById(id);
    if (!target) return;
    if (target.matches("details.case")) target.open = true;
    target.scrollIntoView();
  }

  function restore() {
    const fragment = location.hash.slice(1);
    const filtered = fragment.startsWith("?");
    const state = new URLSearchParams(filtered ? fragment.slice(1) : "");
    search.value = state.get("q") || "";
    for (const name of ["outcome", "level"]) {
      const wanted = state.has(name) ? state.get(name).split(",") : null;
      for (const box of boxes(name)) box.checked = !wanted || wanted.includes(box.value);
    }
    if (report) report.value = state.get("report") || "";
    apply();
    if (fragment && !filtered) {
      let id = fragment;
      try { id = decodeURIComponent(fragment); } catch { /* malformed escape: use the fragment unchanged */ }
      reveal(id);
    }
  }

  function openAll(open) {
    for (const one of cases) if (!one.node.hidden) one.node.open = open;
  }

  async function copy(button) {
    const code = button.parentElement.querySelector("pre");
    const selection = getSelection();
    selection.selectAllChildren(code);
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }

  controls.addEventListener("input", () => { apply(); keep(); });
  controls.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("open").addEventListener("click", () => openAll(true));
  document.getElementById("close").addEventListener("click", () => openAll(false));
  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", () => copy(button));
  }
  addEventListener("hashchange", restore);
  addEventListener("beforeprint", () => openAll(true));
  controls.hidden = false;
  restore();
})();
