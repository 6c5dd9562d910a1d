// Elements are made, never written as markup, so that no name in the data can be one.
function el(name, attributes, ...children) {
  const node = document.createElement(name);
  fill(node, attributes, children);
  return node;
}

function svg(name, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  fill(node, attributes, children);
  return node;
}

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "css") for (const [property, setting] of Object.entries(value)) node.style.setProperty(property, setting);
    else node.setAttribute(key, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined) node.append(child);
}

const byId = (id) => document.getElementById(id);
const counted = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

function partyText(party) {
  return outside(party) ? party.name : `${party.namespace}/${party.name}`;
}

// A name with its namespace in a quieter voice.
function partyName(party, more) {
  return el("span", { class: "party" },
    el("span", { class: "name" }, party.name + (more ? ` +${more}` : "")),
    outside(party) ? null : el("span", { class: "namespace" }, party.namespace));
}

function portWord(port, alone) {
  return port === null ? (alone ? "every port" : "every other port") : String(port);
}

function verdictBadge(cell) {
  return el("span", { class: `badge v${cell.verdict}` }, el("i", { class: `dot m${1 << cell.verdict}`, "aria-hidden": "true" }), VERDICTS[cell.verdict].word);
}

function changeBadge(change) {
  return change ? el("span", { class: `badge ${change}` }, `${CHANGES[change].sign} ${CHANGES[change].word}`) : null;
}

// What the user has chosen to see. `listen` is called after each change.
const state = {
  view: "matrix", query: "", namespaces: null, port: undefined, verdicts: new Set([DENY, ALLOW, ASK]),
  grouped: false, changedOnly: false, from: null, to: null, focus: null,
};
const listeners = [];
const listen = (listener) => listeners.push(listener);
function update(changes) {
  Object.assign(state, changes);
  for (const listener of listeners) listener(changes);
}

// Sources and destinations that are shown, those that are alike as one where that is asked for.
// `web > db` looks for sources and destinations apart. A single word puts whoever it means first, and
// keeps beside them only those whom they reach or who reach them.
function visible() {
  const inNamespace = (party) => !state.namespaces || state.namespaces.has(party.namespace);
  const group = (parties, key) => {
    const groups = new Map();
    for (const party of parties) {
      const name = state.grouped ? key(party) : party.number;
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(party);
    }
    return [...groups.values()].map((members) => ({ party: members[0], members, found: false }));
  };
  const oldClass = (party) => { const old = before(party); return old && old.class; };
  const oldScope = (party) => { const old = before(party); return old && `${old.scope},${old.portList}`; };
  const rows = group(now.parties.filter(inNamespace),
    (p) => `${p.namespace},${p.kind === "identity"},${p.class},${p.family},${oldClass(p)}`);
  const columns = group(now.parties.filter((p) => p.scope !== NOT_ENFORCED && inNamespace(p)),
    (p) => `${p.namespace},${p.scope},${p.portList},${p.family},${oldScope(p)}`);
  const query = state.query.trim().toLowerCase();
  if (!query) return narrow(rows, columns);
  if (query.includes(">")) {
    const [left, right] = query.split(">");
    return narrow(search(rows, left), search(columns, right));
  }
  const [r, c] = [search(rows, query), search(columns, query)];
  const reach = (a, b) => { const found = pair(a.party, b.party, state.port); return found && found.mask !== 1 << DENY; };
  const first = (found, all, near) => [...found, ...all.filter((one) => !one.found && near(one))];
  return narrow(
    first(r, rows, (row) => c.some((column) => reach(row, column))),
    first(c, columns, (column) => r.some((row) => reach(row, column))));
}

function search(list, query) {
  const words = query.trim().split(/\s+/).filter(Boolean);
  const matches = (party) => {
    const text = `${party.namespace}/${party.name} ${party.account} ${party.members.join(" ")}`.toLowerCase();
    return words.every((word) => text.includes(word));
  };
  const hits = list.filter((one) => one.members.some(matches));
  for (const hit of hits) hit.found = words.length > 0;
  return hits;
}

// Whether a pair is among the verdicts and changes that are asked for.
function wanted(found) {
  if (!found) return false;
  if (state.changedOnly && !found.change) return false;
  for (const verdict of state.verdicts) if (found.mask & (1 << verdict)) return true;
  return false;
}

function narrow(rows, columns) {
  if (!state.changedOnly && state.verdicts.size === 3) return { rows, columns };
  const keptRows = rows.filter((r) => columns.some((c) => wanted(pair(r.party, c.party, state.port))));
  const keptColumns = columns.filter((c) => keptRows.some((r) => wanted(pair(r.party, c.party, state.port))));
  return { rows: keptRows, columns: keptColumns };
}
