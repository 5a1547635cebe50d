// The table of methods shows those that are asked for: ?room=solvers&kind=solver&verdict=holds&words=cache+block
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const form = document.querySelector("form.filter");
  if (!form) return;
  const rows = [...document.querySelectorAll("table.methods tbody tr")];
  const texts = new Map(rows.map((row) => [row, (row.textContent + " " + row.dataset.words).toLowerCase()]));
  const count = document.querySelector(".count");
  const fields = [...form.elements].filter((field) => field.name);

  const read = () => {
    const asked = new URLSearchParams(location.search);
    for (const field of fields) {
      const value = asked.get(field.name) || "";
      const known = !field.options || [...field.options].some((option) => option.value === value);
      field.value = known ? value : "";
    }
  };

  const show = () => {
    const asked = Object.fromEntries(fields.map((field) => [field.name, field.value.trim().toLowerCase()]));
    const words = asked.words.split(/\s+/).filter(Boolean);
    const found = { holds: 0, partly: 0, fails: 0 };
    let shown = 0;
    for (const row of rows) {
      const exact = ["room", "kind", "verdict"].every((key) => !asked[key] || row.dataset[key] === asked[key]);
      row.hidden = !(exact && words.every((word) => texts.get(row).includes(word)));
      if (row.hidden) continue;
      shown += 1;
      if (row.dataset.verdict in found) found[row.dataset.verdict] += 1;
    }
    const told = Object.entries(found).map(([verdict, n]) => `${n} ${verdict}`).join(", ");
    count.textContent = shown ? `${shown} of ${rows.length} methods: ${told}` : "No method is like that. Fewer words find more.";
  };

  const remember = () => {
    const asked = new URLSearchParams(fields.filter((field) => field.value.trim()).map((field) => [field.name, field.value.trim()]));
    const query = asked.toString();
    try {
      history.replaceState(null, "", location.pathname + (query ? "?" + query : "") + location.hash);
    } catch { /* a page opened from a folder may not change its address */ }
  };

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { show(); remember(); }));
  form.addEventListener("input", () => { show(); remember(); });
  window.addEventListener("popstate", () => { read(); show(); });
  read();
  show();
});
