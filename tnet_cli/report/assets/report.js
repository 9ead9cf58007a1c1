
"use strict";
(() => {
  const one = (selector) => document.querySelector(selector);
  const table = one("#slides");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

  // Everything a sort or a filter needs is read from the page once.
  const NUMERIC = ["c-status", "c-probability", "c-read", "c-locations", "c-mpp", "c-seconds"];
  const entries = [...body.rows].map((row) => ({
    row,
    number: Number(row.dataset.n),
    status: row.dataset.status,
    label: row.dataset.label,
    words: row.dataset.words,
    keys: [...row.cells].map((cell, column) => {
      const text = cell.dataset.v ?? cell.textContent.trim();
      if (text === "") return null;
      return NUMERIC.includes(heads[column].className) ? Number(text) : text;
    }),
  }));
  const PROBABILITY = heads.findIndex((head) => head.className === "c-probability");

  function compare(a, b) {
    return typeof a === "number" ? a - b : collator.compare(a, b);
  }

  // Slides that have nothing in a column come last whichever way it is sorted; equals keep the order of the input.
  function sort(column, descending) {
    const sign = descending ? -1 : 1;
    entries.sort((left, right) => {
      const a = left.keys[column];
      const b = right.keys[column];
      if (a === null || b === null) return (a === null) - (b === null) || left.number - right.number;
      return sign * compare(a, b) || left.number - right.number;
    });
    // Emptied first: taken out one by one in the new order, each row would cost a search among all the others.
    body.replaceChildren();
    const all = document.createDocumentFragment();
    for (const entry of entries) all.append(entry.row);
    body.append(all);
    heads.forEach((head, index) => {
      if (index === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  }

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => sort(column, head.getAttribute("aria-sort") === "ascending"));
  });

  const form = one("#filters");
  function filter() {
    const words = one("#find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const status = one("#by-status").value;
    const label = one("#by-label").value;
    const below = one("#by-probability").value === "" ? Infinity : Number(one("#by-probability").value);
    let shown = 0;
    for (const entry of entries) {
      const fits =
        (status === "" || entry.status === status) &&
        (label === "" || entry.label === label) &&
        (below === Infinity || (entry.keys[PROBABILITY] !== null && entry.keys[PROBABILITY] < below)) &&
        words.every((word) => entry.words.includes(word));
      if (entry.row.hidden === fits) entry.row.hidden = !fits;
      shown += fits;
    }
    one("#shown").textContent = shown === entries.length ? `${shown} slides` : `${shown} of ${entries.length} slides`;
    one("#nothing").hidden = shown > 0;
  }
  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => requestAnimationFrame(filter));
  filter();

  // The head of the table stays below the filters, which wrap on narrow screens.
  const place = () => table.style.setProperty("--below-filters", `${form.offsetHeight}px`);
  new ResizeObserver(place).observe(form);

  const dialog = one("#enlarged");
  const picture = one("#enlarged-picture");
  let current = null;
  const withOverlay = () => entries.filter((entry) => !entry.row.hidden && entry.row.querySelector("a.overlay"));

  function show(entry) {
    const link = entry.row.querySelector("a.overlay");
    const name = entry.row.querySelector(".name").textContent;
    const cell = (name_of) => entry.row.querySelector(name_of).textContent.trim();
    current = entry;
    one("#enlarged-name").textContent = name;
    one("#enlarged-says").textContent = [cell(".c-label"), cell(".c-probability")].filter(Boolean).join(", ");
    one("#enlarged-file").href = link.href;
    one("#enlarged-missing").hidden = true;
    picture.hidden = false;
    picture.alt = `Overlay of ${name}: the slide, and where the model looked`;
    picture.src = link.href;
    if (!dialog.open) dialog.showModal();
    one(".scroll").scrollTop = 0;
    one(".scroll").focus();
  }
  function step(by) {
    const all = withOverlay();
    if (all.length === 0) return;
    show(all[(all.indexOf(current) + by + all.length) % all.length]);
  }
  picture.addEventListener("error", () => {
    if (!picture.getAttribute("src")) return;
    picture.hidden = true;
    one("#enlarged-missing").textContent =
      "The overlay is not beside this page any more: keep report.html in the folder of its run to enlarge overlays.";
    one("#enlarged-missing").hidden = false;
  });
  body.addEventListener("click", (event) => {
    const link = event.target.closest("a.overlay");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    show(entries.find((entry) => entry.row === link.closest("tr")));
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
      event.preventDefault();
      step(event.key === "ArrowRight" ? 1 : -1);
    }
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => {
    picture.removeAttribute("src");
    const link = current && current.row.querySelector("a.overlay");
    if (link) {
      link.scrollIntoView({ block: "nearest" });
      link.focus();
    }
  });
  one("#previous").addEventListener("click", () => step(-1));
  one("#next").addEventListener("click", () => step(1));
  one("#close").addEventListener("click", () => dialog.close());

  // `tnet view` serves this page together with a viewer, and says so in the page it sends.
  const viewer = document.body.dataset.viewer;
  if (viewer) {
    for (const link of body.querySelectorAll("a.zoom")) {
      link.href = viewer + link.dataset.slide;
      link.hidden = false;
    }
  }
})();
