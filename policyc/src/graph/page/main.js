// The frame: tabs, filters, keys, theme, and what follows from a choice.
const VIEWS = [["matrix", "Matrix", matrixView], ["network", "Graph", networkView], ["list", "List", listView]];
if (was) VIEWS.push(["changes", "Changes", changesView]);
const GROUPED_FROM = 60;
let current = null;

function openView() {
  if (current) current.end();
  const [name, , make] = VIEWS.find(([name]) => name === state.view);
  for (const tab of byId("views").children) {
    tab.setAttribute("aria-selected", String(tab.dataset.view === name));
    tab.tabIndex = tab.dataset.view === name ? 0 : -1;
  }
  byId("view").className = `view ${name}`;
  hint(null);
  current = make(byId("view"));
}

function tabs() {
  byId("views").replaceChildren(...VIEWS.map(([name, title], i) => el("button", {
    type: "button", role: "tab", "data-view": name, title: `${title} (${i + 1})`, onclick: () => update({ view: name }),
    onkeydown: (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      const next = VIEWS[(i + by + VIEWS.length) % VIEWS.length][0];
      update({ view: next });
      byId("views").querySelector(`[data-view="${next}"]`).focus();
    },
  }, title)));
}

function filters() {
  const ports = [...new Set(now.parties.flatMap((p) => p.ports.map((one) => one.port)))].sort((a, b) => a - b);
  byId("port").replaceChildren(el("option", { value: "all" }, "all"), ...ports.map((port) => el("option", { value: port }, String(port))), el("option", { value: "other" }, "any other"));
  byId("port").onchange = (event) => {
    const value = event.target.value;
    update({ port: value === "all" ? undefined : value === "other" ? null : Number(value) });
  };
  for (const verdict of [ALLOW, ASK, DENY]) {
    byId("verdicts").append(el("label", { class: "check" }, el("input", {
      type: "checkbox", checked: true, "data-verdict": verdict,
      onchange: (event) => { const chosen = new Set(state.verdicts); event.target.checked ? chosen.add(verdict) : chosen.delete(verdict); update({ verdicts: chosen }); },
    }), el("i", { class: `dot m${1 << verdict}`, "aria-hidden": "true" }), VERDICTS[verdict].word));
  }
  byId("search").oninput = (event) => update({ query: event.target.value, focus: null });
  byId("grouped").checked = state.grouped = now.parties.length > GROUPED_FROM;
  byId("grouped").onchange = (event) => update({ grouped: event.target.checked });
  byId("changed-only").onchange = (event) => update({ changedOnly: event.target.checked });
  byId("changed-only-label").hidden = !was;
  byId("filters").onsubmit = (event) => event.preventDefault();
  byId("filters").onreset = () => setTimeout(() => {
    byId("grouped").checked = now.parties.length > GROUPED_FROM;
    update({ query: "", namespaces: null, port: undefined, verdicts: new Set([DENY, ALLOW, ASK]), changedOnly: false, focus: null, grouped: byId("grouped").checked });
  });
  namespaceList();
}

function namespaceList() {
  const all = [...new Set(now.parties.map((p) => p.namespace))];
  const shown = (name) => !state.namespaces || state.namespaces.has(name);
  byId("namespaces").querySelector("summary").textContent = state.namespaces ? `Namespaces: ${state.namespaces.size} of ${all.length}` : "Namespaces";
  byId("namespace-list").replaceChildren(
    el("div", { class: "both" }, el("button", { type: "button", class: "quiet", onclick: () => update({ namespaces: null }) }, "all"), el("button", { type: "button", class: "quiet", onclick: () => update({ namespaces: new Set() }) }, "none")),
    ...all.map((name) => el("label", { class: "check" }, el("input", {
      type: "checkbox", checked: shown(name), "data-namespace": name,
      onchange: (event) => {
        const chosen = new Set(all.filter(shown));
        event.target.checked ? chosen.add(name) : chosen.delete(name);
        update({ namespaces: chosen.size === all.length ? null : chosen });
      },
    }), name || "outside")));
}

