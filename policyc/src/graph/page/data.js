// The data as data.rs writes it, given names. Verdicts: 0 denied, 1 let through by the kernel,
// 2 asked of userspace; a set of them is a bit mask of 1 << verdict.
const DENY = 0, ALLOW = 1, ASK = 2;
const PROTOCOLS = ["undeclared", "http", "tcp"];
const page = JSON.parse(document.getElementById("data").textContent);
const str = (number) => page.strings[number];
const NOT_ENFORCED = -1;

function readSide(raw) {
  const side = {
    atoms: raw.atoms.map(([field, value, fact, token]) => ({ field: str(field), value: str(value), fact, token })),
    policies: raw.policies.map(([namespace, name, file, action, dryRun, rules]) => ({
      namespace: str(namespace), name: str(name), file: str(file), action: str(action), dryRun, rules,
    })),
    classes: raw.classes,
    scopes: raw.scopes.map(([policies, destination, gateway, tokens, ports, declared, classes, rows]) => ({
      policies, destination: new Set(destination), gateway, tokens,
      ports: new Map(ports), declared: new Map(declared), classes: new Map(classes), rows,
    })),
    cells: raw.cells.map(([verdict, cause, rule, judgedBy]) => ({ verdict, cause: str(cause), rule, judgedBy })),
    trustedProxies: raw.trusted_proxies,
    defaultDeny: raw.default_deny,
  };
  const ports = raw.ports.map((list) => list.map(([port, protocol]) => ({ port, protocol })));
  side.parties = raw.parties.map(([namespace, name, kind, account, members, family, addressless, class_, scope, list], number) => ({
    number, namespace: str(namespace), name: str(name), kind: str(kind), account: str(account),
    members: members.map(str), family, addressless, class: class_, scope: scope === null ? NOT_ENFORCED : scope,
    portList: list, ports: ports[list],
  }));
  side.byName = new Map(side.parties.map((p) => [partyKey(p), p]));
  return side;
}

const partyKey = (party) => party.namespace + "/" + party.name;
const outside = (party) => party.namespace === "";
const now = readSide(page.now);
const was = page.was && readSide(page.was);

// The cell for a source, a destination and a port (null: any that is not listed); null where nothing
// is enforced or no connection can be.
function cellAt(side, from, to, port) {
  if (to.scope === NOT_ENFORCED || (from.family && to.family && from.family !== to.family)) return null;
  const scope = side.scopes[to.scope];
  const row = scope.rows[scope.classes.get(from.class) || 0];
  return side.cells[row[(port !== null && scope.ports.get(port)) || 0]];
}

// The other side's party of that name. For a block that only one side names: what it lay in.
function before(party) {
  if (!was) return null;
  if (party.old === undefined) {
    const same = was.byName.get(partyKey(party));
    party.old = same || (party.kind === "addresses" ? around(party.name) : null);
  }
  return party.old;
}

function bits(block) {
  const [address, length] = block.split("/");
  let text = "";
  if (address.includes(":")) {
    const [head, tail] = address.split("::");
    const groups = (part) => (part ? part.split(":") : []);
    const left = groups(head), right = tail === undefined ? [] : groups(tail);
    const all = [...left, ...Array(8 - left.length - right.length).fill("0"), ...right];
    text = "6" + all.map((group) => parseInt(group, 16).toString(2).padStart(16, "0")).join("");
  } else {
    text = "4" + address.split(".").map((byte) => Number(byte).toString(2).padStart(8, "0")).join("");
  }
  return text.slice(0, 1 + Number(length));
}

function around(block) {
  const own = bits(block);
  let best = was.parties.find((p) => p.kind === "elsewhere") || null, length = -1;
  for (const party of was.parties) {
    if (party.kind !== "addresses") continue;
    const other = bits(party.name);
    if (own.startsWith(other) && other.length > length) [best, length] = [party, other.length];
  }
  return best;
}

