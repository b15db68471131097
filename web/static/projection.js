// Comfort for the page of a projection: smooth zoom and pan, what is under the pointer, the lasso.
// The page works without it; what it shows comes from the same addresses.
"use strict";

(() => {
  const map = document.querySelector("#map");
  const hover = document.querySelector("#hover");
  const group = (id) => map.querySelector(`#${id}`);
  const [xMin, xMax, yMin, yMax] = JSON.parse(map.dataset.frame);
  const MAX_ZOOM = Number(map.dataset.maxZoom);
  const MAX_CORNERS = Number(map.dataset.maxCorners);
  const TILES = 8; // along a view, as the server cuts them
  const DEPTH = 3;
  const SETTLED = 160; // ms without a change
  const SLACK = 0.2; // of a zoom, that does not count as having wanted the next
  const STILL = 90; // ms that the pointer rests
  const base = `/projections/${encodeURIComponent(map.dataset.name)}`;
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  // The view: its upper left corner on the unit square (y downwards) and its width there.
  const view = viewOf(Number(map.dataset.zoom), Number(map.dataset.column), Number(map.dataset.row));
  const pictures = []; // {x, y, width, zoom, element}, what is drawn, the last on top
  let thumbs = [];
  let marks = [];
  let corners = []; // of the lasso, on the unit square
  let closed = false;
  let drawing = false; // the lasso is the tool
  let settled = Number(map.dataset.zoom);
  let anchor = [0.5, 0.5]; // what stayed on its place when the zoom last changed
  let settling = 0;
  let fetching = null;

  function viewOf(zoom, column, row) {
    const tiles = 2 ** (zoom + DEPTH);
    return { x: column / tiles, y: 1 - (row + TILES) / tiles, width: TILES / tiles };
  }
  const zoomOf = (width) => clamp(Math.floor(-Math.log2(width) + 1e-6), 0, MAX_ZOOM);
  const zoom = () => zoomOf(view.width);
  const toX = (x) => xMin + x * (xMax - xMin);
  const toY = (y) => yMax - y * (yMax - yMin);
  const onMap = (x, y) => [((x - view.x) / view.width) * TILES, ((y - view.y) / view.width) * TILES];

  // The square that the server draws next to this view, further on in the direction of the zoom:
  // as `around` in web/projection_views.py.
  function snapped() {
    const now = -Math.log2(view.width);
    const z = clamp(now > settled ? Math.ceil(now - SLACK) : Math.floor(now + SLACK), 0, MAX_ZOOM);
    const kept = 2 ** -z / view.width;
    const tiles = 2 ** (z + DEPTH);
    const start = (middle) => clamp(Math.round(middle * tiles) - TILES / 2, 0, tiles - TILES);
    const middle = (from, fixed) => fixed + (from + view.width / 2 - fixed) * kept;
    const [x, y] = [middle(view.x, anchor[0]), middle(view.y, anchor[1])];
    return { zoom: z, column: start(x), row: start(1 - y) };
  }

  function place(element, x, y, size, names = ["x", "y"]) {
    const [left, top] = onMap(x, y);
    element.setAttribute(names[0], left - size / 2);
    element.setAttribute(names[1], top - size / 2);
  }

  function draw() {
    for (const { x, y, width, element } of pictures) {
      const [left, top] = onMap(x, y);
      element.setAttribute("x", left);
      element.setAttribute("y", top);
      element.setAttribute("width", (width / view.width) * TILES);
      element.setAttribute("height", (width / view.width) * TILES);
    }
    for (const { x, y, element } of thumbs) place(element, x, y, 0.64);
    for (const { x, y, element } of marks) place(element, x, y, 0, ["cx", "cy"]);
    const outline = corners.map(([x, y]) => onMap(x, y).map((n) => n.toFixed(4)).join(" "));
    group("lasso").setAttribute("d", outline.length ? `M${outline.join("L")}${closed ? "Z" : ""}` : "");
    showThumbs();
  }

  function showThumbs() {
    const wanted = document.querySelector("#with-pictures input").checked;
    group("thumbs").toggleAttribute("hidden", !wanted || group("thumbs").dataset.shown !== "true");
  }

  function change(x, y, width) {
    view.width = clamp(width, 2 ** -MAX_ZOOM, 1);
    view.x = clamp(x, 0, 1 - view.width);
    view.y = clamp(y, 0, 1 - view.width);
    hover.hidden = true;
    draw();
    clearTimeout(settling);
    settling = setTimeout(settle, SETTLED);
  }

  // Zoom by a factor; the place (x, y) of the unit square stays where it is on the screen.
  function zoomAt(factor, x = view.x + view.width / 2, y = view.y + view.width / 2) {
    const width = clamp(view.width / factor, 2 ** -MAX_ZOOM, 1);
    const kept = width / view.width;
    anchor = [x, y];
    change(x - (x - view.x) * kept, y - (y - view.y) * kept, width);
  }
  const panBy = (x, y) => change(view.x + x * view.width, view.y + y * view.width, view.width);
  const whole = () => change(0, 0, 1);

  function address() {
    const here = new URL(base, location.href);
    if (zoom()) {
      here.searchParams.set("zoom", zoom());
      here.searchParams.set("x", toX(view.x + view.width / 2).toPrecision(6));
      here.searchParams.set("y", toY(view.y + view.width / 2).toPrecision(6));
    }
    const source = new URL(location.href).searchParams.get("source");
    if (source) here.searchParams.set("source", source);
    return here;
  }

  function addPicture(square, first = false) {
    const element = document.createElementNS(map.namespaceURI, "image");
    element.setAttribute("preserveAspectRatio", "none");
    const picture = { ...viewOf(square.zoom, square.column, square.row), zoom: square.zoom, element };
    element.addEventListener("load", () => {
      // What is below it is not needed any more, but for the whole, which shows while others load.
      const below = pictures.slice(0, Math.max(pictures.indexOf(picture), 0));
      for (const other of below.filter((one) => one.zoom || !picture.zoom)) {
        other.element.remove();
        pictures.splice(pictures.indexOf(other), 1);
      }
    });
    const { zoom: z, column, row } = square;
    element.setAttribute("href", `${base}/${z}/${column}/${row}.png?v=${map.dataset.id}`);
    if (first) {
      pictures.unshift(picture);
      group("pictures").prepend(element);
    } else {
      pictures.push(picture);
      group("pictures").append(element);
    }
  }

  // After a change: the picture of the new view, and everything on the page that belongs to it.
  async function settle() {
    const square = snapped();
    Object.assign(view, viewOf(square.zoom, square.column, square.row));
    settled = square.zoom;
    addPicture(square);
    draw();
    const here = address();
    fetching?.abort();
    fetching = new AbortController();
    try {
      const answer = await fetch(here, { signal: fetching.signal, headers: { Accept: "text/html" } });
      if (!answer.ok) return;
      take(new DOMParser().parseFromString(await answer.text(), "text/html"));
      history.replaceState(null, "", here);
    } catch {
      // Another change came first, or the server is away: what is shown stays.
    }
  }

  function take(fresh) {
    const other = fresh.querySelector("#map");
    for (const id of ["thumbs", "mark"]) {
      const theirs = other.querySelector(`#${id}`);
      Object.assign(group(id).dataset, theirs.dataset);
      group(id).replaceChildren(...theirs.childNodes);
    }
    for (const id of ["scale", "examples"]) {
      document.getElementById(id).replaceChildren(...fresh.getElementById(id).childNodes);
    }
    map.setAttribute("aria-label", other.getAttribute("aria-label"));
    const { zoom: z, column, row } = other.dataset;
    locate(viewOf(Number(z), Number(column), Number(row)));
    if (!closed) aim(fresh.querySelector("#caught").textContent, squareInView());
    draw();
  }

  // Where on the unit square the pictures and marks are that came for a view.
  function locate(square) {
    const found = (elements) =>
      [...elements].map((element) => ({
        element,
        x: square.x + (Number(element.dataset.x) / TILES) * square.width,
        y: square.y + (Number(element.dataset.y) / TILES) * square.width,
      }));
    thumbs = found(map.querySelectorAll("#thumbs image"));
    marks = found(map.querySelectorAll("#mark circle"));
  }

  // What the form would save.
  const form = document.querySelector("#save");
  const caught = document.querySelector("#caught");
  function aim(words, polygon) {
    caught.textContent = words;
    form.querySelector("button").disabled = false;
    form.elements.polygon.value = JSON.stringify(polygon.map(([x, y]) => [toX(x), toY(y)]));
  }
  function squareInView() {
    const { x, y, width } = view;
    return [[x, y + width], [x + width, y + width], [x + width, y], [x, y]];
  }

  async function post(where, fields) {
    const answer = await fetch(`${base}/${where}`, {
      method: "POST",
      headers: { Accept: "application/json" },
      body: new URLSearchParams(fields),
    });
    const facts = await answer.json();
    return answer.ok ? facts : Promise.reject(new Error(facts.detail + " " + (facts.advice ?? "")));
  }

  async function closeLasso() {
    if (corners.length < 3) return dropLasso();
    const every = Math.ceil(corners.length / MAX_CORNERS);
    corners = corners.filter((_, k) => k % every === 0);
    closed = true;
    draw();
    aim("Counting the sources in the lasso …", corners);
    try {
      const { n } = await post("count", { polygon: form.elements.polygon.value });
      const found = n.toLocaleString("en").replaceAll(",", "\u202f");
      caught.textContent = n ? `${found} sources in the lasso.` : "No source is in the lasso.";
      form.querySelector("button").disabled = !n;
      if (n) form.elements.name.focus();
    } catch (error) {
      caught.textContent = error.message;
    }
  }

  function dropLasso() {
    const had = corners.length > 0;
    corners = [];
    closed = false;
    draw();
    if (had) settle();
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    button.disabled = true;
    const fields = new FormData(form);
    caught.textContent = "Saving …";
    try {
      const saved = await post("selections", fields);
      const link = document.createElement("a");
      link.href = saved.sources;
      link.textContent = `${saved.n_sources.toLocaleString("en").replaceAll(",", "\u202f")} sources`;
      caught.replaceChildren("Saved ", link, ` as ${saved.name}.`);
      form.elements.name.value = form.elements.comment.value = "";
      link.focus();
    } catch (error) {
      caught.textContent = error.message;
    }
    button.disabled = false;
  });

  // Pointers: one drags or draws, two pinch.
  const pointers = new Map();
  let moved = 0;
  function spot(event) {
    const box = map.getBoundingClientRect();
    const x = view.x + ((event.clientX - box.left) / box.width) * view.width;
    const y = view.y + ((event.clientY - box.top) / box.height) * view.width;
    return [x, y];
  }
  map.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    pointers.set(event.pointerId, event);
    moved = 0;
    if (drawing && pointers.size === 1) {
      corners = [spot(event)];
      closed = false;
    }
  });
  addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const box = map.getBoundingClientRect();
    const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
    if (drawing && pointers.size === 1) {
      if (Math.hypot(dx, dy) < 3) return;
      corners.push(spot(event));
      draw();
    } else if (pointers.size === 1) {
      if (!moved && Math.hypot(dx, dy) < 4) return;
      map.setPointerCapture(event.pointerId);
      panBy(-dx / box.width, -dy / box.height);
    } else {
      const [other] = [...pointers.values()].filter((one) => one.pointerId !== event.pointerId);
      const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      zoomAt(apart(event) / Math.max(apart(before), 1), ...spot(other));
    }
    moved += Math.hypot(dx, dy);
    pointers.set(event.pointerId, event);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    addEventListener(name, (event) => {
      if (!pointers.delete(event.pointerId) || !drawing || pointers.size) return;
      closeLasso();
      setTool(false);
    });
  }
  map.addEventListener("click", (event) => {
    if (moved) event.preventDefault();
    else if (!event.target.closest("a[href*='/sources/']")) {
      event.preventDefault();
      if (!drawing && !closed) zoomAt(2, ...spot(event));
    }
  });
  map.addEventListener("dragstart", (event) => event.preventDefault());
  map.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const lines = event.deltaMode ? 16 : 1;
      zoomAt(2 ** clamp((-event.deltaY * lines) / 240, -1, 1), ...spot(event));
    },
    { passive: false },
  );

  // What is under the pointer.
  let resting = 0;
  map.addEventListener("pointermove", (event) => {
    clearTimeout(resting);
    if (pointers.size || event.pointerType === "touch") return;
    resting = setTimeout(() => show(...spot(event)), STILL);
  });
  map.addEventListener("pointerleave", () => {
    clearTimeout(resting);
    hover.hidden = true;
  });
  async function show(x, y) {
    const where = new URLSearchParams({ zoom: zoom(), x: toX(x), y: toY(y) });
    try {
      const answer = await fetch(`${base}/at.json?${where}`);
      const found = answer.ok ? await answer.json() : { n: 0 };
      hover.hidden = !found.n;
      if (!found.n) return;
      const words = document.createElement("span");
      words.textContent = found.n === 1 ? found.survey_id : `${found.survey_id}, one of ${found.n} here`;
      const image = new Image(56, 56);
      image.src = found.thumbnail ?? "";
      image.alt = "";
      hover.replaceChildren(...(found.thumbnail ? [image] : []), words);
    } catch {
      hover.hidden = true;
    }
  }

  // Tools and keys.
  const button = document.querySelector("#draw");
  function setTool(on) {
    drawing = on;
    button.setAttribute("aria-pressed", on);
    map.classList.toggle("drawing", on);
  }
  const MOVES = {
    in: () => zoomAt(2),
    out: () => zoomAt(0.5),
    whole,
    left: () => panBy(-0.25, 0),
    right: () => panBy(0.25, 0),
    up: () => panBy(0, -0.25),
    down: () => panBy(0, 0.25),
  };
  for (const link of document.querySelectorAll("[data-move]")) {
    link.removeAttribute("aria-disabled");
    link.href = base;
    link.addEventListener("click", (event) => {
      event.preventDefault();
      MOVES[link.dataset.move]();
    });
  }
  const KEYS = {
    "+": MOVES.in,
    "=": MOVES.in,
    "-": MOVES.out,
    0: whole,
    l: () => setTool(!drawing),
    i: () => document.querySelector("#with-pictures input").click(),
    Escape: () => (setTool(false), dropLasso()),
  };
  const ARROWS = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" };
  map.addEventListener("keydown", (event) => {
    if (!(event.key in ARROWS)) return;
    event.preventDefault();
    event.stopPropagation();
    MOVES[ARROWS[event.key]]();
  });
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.target.matches("input:not([type=checkbox]), select, textarea")) return;
    KEYS[event.key]?.();
  });

  group("steps").remove();
  for (const thing of ["#draw", "#with-pictures", "#hint"]) document.querySelector(thing).hidden = false;
  button.addEventListener("click", () => setTool(!drawing));
  document.querySelector("#with-pictures input").addEventListener("change", showThumbs);
  map.classList.add("alive");
  const element = group("pictures").firstElementChild;
  pictures.push({ ...view, zoom: zoom(), element });
  if (zoom()) addPicture({ zoom: 0, column: 0, row: 0 }, true);
  locate(view);
  draw();
})();
