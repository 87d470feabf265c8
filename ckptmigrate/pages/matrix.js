"use strict";
// The URL fragment is the state: #scenario/view/writer/reader. Event handlers change the fragment,
// and only `show` changes the page. So every cell has a link, and the Back button works.

const { symbols, texts, cells } = JSON.parse(document.getElementById("data").textContent);
const tabs = [...document.querySelectorAll("[role=tab]")];
const panels = tabs.map((tab) => document.getElementById(tab.getAttribute("aria-controls")));
const radios = [...document.querySelectorAll("input[name=mode]")];
const details = document.getElementById("details");
const views = { raw: "", migrated: ", migrated" };
let shown = { scenario: "", mode: "raw", cell: null };

function outcome(numbers) {
  return Object.fromEntries(Object.entries(numbers).map(([name, at]) => [name, texts[at]]));
}

function cellOf(scenario, writer, reader) {
  const key = `${scenario}/${writer}/${reader}`;
  if (!Object.hasOwn(cells, key)) return null;
  const { raw, migrated, error, command } = cells[key];
  return {
    scenario, writer, reader,
    raw: outcome(raw), migrated: outcome(migrated), error: texts[error], command: texts[command],
  };
}

// -- the fragment

function wanted() {
  let parts = [];
  try {
    parts = location.hash.slice(1).split("/").map(decodeURIComponent);
  } catch {
    // Unknown fragment: show the start page.
  }
  const [scenario, mode, writer, reader] = parts;
  const known = tabs.some((tab) => tab.dataset.scenario === scenario);
  return {
    scenario: known ? scenario : tabs[0].dataset.scenario,
    mode: mode === "migrated" ? mode : "raw",
    cell: known ? cellOf(scenario, writer, reader) : null,
  };
}

// Uses the fragment, not `shown`: a second key can be pressed before `show` runs.
function go(change) {
  const { scenario, mode, cell } = { ...wanted(), ...change };
  const place = cell && cellOf(scenario, cell.writer, cell.reader) ? [cell.writer, cell.reader] : [];
  location.hash = [scenario, mode, ...place].map(encodeURIComponent).join("/");
}

// -- the page

function show() {
  const { scenario, mode, cell } = wanted();
  const panel = panels[tabs.findIndex((tab) => tab.dataset.scenario === scenario)];
  tabs.forEach((tab, at) => {
    const chosen = panels[at] === panel;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    panels[at].hidden = !chosen;
  });
  for (const radio of radios) radio.checked = radio.value === mode;
  if (mode !== shown.mode) {
    panels.forEach((each, at) => {
      for (const button of buttons(each)) paint(button, tabs[at].dataset.scenario, mode);
    });
  }
  for (const button of document.querySelectorAll("button.cell[aria-pressed=true]")) {
    button.setAttribute("aria-pressed", "false");
  }
  for (const head of document.querySelectorAll("th.on")) head.classList.remove("on");
  const same = place(cell) === place(shown.cell);
  shown = { scenario, mode, cell };
  if (cell) choose(panel, cell);
  if (!same || !cell) describe(cell);
  // If the details are below the table, a tap would have no visible effect.
  const { top } = details.getBoundingClientRect();
  if (cell && !same && top > innerHeight / 2) details.scrollIntoView({ block: "nearest" });
}

function place(cell) {
  return cell && [cell.scenario, cell.writer, cell.reader].join("/");
}

function buttons(panel) {
  return [...panel.querySelectorAll("button.cell")];
}

// Builds the same button as _button in matrix/page.py, which builds the first view.
function paint(button, scenario, mode) {
  const { writer, reader } = button.dataset;
  const cell = cellOf(scenario, writer, reader);
  const { grade, how, words, reason } = cell[mode];
  const act = cell.raw.grade === "fails" ? " act" : "";
  button.className = `cell ${grade} ${how}${act}`;
  button.textContent = symbols[grade];
  button.setAttribute(
    "aria-label",
    `${writer} read by ${reader}${views[mode]}: ${words}${reason && `: ${reason}`} (${how})`,
  );
}

function choose(panel, { writer, reader }) {
  const button = buttons(panel).find(
    (each) => each.dataset.writer === writer && each.dataset.reader === reader,
  );
  button.setAttribute("aria-pressed", "true");
  rove(button);
  button.scrollIntoView({ block: "nearest", inline: "nearest" });
  const row = button.closest("tr");
  const column = [...row.children].indexOf(button.parentElement);
  row.firstElementChild.classList.add("on");
  panel.querySelector("thead tr:last-child").children[column].classList.add("on");
}

// Sets text with textContent only, so that markup in it is not parsed.
function element(name, className, ...content) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...content);
  return made;
}