function summary() {
  const workloads = now.parties.filter((p) => p.scope !== NOT_ENFORCED).length;
  const asks = now.cells.filter((c) => c.verdict === ASK).length;
  byId("summary").textContent = [counted(workloads, "workload", "workloads"), counted(now.policies.length, "policy", "policies"), counted(now.scopes.length, "scope", "scopes"),
    `${now.cells.length ? Math.round((100 * (now.cells.length - asks)) / now.cells.length) : 100} % of distinct verdicts in the kernel`].join(" \u00b7 ");
}

const THEMES = ["auto", "light", "dark"];
function theme(name) {
  document.documentElement.dataset.theme = name;
  const sign = { auto: "\u25d0", light: "\u2600", dark: "\u263e" }[name];
  byId("theme").replaceChildren(el("span", { "aria-hidden": "true" }, sign));
  byId("theme").setAttribute("aria-label", `Colours: ${name}`);
  byId("theme").title = `Colours: ${name} (t)`;
  try { localStorage.setItem("theme", name); } catch { /* a page from a file may have no storage */ }
}
const nextTheme = () => theme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]);
function storedTheme() {
  try { return THEMES.find((name) => name === localStorage.getItem("theme")) || "auto"; } catch { return "auto"; }
}

function help() {
  const rows = [["/", "search; `web > db` looks for sources and destinations apart"], ["arrows, Home, End, PgUp, PgDn", "go through the matrix"], ["Enter", "details of the pair"],
    ...VIEWS.map(([, title], i) => [String(i + 1), title.toLowerCase()]), ["g", "group alike"], ["t", "light, dark or as the system"], ["Esc", "back: closes details, leaves search"], ["?", "this help"]];
  byId("help").replaceChildren(el("h2", { id: "help-title" }, "Keys"), el("table", {}, el("tbody", {}, rows.map(([k, what]) => el("tr", {}, el("th", { scope: "row" }, el("kbd", {}, k)), el("td", {}, what))))),
    el("h2", {}, "Marks"), marks(), el("p", { class: "note" }, "A verdict is a cell of the decision map that the kernel reads. Sources without an identity are outside: blocks that policies name, and any other address. Printing gives the list of what is shown."),
    el("form", { method: "dialog" }, el("button", {}, "Close")));
  byId("help").showModal();
}

function keys(event) {
  const typing = event.target.closest("input,select,textarea,dialog");
  if (event.key === "Escape" && !event.target.closest("dialog")) {
    if (typing) { event.target.blur(); current.focus(); }
    else if (state.from) update({ from: null, to: null });
    else if (state.focus) update({ focus: null });
    byId("namespaces").open = false;
    return;
  }
  if (typing && event.target.type !== "checkbox") {
    if (event.target.id === "search" && (event.key === "Enter" || event.key === "ArrowDown")) { event.preventDefault(); current.focus(); }
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = { "/": () => { byId("search").focus(); byId("search").select(); }, "?": help, t: nextTheme, g: () => byId("grouped").click() };
  const view = VIEWS[Number(event.key) - 1];
  if (view) update({ view: view[0] });
  else if (actions[event.key]) actions[event.key]();
  else return;
  event.preventDefault();
}

// The chosen pair is in the page's address, so that a link can show it.
function remember() {
  const { from, to } = state;
  const hash = from && to ? "#" + [from, to].map((p) => encodeURIComponent(partyKey(p))).join("&") : "";
  try { history.replaceState(null, "", hash || location.pathname + location.search); } catch { /* not everywhere allowed */ }
}
function recall() {
  const parties = location.hash.slice(1).split("&").map((text) => { try { return now.byName.get(decodeURIComponent(text)); } catch { return undefined; } });
  return parties.length === 2 && parties[0] && parties[1] ? { from: parties[0], to: parties[1] } : {};
}

Object.assign(state, recall());
tabs();
filters();
summary();
theme(storedTheme());
byId("theme").onclick = nextTheme;
byId("help-open").onclick = help;
document.addEventListener("keydown", keys);
document.addEventListener("click", (event) => { if (!event.target.closest("#namespaces")) byId("namespaces").open = false; });
addEventListener("beforeprint", printed);
listen((changes) => {
  if ("from" in changes) { state.panelPort = undefined; showPanel(); remember(); }
  if ("port" in changes && state.from) showPanel();
  if ("namespaces" in changes) namespaceList();
  if ("view" in changes || ("focus" in changes && changes.focus && state.view !== "network")) openView();
  else current.update(changes);
});
showPanel();
openView();
