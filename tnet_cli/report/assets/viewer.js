"use strict";
(() => {
  const one = (selector) => document.querySelector(selector);
  const view = JSON.parse(one("#view").textContent);
  const SVG = "http://www.w3.org/2000/svg";

  const viewer = OpenSeadragon({
    element: one("#slide"),
    tileSources: {
      width: view.width,
      height: view.height,
      tileSize: view.tilePx,
      tileOverlap: 0,
      minLevel: view.firstZoomLevel,
      maxLevel: view.lastZoomLevel,
      getTileUrl: (level, column, row) => `${view.tiles}${level}/${column}_${row}.jpeg`,
    },
    drawer: "canvas",
    showNavigationControl: false,
    showNavigator: true,
    navigatorPosition: "BOTTOM_RIGHT",
    navigatorSizeRatio: 0.16,
    navigatorBackground: "#dfe2e5",
    navigatorOpacity: 0.9,
    navigatorAutoFade: false,
    // Up to four screen pixels for one of level 0, where cells are large enough to look at.
    maxZoomPixelRatio: 4,
    visibilityRatio: 0.3,
    animationTime: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 0.5,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    gestureSettingsTouch: { dblClickToZoom: true, flickEnabled: true },
    imageLoaderLimit: 6,
    timeout: 180000,
  });
  window.viewer = viewer;

  // What cannot be read stays empty, and is never silently so.
  const unread = new Set();
  viewer.addHandler("tile-load-failed", (event) => {
    unread.add(String(event.tile));
    const parts = unread.size === 1 ? "A part of this slide" : `${unread.size} parts of this slide`;
    one("#unread").textContent = `${parts} cannot be read and ${unread.size === 1 ? "is" : "are"} left empty.`;
    one("#unread").hidden = false;
  });

  // The boxes: one drawing in level-0 pixels, moved and scaled with the slide.
  const overlay = document.createElementNS(SVG, "svg");
  overlay.id = "overlay";
  overlay.setAttribute("aria-hidden", "true");
  const plane = overlay.appendChild(document.createElementNS(SVG, "g"));
  viewer.canvas.append(overlay);
  const heaviest = Math.max(...view.boxes.map((box) => box.weight), 1e-9);
  const drawn = [...view.boxes].sort((a, b) => a.processingLevel - b.processingLevel || a.weight - b.weight);
  for (const box of drawn) {
    const rect = document.createElementNS(SVG, "rect");
    for (const side of ["x", "y", "width", "height"]) rect.setAttribute(side, box[side]);
    rect.setAttribute("stroke", box.colour);
    rect.setAttribute("stroke-width", 1.5 + (4 * box.weight) / heaviest);
    box.rect = plane.appendChild(rect);
  }

  const image = () => viewer.world.getItemAt(0);
  const pixel = (x, y) => image().imageToViewerElementCoordinates(new OpenSeadragon.Point(x, y));
  function place() {
    if (!image()) return;
    const origin = pixel(0, 0);
    const screenPx = (pixel(view.width, 0).x - origin.x) / view.width;
    plane.setAttribute("transform", `translate(${origin.x} ${origin.y}) scale(${screenPx})`);
    placeScale(screenPx);
  }
  viewer.addHandler("update-viewport", place);
  viewer.addHandler("open", place);
  viewer.addHandler("resize", () => requestAnimationFrame(place));

  function placeScale(screenPx) {
    one("#scale").hidden = !view.mpp;
    if (!view.mpp) return;
    const longest = (160 / screenPx) * view.mpp;
    const power = 10 ** Math.floor(Math.log10(longest));
    const um = [5, 2, 1].map((step) => step * power).find((length) => length <= longest);
    const text = um >= 1000 ? `${+(um / 1000).toPrecision(3)} mm` : `${+um.toPrecision(3)} µm`;
    one("#scale-text").textContent = text;
    one("#scale-bar").style.width = `${(um / view.mpp) * screenPx}px`;
  }

  // The list: each box can be reached without a pointer.
  const list = one("#list");
  function element(name, text, className) {
    const made = document.createElement(name);
    made.textContent = text;
    if (className) made.className = className;
    return made;
  }
  let chosen = null;
  function choose(box) {
    if (chosen) {
      chosen.rect.classList.remove("chosen");
      chosen.button.setAttribute("aria-pressed", "false");
    }
    chosen = box;
    box.rect.classList.add("chosen");
    box.button.setAttribute("aria-pressed", "true");
    const margin = 0.15 * Math.max(box.width, box.height);
    viewer.viewport.fitBounds(
      image().imageToViewportRectangle(
        box.x - margin, box.y - margin, box.width + 2 * margin, box.height + 2 * margin,
      ),
    );
  }
  for (const box of view.boxes) {
    const button = element("button", "");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    const key = document.createElementNS(SVG, "svg");
    key.setAttribute("viewBox", "0 0 14 14");
    const square = document.createElementNS(SVG, "rect");
    for (const [name, value] of Object.entries({ x: 2, y: 2, width: 10, height: 10, fill: "none", stroke: box.colour, "stroke-width": 3 }))
      square.setAttribute(name, value);
    key.append(square);
    const [scale, weight, ...rest] = box.lines;
    button.append(key, element("span", box.name), element("span", weight ?? "", "number"));
    button.append(element("span", [scale, ...rest].join(", "), "more"));
    button.addEventListener("click", () => choose(box));
    const item = document.createElement("li");
    item.append(button);
    list.append(item);
    box.button = button;
  }

  const all = one("#boxes");
  const choices = [...document.querySelectorAll("input[data-processing-level]")];
  const isShown = (box) => all.checked && choices.find((input) => Number(input.dataset.processingLevel) === box.processingLevel).checked;
  function showBoxes() {
    for (const box of view.boxes) box.rect.style.display = isShown(box) ? "" : "none";
  }
  for (const input of all ? [all, ...choices] : []) input.addEventListener("change", showBoxes);

  // The smallest box below the pointer says what it is.
  const hint = one("#hint");
  function explain(position) {
    const at = image() && image().viewerElementToImageCoordinates(position);
    const hit = at && view.boxes
      .filter((box) => isShown(box) && at.x >= box.x && at.y >= box.y && at.x < box.x + box.width && at.y < box.y + box.height)
      .sort((a, b) => a.width * a.height - b.width * b.height)[0];
    hint.hidden = !hit;
    if (!hit) return;
    hint.textContent = [hit.name, ...hit.lines].join("\n");
    const room = one("#slide").getBoundingClientRect();
    const left = position.x + 18 + hint.offsetWidth > room.width ? position.x - 18 - hint.offsetWidth : position.x + 18;
    const top = Math.min(position.y + 14, room.height - hint.offsetHeight - 6);
    hint.style.left = `${Math.max(4, left)}px`;
    hint.style.top = `${Math.max(4, top)}px`;
  }
  new OpenSeadragon.MouseTracker({
    element: viewer.container,
    moveHandler: (event) => explain(event.position),
    leaveHandler: () => { hint.hidden = true; },
  });
  viewer.addHandler("canvas-click", (event) => { if (event.quick) explain(event.position); });
  viewer.addHandler("canvas-drag", () => { hint.hidden = true; });

  one("#zoom-in").addEventListener("click", () => viewer.viewport.zoomBy(2));
  one("#zoom-out").addEventListener("click", () => viewer.viewport.zoomBy(0.5));
  one("#home").addEventListener("click", () => viewer.viewport.goHome());
  one("#full").addEventListener("click", () => viewer.viewport.zoomTo(image().imageToViewportZoom(1)));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "b" && all) {
      all.checked = !all.checked;
      showBoxes();
    }
    const link = { n: "#next", p: "#previous" }[event.key];
    if (link && one(link)) location.assign(one(link).href);
  });
  viewer.addHandler("open", () => viewer.canvas.focus({ preventScroll: true }));
})();
