// Comfort only: every page works without this file.
"use strict";

const one = (selector) => document.querySelector(selector);
const steps = () => [...document.querySelectorAll("[data-steps] [data-step]")];

function switchTheme() {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  root.dataset.theme = (root.dataset.theme || system) === "dark" ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
}

function move(by) {
  const all = steps();
  if (!all.length) return;
  const here = all.indexOf(document.activeElement);
  const next = here < 0 ? 0 : Math.min(Math.max(here + by, 0), all.length - 1);
  all[next].focus();
  all[next].scrollIntoView({ block: "nearest" });
}

function rowLength() {
  const all = steps();
  const top = all.length ? all[0].getBoundingClientRect().top : 0;
  const inRow = all.filter((step) => Math.abs(step.getBoundingClientRect().top - top) < 4);
  return Math.max(inRow.length, 1);
}

function follow(selector) {
  const link = one(selector);
  if (link) link.click();
}

const isList = () => steps().length > 0;
const forward = () => (isList() ? move(1) : follow(".steps a[rel=next]"));
const back = () => (isList() ? move(-1) : follow(".steps a[rel=prev]"));

const KEYS = {
  j: forward,
  ArrowRight: forward,
  k: back,
  ArrowLeft: back,
  ArrowDown: () => move(rowLength()),
  ArrowUp: () => move(-rowLength()),
  n: () => follow("a[rel=next]"),
  p: () => follow("a[rel=prev]"),
  u: () => follow("#up"),
  t: switchTheme,
  m: () => follow("#marks"),
  M: () => follow("#masks"),
  "/": () => (one("#id") ? openSearch() : location.assign("/sources")),
  "?": () => one("#keys").showModal(),
};

function openSearch() {
  const filters = one("#show-filters");
  if (filters) filters.checked = true;
  one("#id").focus();
  one("#id").select();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || one("dialog[open]")) return;
  if (event.key === "Escape" && event.target.matches("input, select, textarea")) event.target.blur();
  if (event.target.matches("input:not([type=checkbox]), select, textarea")) return;
  const isArrowUpOrDown = event.key === "ArrowDown" || event.key === "ArrowUp";
  if (isArrowUpOrDown && !steps().includes(document.activeElement)) return;
  const act = KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

for (const [selector, act] of [["#theme", switchTheme], ["#help", () => one("#keys").showModal()]]) {
  one(selector).hidden = false;
  one(selector).addEventListener("click", act);
}

// Blank fields stay out of the address, and so do those that mean nothing without another.
const asking = [...document.querySelectorAll("form.filters, .filters form[method=get]")];
const isBlank = (field) => {
  const beside = field.dataset.with && field.form.elements[field.dataset.with];
  return field.name && (!field.value || (beside && !beside.value));
};
for (const form of asking) {
  form.addEventListener("submit", () => {
    for (const field of form.elements) field.disabled = isBlank(field);
  });
}
addEventListener("pageshow", () => {
  for (const form of asking) for (const field of form.elements) field.disabled = false;
});

// An image can be dropped or pasted anywhere on the search page.
const file = one("#upload input[type=file]");
if (file) {
  const shown = file.closest(".filters");
  const send = (files) => {
    file.files = files;
    file.form.requestSubmit();
  };
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    shown.classList.add("dropping");
  });
  addEventListener("dragleave", () => shown.classList.remove("dropping"));
  addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    send(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) send(event.clipboardData.files);
  });
}

// The status page keeps itself fresh: the new text takes the place of the old, what was unfolded
// stays so, and nothing happens while the page is hidden or somebody selects text.
async function refresh(live) {
  if (document.hidden || String(getSelection())) return;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const content = fresh.querySelector("#live");
    if (!content) return;
    const unfolded = [...live.querySelectorAll("details[open]")].map((details) => details.id);
    const focused = live.contains(document.activeElement) ? document.activeElement : null;
    if (focused && !focused.closest("details")) return;
    content.querySelectorAll("details").forEach((d) => (d.open = unfolded.includes(d.id)));
    const inside = focused?.closest("details")?.id;
    live.replaceChildren(...content.childNodes);
    if (inside) document.getElementById(inside)?.querySelector("summary")?.focus();
  } catch {
    // The server is away; the page says since when it is out of date.
  }
}
const live = one("#live");
if (live) setInterval(() => refresh(live), Number(live.dataset.refresh) * 1000);