// How a verdict moved: "opened", "closed", "reworded" or null.
function changeAt(from, to, port) {
  const oldFrom = before(from), oldTo = before(to);
  if (!oldFrom || !oldTo) return null;
  const a = cellAt(was, oldFrom, oldTo, port), b = cellAt(now, from, to, port);
  if (!a || !b) return null;
  if (a.verdict !== b.verdict) {
    // Nothing, something, everything.
    const much = [0, 2, 1];
    return much[b.verdict] > much[a.verdict] ? "opened" : "closed";
  }
  return a.verdict === ASK && a.judgedBy !== b.judgedBy ? "reworded" : null;
}

// The ports that are looked at for a destination: one that was chosen, or all that are listed and the
// rest, on both sides.
function portsToShow(to, chosen) {
  if (chosen !== undefined) return [chosen];
  if (!to.shown) {
    const old = before(to);
    const all = new Set([...to.ports, ...(old ? old.ports : [])].map((p) => p.port));
    to.shown = [...[...all].sort((a, b) => a - b), null];
  }
  return to.shown;
}

// What a pair comes to: which verdicts fall, and how they changed. Found once for each row of a
// scope, of which there are few, and shared by destinations that are alike.
const memos = new Map();
function columnOf(to, chosen) {
  if (!to.columns) to.columns = new Map();
  let column = to.columns.get(chosen);
  if (!column) {
    const old = before(to);
    const on = (party) => (party ? `${party.scope},${party.portList},${party.family}` : "");
    const name = `${on(to)};${on(old)};${chosen}`;
    if (!memos.has(name)) memos.set(name, new Map());
    column = { now: now.scopes[to.scope], was: old && old.scope !== NOT_ENFORCED ? was.scopes[old.scope] : null, memo: memos.get(name) };
    to.columns.set(chosen, column);
  }
  return column;
}

function pair(from, to, chosen) {
  if (to.scope === NOT_ENFORCED) return null;
  const column = columnOf(to, chosen), old = before(from);
  const row = column.now.classes.get(from.class) || 0;
  const oldRow = column.was && old ? 1 + (column.was.classes.get(old.class) || 0) : 0;
  // Families are 0, 4 and 6.
  const key = ((row * 65537 + oldRow) * 8 + from.family) * 8 + (old ? old.family : 0);
  let found = column.memo.get(key);
  if (found === undefined) column.memo.set(key, (found = findPair(from, to, chosen)));
  return found;
}

function findPair(from, to, chosen) {
  let mask = 0, change = null;
  for (const port of portsToShow(to, chosen)) {
    const cell = cellAt(now, from, to, port);
    if (!cell) return null;
    mask |= 1 << cell.verdict;
    const moved = changeAt(from, to, port);
    // What opens matters most.
    if (moved === "opened" || !change) change = moved || change;
    else if (moved === "closed" && change === "reworded") change = moved;
  }
  return { mask, change };
}

const VERDICTS = [
  { word: "denied", long: "denied in the kernel" },
  { word: "kernel", long: "let through by the kernel" },
  { word: "userspace", long: "userspace judges what is sent" },
];
const CHANGES = {
  opened: { sign: "+", word: "opened" },
  closed: { sign: "\u2212", word: "closed" },
  reworded: { sign: "~", word: "other rules for requests" },
};

// "80, 443: userspace; every other port: denied"
function inWords(from, to, chosen) {
  const found = pair(from, to, chosen);
  if (!found) return to.scope === NOT_ENFORCED ? "nothing is enforced there" : "no connection: other address family";
  return (found.words = found.words || findWords(from, to, chosen));
}

function findWords(from, to, chosen) {
  const by = [[], [], []];
  for (const port of portsToShow(to, chosen)) {
    by[cellAt(now, from, to, port).verdict].push(port);
  }
  const parts = [];
  for (const verdict of [ALLOW, ASK, DENY]) {
    const list = by[verdict];
    if (!list.length) continue;
    const named = list.filter((port) => port !== null);
    const rest = list.includes(null);
    const alone = list.length === portsToShow(to, chosen).length && chosen === undefined;
    const ports = alone ? "every port" : [...named, ...(rest ? [named.length || by.flat().length > 1 ? "every other port" : "every port"] : [])].join(", ");
    parts.push(`${ports}: ${VERDICTS[verdict].word}`);
  }
  return parts.join("; ");
}
