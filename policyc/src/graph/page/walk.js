// Which clause of which rule held: the three-valued evaluation of lower/evaluate.rs, told for people.
// 1 holds, 0 does not, 2 is known only when the request is.
const HOLDS = 1, FAILS = 0, DEPENDS = 2;

function meanings(scope, port) {
  const declared = port === null ? 0 : scope.declared.get(port) || 0;
  return PROTOCOLS[declared] === "tcp" ? ["tcp"] : ["http", "tcp"];
}

// What is known of a connection; `meaning` is what is spoken on it.
function known(side, from, to, port, meaning) {
  const scope = side.scopes[to.scope];
  return { side, scope, port, meaning, source: new Set(side.classes[from.class]) };
}

function atomHolds(k, number) {
  const atom = k.side.atoms[number];
  switch (atom.fact) {
    case 0: return k.source.has(number) ? HOLDS : FAILS;
    case 1:
      if (atom.field === "port") return k.port !== null && String(k.port) === atom.value ? HOLDS : FAILS;
      return k.scope.destination.has(number) ? HOLDS : FAILS;
    case 2:
      if (k.meaning === "tcp" || (k.scope.gateway && k.side.trustedProxies === 0)) return k.source.has(number) ? HOLDS : FAILS;
      return DEPENDS;
    case 3: return DEPENDS;
    case 4:
      if (k.meaning === "tcp") return null;
      return atom.token && !k.scope.tokens ? FAILS : DEPENDS;
    default: return FAILS;
  }
}

// A literal is [negated, atoms]; a field of HTTP asks nothing where HTTP is not spoken.
function literalHolds(k, [negated, atoms]) {
  let depends = false;
  for (const atom of atoms) {
    const truth = atomHolds(k, atom);
    if (truth === null) return HOLDS;
    if (truth === HOLDS) return negated ? FAILS : HOLDS;
    depends = depends || truth === DEPENDS;
  }
  if (depends) return DEPENDS;
  return negated ? HOLDS : FAILS;
}

const every = (truths) => (truths.includes(FAILS) ? FAILS : truths.includes(DEPENDS) ? DEPENDS : HOLDS);
const some = (truths) => (truths.includes(HOLDS) ? HOLDS : truths.includes(DEPENDS) ? DEPENDS : FAILS);

function clauseHolds(k, clause) {
  return some(clause.map((alternative) => every(alternative.map((literal) => literalHolds(k, literal)))));
}

function literalText(side, [negated, atoms]) {
  const values = atoms.slice(0, 4).map((atom) => side.atoms[atom].value);
  if (atoms.length > 4) values.push(`${atoms.length - 4} more`);
  return `${side.atoms[atoms[0]].field} ${negated ? "is not" : "is"} ${values.join(" or ")}`;
}

function clauseText(side, clause) {
  const text = (alternative) => alternative.map((literal) => literalText(side, literal)).join(", and ") || "anything";
  return clause.length ? clause.map(text).join("; or ") : "never";
}

// One rule: whether it holds, and each clause with its own truth. A clause behind one that fails is
// not looked at, as in `policyc explain`.
function walkRule(k, policy, rule) {
  const [line, clauses] = rule;
  const allow = policy.action === "ALLOW";
  const http = k.meaning === "tcp" && clauses.some((clause) => clause.some((alternative) => alternative.some(([, list]) => list.some((atom) => k.side.atoms[atom].fact === 4))));
  if (allow && http) return { line, truth: FAILS, why: "asks for HTTP, and the connection is judged as TCP", clauses: [] };
  if (k.side.defaultDeny && policy.action === "DENY" && !policy.dryRun && !clauses.length)
    return { line, truth: FAILS, why: "is the workload\u2019s default, and matches nothing by itself", clauses: [] };
  const told = clauses.map((clause) => ({ text: clauseText(k.side, clause), truth: clauseHolds(k, clause) }));
  const note = http ? "judged as TCP, without its HTTP fields" : null;
  return { line, truth: every(told.map((t) => t.truth)), clauses: told, note };
}

// Every policy that applies, with its rules.
function walk(side, from, to, port, meaning) {
  const k = known(side, from, to, port, meaning);
  return k.scope.policies.map((number) => {
    const policy = side.policies[number];
    return { policy, number, rules: policy.rules.map((rule, index) => ({ index, ...walkRule(k, policy, rule) })) };
  });
}
