// Comfort on the maps: arrows from cell to cell, cells chosen by key and pointer, a closer look.
// Labels are given by labels.js to the cells that are chosen here.
"use strict";

(() => {
  const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const CALM = 400; // milliseconds after the last label before the words are asked for
  const grid = document.querySelector("#cells");

  // On the page of one cell the arrows lead to the cells beside it.
  const WORDS = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" };
  function follow(event) {
    const link = document.querySelector(`[data-move="${WORDS[event.key]}"]`);
    if (!link || event.shiftKey || isBusy(event)) return;
    event.preventDefault();
    event.stopPropagation();
    link.click();
  }
  function isBusy(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return true;
    if (document.querySelector("dialog[open]")) return true;
    return event.target.matches("input, select, textarea");
  }
  if (!grid) {
    document.addEventListener("keydown", follow, true);
    return;
  }

  const rows = [...grid.querySelectorAll('[role="row"]')].map((row) => [
    ...row.querySelectorAll('[role="gridcell"]'),
  ]);
  const cells = rows.flat();
  const link = (cell) => cell.querySelector("a");
  const place = (cell) => cell.dataset.subject.split(":").slice(2).map(Number);
  const isChosen = (cell) => cell.getAttribute("aria-selected") === "true";
  let here = cells[0];
  let anchor = here;

  // One cell is in the order of tabs: the last that had the focus.
  function stand(cell) {
    link(here).setAttribute("tabindex", "-1");
    here = cell;
    link(here).setAttribute("tabindex", "0");
  }
  for (const cell of cells) link(cell).setAttribute("tabindex", "-1");
  stand(here);

  // Choosing. The button is for touch: while it is pressed, a tap chooses and opens nothing.
  const chosen = document.querySelector("#chosen");
  const choosing = document.querySelector("#choosing");
  const isChoosing = () => choosing.getAttribute("aria-pressed") === "true";
  choosing.hidden = false;
  choosing.addEventListener("click", () => choosing.setAttribute("aria-pressed", !isChoosing()));
  function choose(cell, yes) {
    cell.setAttribute("aria-selected", yes);
  }
  function tell() {
    const n = cells.filter(isChosen).length;
    chosen.textContent = n ? `${n} cell${n === 1 ? "" : "s"} chosen` : "";
  }
  new MutationObserver(tell).observe(grid, { subtree: true, attributeFilter: ["aria-selected"] });
  function chooseNone() {
    for (const cell of cells.filter(isChosen)) choose(cell, false);
  }
  function chooseBlock(to) {
    const [[a, b], [c, d]] = [place(anchor), place(to)];
    for (const cell of cells) {
      const [row, column] = place(cell);
      const inside = (row - a) * (row - c) <= 0 && (column - b) * (column - d) <= 0;
      if (isChosen(cell) !== inside) choose(cell, inside);
    }
  }

  grid.addEventListener("keydown", (event) => {
    if (isBusy(event)) return;
    if (event.key in ARROWS) {
      const [down, right] = ARROWS[event.key];
      const [row, column] = place(here);
      const next = rows[row + down]?.[column + right];
      event.preventDefault();
      event.stopPropagation();
      if (!next) return;
      if (!event.shiftKey) anchor = next;
      link(next).focus();
      if (event.shiftKey) chooseBlock(next);
    } else if (event.key === " ") {
      event.preventDefault();
      choose(here, !isChosen(here));
      anchor = here;
    } else if (event.key === "Home" || event.key === "End") {
      event.preventDefault();
      link(rows[place(here)[0]].at(event.key === "Home" ? 0 : -1)).focus();
    }
  });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !isBusy(event)) chooseNone();
  });
  addEventListener("labels-given", chooseNone); // so that the next key is about the next cell
  grid.addEventListener("click", (event) => {
    const cell = event.target.closest('[role="gridcell"]');
    if (!cell || !(event.shiftKey || isChoosing())) return;
    event.preventDefault();
    if (event.shiftKey) {
      chooseBlock(cell);
    } else {
      choose(cell, !isChosen(cell));
      anchor = cell;
    }
    link(cell).focus();
  });
  grid.addEventListener("dragstart", (event) => event.preventDefault());

  // A closer look at the cell under the pointer or with the focus.
  const about = document.querySelector("#about");
  const close = document.querySelector("#close");
  let looking = null;
  function look(cell) {
    const [row, column] = place(cell);
    close.setAttribute("viewBox", `${column} ${row} 1 1`);
    close.classList.add("alive");
    about.className = "";
    about.textContent = cell.querySelector("title").textContent;
    looking = cell;
  }
  grid.addEventListener("focusin", (event) => {
    const cell = event.target.closest('[role="gridcell"]');
    stand(cell);
    look(cell);
  });
  grid.addEventListener("pointerover", (event) => {
    const cell = event.target.closest('[role="gridcell"]');
    if (cell) look(cell);
  });
  grid.addEventListener("pointerleave", () => {
    if (grid.contains(document.activeElement)) look(here);
  });

  // What was saved changes the words of the cells and the legend; colours are for labels.js.
  let timer;
  addEventListener("labels-saved", () => {
    clearTimeout(timer);
    timer = setTimeout(renew, CALM);
  });
  async function renew() {
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (!answer.ok) return;
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      const titles = fresh.querySelectorAll("#cells title");
      cells.forEach((cell, k) => {
        cell.querySelector("title").textContent = titles[k].textContent;
      });
      document.querySelector(".legend").replaceWith(fresh.querySelector(".legend"));
      if (looking) look(looking);
    } catch {
      // The words are those of a moment ago; what was saved stands in the label bar.
    }
  }
})();