function verdict({ grade, words, reason }, act) {
  const mark = element("span", `cell ${grade}${act ? " act" : ""}`, symbols[grade]);
  mark.setAttribute("aria-hidden", "true");
  const line = element("p", "verdict", mark, element("span", "", words));
  return reason ? [line, element("p", "reason", `Reason: ${reason}.`)] : [line];
}

function describe(cell) {
  if (!cell) {
    details.replaceChildren(element("p", "hint", "Choose a cell: its error, the reason and the " +
      "command that helps are shown here."));
    return;
  }
  const { scenario, writer, reader, raw, migrated, error } = cell;
  const act = raw.grade === "fails";
  details.replaceChildren(
    element("h2", "", `${writer} → ${reader}`),
    element("p", "", `Written by ${writer}, read by ${reader} (${scenario})`),
    element("h3", "", "Unmigrated"),
    ...verdict(raw, act),
    ...(error ? [element("pre", "error", element("code", "", error))] : []),
    element("p", "known", `${raw.known}.`),
    element("h3", "", "Migrated"),
    ...verdict(migrated, act),
    ...remedy(cell),
    element("p", "known", `${migrated.known}.`),
  );
}

function remedy({ migrated, command }) {
  if (migrated.grade === "fails") return [element("p", "note", "No command fixes this.")];
  if (!command) return [element("p", "note", "No migration is needed.")];
  // Lines break between words only, not within an option.
  const words = command.split(" ").map((word) => element("span", "word", word));
  const line = element("code", "", ...words.flatMap((word, at) => (at ? [" ", word] : [word])));
  return [
    element("pre", "command", line),
    copier(line),
    element("p", "note", "PATH is the checkpoint directory, or its root."),
  ];
}

function copier(line) {
  const button = element("button", "copy", "Copy");
  button.type = "button";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(line.textContent);
      button.textContent = "Copied";
    } catch {
      // Without permission to write to the clipboard, let the user copy the selection.
      getSelection().selectAllChildren(line);
      button.textContent = "Selected: copy it by hand";
    }
  });
  return button;
}

// -- keys: one tab stop per table, arrows within it

function rove(button) {
  for (const each of button.closest("table").querySelectorAll("button.cell[tabindex='0']")) {
    each.tabIndex = -1;
  }
  button.tabIndex = 0;
}

function target(button, { key, ctrlKey }) {
  const row = button.closest("tr");
  const rows = [...row.parentElement.rows];
  const at = rows.indexOf(row);
  const line = (number) => [...rows[Math.min(Math.max(number, 0), rows.length - 1)]
    .querySelectorAll("button.cell")];
  const column = line(at).indexOf(button);
  if (key === "ArrowLeft") return line(at)[column - 1];
  if (key === "ArrowRight") return line(at)[column + 1];
  if (key === "ArrowUp") return line(at - 1)[column];
  if (key === "ArrowDown") return line(at + 1)[column];
  if (key === "Home") return line(ctrlKey ? 0 : at)[0];
  if (key === "End") return line(ctrlKey ? rows.length - 1 : at).at(-1);
  return undefined;
}

function onCellKey(event) {
  const button = event.target.closest("button.cell");
  if (!button || event.altKey || event.metaKey) return;
  if (event.key.toLowerCase() === "m" && !event.ctrlKey) {
    go({ mode: wanted().mode === "raw" ? "migrated" : "raw" });
    return;
  }
  const next = target(button, event);
  if (!next) return;
  event.preventDefault();
  rove(next);
  next.focus();
}

function onTabKey(event) {
  const at = tabs.indexOf(event.target);
  const next = {
    ArrowLeft: tabs.at(at - 1), ArrowRight: tabs[(at + 1) % tabs.length],
    Home: tabs[0], End: tabs.at(-1),
  }[event.key];
  if (!next) return;
  event.preventDefault();
  next.focus();
  go({ scenario: next.dataset.scenario });
}

// -- start

function start() {
  document.documentElement.classList.add("js");
  for (const id of ["controls", "keys", "details"]) document.getElementById(id).hidden = false;
  tabs.forEach((tab, at) => {
    tab.addEventListener("click", () => go({ scenario: tab.dataset.scenario }));
    tab.addEventListener("keydown", onTabKey);
    panels[at].setAttribute("role", "tabpanel");
    const table = panels[at].querySelector("table");
    table.setAttribute("role", "grid");
    table.setAttribute("aria-label", `${tab.dataset.scenario}: written by, read by`);
    table.addEventListener("keydown", onCellKey);
    buttons(panels[at]).forEach((button, number) => {
      button.tabIndex = number ? -1 : 0;
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => {
        const { writer, reader } = button.dataset;
        rove(button);
        go({ cell: { writer, reader } });
      });
    });
  });
  for (const radio of radios) radio.addEventListener("change", () => go({ mode: radio.value }));
  addEventListener("hashchange", show);
  show();
}

start();
