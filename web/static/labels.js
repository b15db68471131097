// Labels by key, and none lost: whatever was said stays in this browser until the server has it.
// Loaded for those who are signed in. Without this file the forms of the label bar do the work.
"use strict";

(() => {
  const expert = Number(document.body.dataset.expert);
  const bar = document.querySelector(".label-bar[data-gives]");
  const unsent = document.querySelector("#unsent");
  const STORE = `skygloss label ${expert} `; // followed by the time, so that keys are in order
  const SAID = `skygloss said ${expert}`; // names of the last requests, for undo
  const DIGITS = 15; // of that time
  const UNDO = "undo";
  const MOST = 50; // of those
  const PATIENCE = 20_000; // milliseconds for an answer
  const CALM = 400; // milliseconds after the last label before the page of a cell is asked for
  const PAUSES = [1, 2, 5, 10, 30]; // seconds between attempts
  const before = new Map(); // request → how its subjects looked before, while this page is open
  let near = null; // the subject that had the focus last, outside the bar; null: what the page is about
  let asked = null; // the request that undo takes back when it is pressed once more
  let calm; // the timer of the page of a cell
  let sending = false;
  let pause = 0;
  let timer;

  // The queue.

  const waiting = () =>
    Object.keys(localStorage)
      .filter((key) => key.startsWith(STORE))
      .sort();
  const read = (key) => JSON.parse(localStorage.getItem(key));
  const saidBefore = () => JSON.parse(localStorage.getItem(SAID) || "[]");
  const keep = (names) => localStorage.setItem(SAID, JSON.stringify(names.slice(-MOST)));
  const remember = (request) => keep([...saidBefore(), request]);
  const forget = (request) => keep(saidBefore().filter((name) => name !== request));

  function newName() {
    const random = crypto.getRandomValues(new Uint32Array(3));
    return Array.from(random, (n) => n.toString(36)).join("-");
  }

  // Later than whatever waits, also after the clock was set back.
  function nextTime() {
    const last = waiting().at(-1)?.slice(STORE.length, STORE.length + DIGITS) ?? 0;
    return Math.max(Number(last) + 1, Date.now());
  }

  function put(path, words, body) {
    const request = newName();
    const key = `${STORE}${String(nextTime()).padStart(DIGITS, "0")} ${request}`;
    try {
      localStorage.setItem(key, JSON.stringify({ path, words, body: { ...body, request, expert } }));
    } catch {
      say("refused", "This browser has no room to keep what you say until it is saved. Not sent.");
      return null;
    }
    return request;
  }

  async function flush() {
    if (sending) return;
    sending = true;
    clearTimeout(timer);
    try {
      for (let [key] = waiting(); key; [key] = waiting()) if (!(await send(key))) break;
    } finally {
      sending = false;
    }
    count();
  }

  async function send(key) {
    const item = read(key);
    if (!item) return true; // another tab has sent it
    const { path, words, body } = item;
    say("saving", `Saving: ${words} …`);
    let answer;
    try {
      answer = await fetch(path, {
        method: "POST",
        headers: { "Content-Type": "application/json", Accept: "application/json" },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(PATIENCE),
      });
    } catch {
      return later("the server does not answer");
    }
    const facts = await answer.json().catch(() => null);
    const isBusy = answer.status >= 500 || [408, 425, 429].includes(answer.status);
    if (isBusy || (answer.ok && !facts))
      return later(facts?.detail ?? `the answer ${answer.status} is not one of ours`);
    if (!facts) return letReaderDecide(key, item, answer.status);
    if (answer.status === 401) return signInFirst(facts.detail);
    localStorage.removeItem(key);
    pause = 0;
    if (answer.ok) settle(words, facts);
    else refuse(words, body, facts);
    return true;
  }

  function later(reason) {
    const wait = PAUSES[Math.min(pause++, PAUSES.length - 1)];
    timer = setTimeout(flush, wait * 1000);
    mark("unsent");
    say("unsent", `Not saved yet, but kept here and sent again: ${reason}.`);
    return false;
  }

  function signInFirst(reason) {
    mark("unsent");
    say("unsent", `Not saved yet: ${reason} `);
    const link = document.createElement("a");
    link.href = `/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`;
    link.textContent = "Sign in, and it is sent.";
    state()?.append(link);
    return false;
  }

  // Something between us and the server refuses it: nobody here can know whether it ever will not.
  function letReaderDecide(key, { words, body }, status) {
    mark("unsent");
    say("unsent", `Not saved yet: ${words}. Something before the server answers ${status}. `);
    offer("Send again", flush);
    offer("Drop it", () => {
      localStorage.removeItem(key);
      refuse(words, body, { detail: "Dropped." });
      flush();
    });
    return false;
  }

  function offer(words, act) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "plain small";
    button.textContent = words;
    button.addEventListener("click", act);
    state()?.append(button, " ");
  }

  // How subjects look.

  const elements = (subject) => document.querySelectorAll(`[data-subject="${CSS.escape(subject)}"]`);

  function look(subject) {
    const { labelClass, label, labelKey } = elements(subject)[0]?.dataset ?? {};
    const colour = [...(elements(subject)[0]?.classList ?? [])].find((c) => /^label-\d+$/.test(c));
    return colour ? { id: labelClass, name: label, key: labelKey, colour: colour.slice(6) } : null;
  }

  function paint(subject, shown, condition) {
    for (const element of elements(subject)) {
      if (element.classList.contains("label-subject")) continue;
      for (const name of [...element.classList])
        if (/^label-\d+$/.test(name)) element.classList.remove(name);
      element.classList.toggle("labelled", Boolean(shown));
      if (shown) element.classList.add(`label-${shown.colour}`);
      set(element, "labelClass", shown?.id);
      set(element, "label", shown?.name);
      set(element, "labelKey", shown?.key);
      set(element, "labelState", condition);
      for (const text of element.querySelectorAll("[data-label-text]"))
        text.textContent = shown ? shown.key || shown.name[0] : "";
      for (const text of element.querySelectorAll("[data-label-name]"))
        text.textContent = shown ? shown.name : "";
    }
    tally();
  }

  function set(element, name, value) {
    if (value === null || value === undefined || value === "") delete element.dataset[name];
    else element.dataset[name] = value;
  }

  function mark(condition) {
    for (const key of waiting())
      for (const subject of read(key).body.subjects ?? [])
        for (const element of elements(subject)) set(element, "labelState", condition);
  }

  function tally() {
    const all = document.querySelectorAll("[data-subject]:not(.label-subject)");
    for (const button of bar?.querySelectorAll("[name=label_class_id]") ?? []) {
      const n = [...all].filter((one) => one.dataset.labelClass === button.value).length;
      button.querySelector(".tally").textContent = n || "";
    }
  }

  function settle(words, facts) {
    for (const [subject, now] of Object.entries(facts.now)) paint(subject, now.shown);
    say("saved", `${words === UNDO ? "Took back" : "Saved"}: ${facts.words}`);
    renew(Object.keys(facts.now));
    dispatchEvent(new CustomEvent("labels-saved", { detail: facts }));
  }

  function refuse(words, body, facts) {
    for (const [subject, shown] of before.get(body.request) ?? []) paint(subject, shown);
    forget(body.request);
    say("refused", `Not stored: ${words}. ${facts.detail ?? ""}`);
  }

  async function renew(subjects) {
    if (document.querySelector(".cell-page .members")) {
      clearTimeout(calm);
      calm = setTimeout(renewCell, CALM);
      return;
    }
    const open = bar?.querySelector(".label-said");
    const subject = bar?.dataset.subjects;
    if (!open || !subjects.includes(subject)) return;
    try {
      const answer = await fetch(`/labels/said?subject=${encodeURIComponent(subject)}`);
      if (answer.ok) open.innerHTML = await answer.text();
    } catch {
      // What is shown was true a moment ago; the state below says what was saved.
    }
  }

  // On the page of a cell whatever is said of it, or of a member, changes what its members bear.
  async function renewCell() {
    let fresh;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (!answer.ok) return;
      fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    } catch {
      return; // the state below says what was saved
    }
    for (const place of [".label-said", ".cell-page .facts"])
      document.querySelector(place)?.replaceChildren(...(fresh.querySelector(place)?.childNodes ?? []));
    for (const card of fresh.querySelectorAll(".members [data-subject]"))
      for (const shown of elements(card.dataset.subject))
        if (!shown.dataset.labelState)
          shown.querySelector(".marks")?.replaceChildren(...card.querySelector(".marks").cloneNode(true).childNodes);
  }

  // What the reader sees of the sending.

  const state = () => bar?.querySelector(".label-state");

  function say(condition, words) {
    if (!state()) return count();
    state().dataset.state = condition;
    state().textContent = words;
    count();
  }

  function count() {
    const n = waiting().length;
    unsent.hidden = !n;
    unsent.textContent = n === 1 ? "1 not saved yet" : `${n} not saved yet`;
  }

  // Saying something.

  const chosen = () => [...document.querySelectorAll('[data-subject][aria-selected="true"]')];
  const ofPage = () => bar.dataset.subjects.split(" ").filter(Boolean);

  // What the next key is about, and what the line says: nothing else may ask where the focus is.
  function subjects() {
    const names = chosen().map((element) => element.dataset.subject);
    if (names.length) return [...new Set(names)];
    return near ? [near] : ofPage();
  }

  function stand(element) {
    const subject = element?.closest("[data-subject]")?.dataset.subject;
    near = subject ?? (ofPage().length ? null : near); // a map is about the cell that had the focus last
    target();
  }

  function wording(names) {
    if (names.join(" ") === bar?.dataset.subjects) return bar.dataset.names;
    if (names.length !== 1) return `${names.length} selected`;
    const [kind, ...numbers] = names[0].split(":");
    const { name } = elements(names[0])[0]?.dataset ?? {};
    if (name) return name;
    return kind === "cell" ? `cell (${numbers[1]}, ${numbers[2]})` : `${kind} ${numbers[0]}`;
  }

  function act(path, words, body, shown) {
    const request = put(path, words, body);
    if (!request) return;
    asked = null;
    if (body.action) remember(request);
    if (shown !== undefined) dispatchEvent(new Event("labels-given")); // the map chooses none then
    if (body.action === "label" || body.action === "clear") {
      before.set(request, body.subjects.map((subject) => [subject, look(subject)]));
      for (const subject of body.subjects) paint(subject, shown, "saving");
    }
    flush();
  }

  function give(button) {
    const names = subjects();
    if (!names.length) return say("refused", "Choose what to label first: a cell, or several.");
    const { name, colour, key } = button.dataset;
    const shown = { id: button.value, name, colour, key };
    const field = bar.querySelector("#label-comment");
    const number = Number(button.value);
    const body = { subjects: names, action: "label", label_class_id: number, comment: field.value };
    act("/labels", `${name} for ${wording(names)}`, body, shown);
    field.value = "";
  }

  function clear() {
    const names = subjects();
    if (!names.length) return say("refused", "Choose what it is about first.");
    const body = { subjects: names, action: "clear" };
    act("/labels", `no opinion on ${wording(names)}`, body, null);
  }

  function comment() {
    const field = bar.querySelector("#label-comment");
    const names = subjects();
    if (!field.value.trim()) return field.focus();
    if (!names.length) return say("refused", "Choose what it is about first.");
    const body = { subjects: names, action: "comment", comment: field.value };
    act("/labels", `comment on ${wording(names)}`, body);
    field.value = "";
  }

  function undo() {
    const of = saidBefore().at(-1) ?? asked;
    if (!of) return askWhatWasLast();
    for (const [subject, shown] of before.get(of) ?? []) paint(subject, shown, "saving");
    act("/labels/undo", UNDO, { of });
    forget(of);
  }

  // This browser knows of nothing more: what the server knows is shown before it is taken back.
  async function askWhatWasLast() {
    if (waiting().length) return say("unsent", "Not saved yet, but kept here; what was before it can be taken back then.");
    let facts;
    try {
      const answer = await fetch("/labels/last", {
        headers: { Accept: "application/json" },
        signal: AbortSignal.timeout(PATIENCE),
      });
      facts = await answer.json();
      if (!answer.ok) return say("refused", `Nothing was taken back: ${facts.detail}`);
    } catch {
      return say("refused", "Nothing was taken back: the server does not say what was last.");
    }
    const { last } = facts;
    if (!last) return say("refused", "Nothing is left to take back.");
    asked = last.request;
    const when = new Date(last.created_at).toLocaleString();
    say("asks", `Take back: ${last.words}, said ${when}? Press undo once more.`);
  }

  function press(button) {
    if ("undo" in button.dataset) undo();
    else if (button.name === "label_class_id") give(button);
    else if (button.value === "clear") clear();
    else comment();
  }

  function target() {
    const line = bar.querySelector(".label-target");
    const names = subjects();
    line.hidden = false;
    line.textContent = names.length ? `For ${wording(names)}` : "Choose a cell, or several";
  }

  function backToPage() {
    if (!ofPage().length) return;
    document.activeElement.blur();
    stand(null);
  }

  if (bar) {
    for (const line of document.querySelectorAll("#keys [data-labelling]")) line.hidden = false;
    bar.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      press(event.submitter);
    });
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
      if (document.querySelector("dialog[open]")) return;
      if (event.target.matches("input:not([type=checkbox]), select, textarea")) return;
      if (event.key === "Escape") return backToPage();
      const key = event.key.toLowerCase();
      const button = bar.querySelector(`[data-key="${CSS.escape(key)}"]`);
      if (!button && key !== "c") return;
      event.preventDefault();
      event.stopImmediatePropagation();
      if (button) press(button);
      else bar.querySelector("#label-comment").focus();
    }, true);
    // A pressed button must not take the focus from what it is about.
    bar.addEventListener("mousedown", (event) => {
      if (event.target.closest("button")) event.preventDefault();
    });
    document.addEventListener("focusin", (event) => bar.contains(event.target) || stand(event.target));
    document.addEventListener("focusout", (event) => {
      if (bar.contains(event.target)) return;
      setTimeout(() => document.activeElement === document.body && stand(null));
    });
    new MutationObserver(target).observe(document.body, {
      subtree: true,
      attributeFilter: ["aria-selected"],
    });
    stand(bar.contains(document.activeElement) ? null : document.activeElement);
    tally();
  }
  document.querySelector('form[action="/sign-out"]')?.addEventListener("submit", (event) => {
    const n = waiting().length;
    const words = `${n === 1 ? "One thing" : `${n} things`} you said cannot be saved yet. It stays readable in this browser, and is sent when you sign in here again. Sign out anyway?`;
    if (n && !confirm(words)) event.preventDefault();
  });
  addEventListener("online", flush);
  addEventListener("pageshow", flush);
  document.addEventListener("visibilitychange", () => document.hidden || flush());
  mark("unsent");
  count();
})();
