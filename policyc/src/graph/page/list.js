// The same in words, destination by destination; it is what is printed. And the list of changes.
const LISTED_MAX = 300, PRINTED_MAX = 2000, NAMED_MAX = 12, CHANGES_MAX = 1000;

function listView(host) {
  let limit = LISTED_MAX;
  const canvas = el("div", { class: "list", tabindex: "0" });
  host.replaceChildren(canvas);
  const draw = () => {
    const { rows, columns } = visible();
    canvas.replaceChildren(...entries(rows, columns, limit, true));
    if (columns.length > limit)
      canvas.append(el("button", { type: "button", onclick: () => { limit += LISTED_MAX; draw(); } }, `show ${Math.min(LISTED_MAX, columns.length - limit)} of ${columns.length - limit} more`));
  };
  draw();
  return { update: (changes) => { if (!("from" in changes)) draw(); }, focus: () => canvas.focus(), end: () => {} };
}

// For each destination: sources by what they may do there.
function entries(rows, columns, limit, active) {
  if (!rows.length || !columns.length) return [el("p", { class: "empty" }, "Nothing matches these filters.")];
  return columns.slice(0, limit).map(({ party: to, members }) => {
    const profiles = new Map();
    for (const { party: from, members: sources } of rows) {
      if (!wanted(pair(from, to, state.port))) continue;
      const words = inWords(from, to, state.port);
      if (!profiles.has(words)) profiles.set(words, []);
      profiles.get(words).push(...sources);
    }
    const reaching = (a) => (a[0].endsWith("every port: denied") && !a[0].includes(";") ? 1 : 0);
    const lines = [...profiles].sort((a, b) => reaching(a) - reaching(b) || a[1].length - b[1].length);
    return el("article", {},
      el("h3", {}, partyName(to, members.length - 1), el("small", {}, to.ports.map((p) => `${p.port} ${PROTOCOLS[p.protocol]}`).join(", ") || "no port declared")),
      el("table", {}, el("tbody", {}, lines.map(([words, sources]) => el("tr", {},
        el("td", {}, words.split("; ").map(mark)),
        el("td", {}, who(sources, to, active)))))));
  });
}

function mark(words) {
  const mask = words.endsWith(": kernel") ? 2 : words.endsWith(": userspace") ? 4 : 1;
  return el("span", { class: "line" }, el("i", { class: `dot m${mask}`, "aria-hidden": "true" }), " ", words);
}

// Names of sources, whole namespaces by their name.
function who(sources, to, active) {
  const chosen = new Set(sources);
  const namespaces = new Map();
  for (const party of now.parties) {
    if (!namespaces.has(party.namespace)) namespaces.set(party.namespace, []);
    namespaces.get(party.namespace).push(party);
  }
  const parts = [];
  for (const [namespace, all] of namespaces) {
    const some = all.filter((p) => chosen.has(p));
    if (!some.length) continue;
    if (namespace && some.length === all.length && all.length > 2) parts.push({ text: `all ${all.length} of ${namespace}`, party: some[0] });
    else parts.push(...some.map((party) => ({ text: partyText(party), party })));
  }
  const named = parts.slice(0, NAMED_MAX).map(({ text, party }, i) => [i ? ", " : "",
    active ? el("button", { type: "button", class: "plain", onclick: () => update({ from: party, to }) }, text) : text]);
  if (parts.length > NAMED_MAX) named.push(` and ${parts.length - NAMED_MAX} more`);
  return named;
}

function changesView(host) {
  const canvas = el("div", { class: "list", tabindex: "0" });
  host.replaceChildren(canvas);
  const draw = () => canvas.replaceChildren(...changes());
  draw();
  return { update: (changed) => { if (!("from" in changed)) draw(); }, focus: () => canvas.focus(), end: () => {} };
}

function changes() {
  const { rows, columns } = visible();
  const found = { opened: [], closed: [], reworded: [] };
  let count = 0;
  for (const { party: to } of columns) for (const { party: from } of rows) {
    const both = pair(from, to, state.port);
    if (!both || !both.change) continue;
    const moved = new Map();
    for (const port of portsToShow(to, state.port)) {
      const change = changeAt(from, to, port);
      if (change) moved.set(change, [...(moved.get(change) || []), port]);
    }
    for (const [change, ports] of moved) {
      count++;
      if (found[change].length < CHANGES_MAX) found[change].push({ from, to, ports });
    }
  }
  const gone = was.parties.filter((p) => !now.byName.has(partyKey(p)) && p.kind !== "addresses").map(partyText);
  const fresh = now.parties.filter((p) => !before(p)).map(partyText);
  const names = (title, list) => (list.length ? el("p", { class: "note" }, `${title}: ${list.slice(0, 20).join(", ")}${list.length > 20 ? ` and ${list.length - 20} more` : ""}`) : null);
  const section = (change) => (found[change].length ? el("article", {},
    el("h3", {}, changeBadge(change), el("small", {}, counted(found[change].length, "pair", "pairs"))),
    el("table", {}, el("tbody", {}, found[change].map(({ from, to, ports }) => el("tr", {},
      el("td", {}, el("button", { type: "button", class: "plain", onclick: () => update({ from, to }) }, `${partyText(from)} \u2192 ${partyText(to)}`)),
      el("td", {}, ports.map((p) => portWord(p, ports.length === 1 && !to.ports.length)).join(", "))))))) : null);
  return [
    el("p", { class: "note" }, count ? "Verdicts that differ from the old side, by name of workload." : "Between workloads of the same name no verdict differs."),
    names("New, and not compared", fresh), names("Gone", gone), ...Object.keys(CHANGES).map(section),
  ].filter(Boolean);
}

// What goes to paper is the list, of what is shown.
function printed() {
  const { rows, columns } = visible();
  byId("print").replaceChildren(...entries(rows, columns, PRINTED_MAX, false),
    ...(columns.length > PRINTED_MAX ? [el("p", {}, `${columns.length - PRINTED_MAX} more destinations are not printed: narrow them by the filters.`)] : []));
}
