// The details of one pair: each port's verdict with its cause, then the walk through the policies.
const RULES_MAX = 60;

function showPanel() {
  const panel = byId("panel"), { from, to } = state;
  if (!from || !to) {
    panel.replaceChildren(el("div", { class: "welcome" },
      el("h2", {}, "Choose a pair"),
      el("p", {}, "Click a cell, or go to it with the arrow keys and press Enter: which policy decides, in which file and line, and which clause of each rule held."),
      el("p", {}, "Names at the edges lead to the graph around one workload."), marks()));
    return;
  }
  const ports = portsToShow(to, undefined);
  const chosen = state.panelPort !== undefined && ports.includes(state.panelPort) ? state.panelPort : state.port !== undefined && ports.includes(state.port) ? state.port : ports[0];
  const rows = ports.map((port) => portRow(from, to, port, port === chosen, ports.length === 1));
  panel.replaceChildren(
    el("div", { class: "pair" }, el("button", { type: "button", class: "quiet close", "aria-label": "Close", onclick: () => update({ from: null, to: null }) }, "\u00d7"),
      el("h2", {}, partyName(from), el("span", { class: "arrow", "aria-label": "to" }, "\u2192"), partyName(to)),
      el("p", { class: "note" }, `${describeParty(from)} \u2192 ${describeParty(to)}`),
      from.addressless && asksAddress(to) ? el("p", { class: "warning" }, "No address of the source is known. It is taken for one that is in no block, and a policy here asks for addresses.") : null),
    el("table", { class: "ports" }, el("thead", {}, el("tr", {}, ["Port", "Verdict", "Because"].map((t) => el("th", { scope: "col" }, t)))), el("tbody", {}, rows)),
    ...walkParts(from, to, chosen));
}

function marks() {
  const line = (mask, text) => el("li", {}, el("i", { class: `dot m${mask}`, "aria-hidden": "true" }), text);
  return el("ul", { class: "marks" },
    line(2, "the kernel lets every port through"), line(4, "userspace judges each request"), line(1, "denied"),
    line(3, "some ports through, others denied"), line(5, "some ports judged by request, others denied"),
    line(6, "some ports through, others by request"), line(7, "all three"));
}

function asksAddress(to) {
  const scope = now.scopes[to.scope];
  return scope && scope.policies.some((number) => now.policies[number].rules.some(([, clauses]) => clauses.some((c) => c.some((a) => a.some(([, atoms]) => atoms.some((atom) => ["source.ip", "remote.ip"].includes(now.atoms[atom].field)))))));
}

function place(side, number, rule) {
  const policy = side.policies[number];
  const line = policy.rules[rule] && policy.rules[rule][0];
  return `${policy.file}${line ? ":" + line : ""}`;
}

function portRow(from, to, port, chosen, alone) {
  const cell = cellAt(now, from, to, port);
  const declared = to.ports.find((p) => p.port === port);
  const change = changeAt(from, to, port);
  const pick = () => { state.panelPort = port; showPanel(); byId("panel").querySelector("tr.chosen button").focus(); };
  if (!cell) return el("tr", {}, el("td", {}, portWord(port, alone)), el("td", { colspan: 2 }, inWords(from, to, port)));
  const because = cell.rule ? [el("b", {}, `${now.policies[cell.rule[0]].namespace}/${now.policies[cell.rule[0]].name} rule ${cell.rule[1]}`), el("small", { class: "file" }, place(now, ...cell.rule)), el("small", {}, cell.verdict === ASK ? "or what the request says" : cell.cause)] : [el("span", {}, cell.verdict === ASK ? "what the request says; if nothing matches: " + cell.cause : cell.cause)];
  const old = change && cellAt(was, before(from), before(to), port);
  return el("tr", { class: chosen ? "chosen" : "" },
    el("td", {}, el("button", { type: "button", class: "plain", "aria-pressed": String(chosen), onclick: pick }, portWord(port, alone)), declared ? el("small", {}, PROTOCOLS[declared.protocol]) : null),
    el("td", {}, verdictBadge(cell), changeBadge(change), old && old.verdict !== cell.verdict ? el("small", {}, `was ${VERDICTS[old.verdict].word}`) : null),
    el("td", {}, because));
}

function walkParts(from, to, port) {
  if (to.scope === NOT_ENFORCED || !cellAt(now, from, to, port)) return [];
  const scope = now.scopes[to.scope];
  const alike = now.parties.filter((p) => p.class === from.class && p.family === from.family).length - 1;
  const spoken = meanings(scope, port);
  const parts = [el("h3", {}, `The walk${port === null ? "" : ` on port ${port}`}`),
    el("p", { class: "note" }, `${alike ? `${counted(alike, "other source is", "other sources are")} of the same class: no rule tells them apart. ` : "No other source is of its class. "}${scope.policies.length ? `${counted(scope.policies.length, "policy applies", "policies apply")} to the destination.` : "No policy applies to the destination: Istio lets everything through."}`)];
  if (scope.tokens && spoken[0] === "http") parts.push(el("p", { class: "note" }, "A RequestAuthentication applies: a token that does not verify is refused before the rules are asked."));
  const walks = spoken.map((meaning) => ({ meaning, told: walk(now, from, to, port, meaning) }));
  // Where it makes no difference what is spoken, it is told once.
  const same = walks.every((one) => JSON.stringify(one.told) === JSON.stringify(walks[0].told));
  for (const { meaning, told } of same ? walks.slice(0, 1) : walks) {
    if (!told.length) continue;
    if (!same) parts.push(el("h4", {}, meaning === "http" ? "if HTTP is spoken" : "if anything else is spoken"));
    parts.push(...told.map((one) => policyPart(one)));
  }
  const command = `policyc explain -f \u2026 --from ${reference(from)} --to ${reference(to)} --port ${port === null ? "PORT" : port}`;
  parts.push(el("h3", {}, "The same at the command line"), el("pre", { tabindex: "0" }, el("code", {}, command)));
  return parts;
}

function reference(party) {
  const quoted = (text) => (/^[\w.:/-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
  if (party.kind === "addresses") return quoted(party.name.split("/")[0]);
  if (party.kind === "elsewhere") return "ADDRESS";
  if (party.kind === "identity") {
    const domain = party.name.split(" of ")[1];
    return quoted(`sa:${party.namespace}/${party.account}`) + (domain ? ` --src-trust-domain ${quoted(domain)}` : "");
  }
  return quoted(`${party.namespace}/${party.members[0] || party.name}`);
}

const TRUTHS = [{ sign: "\u2717", word: "does not hold", name: "fails" }, { sign: "\u2713", word: "holds", name: "holds" }, { sign: "?", word: "known only with the request", name: "depends" }];

function policyPart({ policy, number, rules }) {
  const order = [...rules].sort((a, b) => (b.truth ? 1 : 0) - (a.truth ? 1 : 0) || a.index - b.index);
  const effect = `${policy.action}${policy.dryRun ? ", dry run" : ""}`;
  const best = Math.max(0, ...rules.map((r) => (r.truth === HOLDS ? 2 : r.truth === DEPENDS ? 1 : 0)));
  return el("details", { class: "policy", open: best > 0 || rules.length <= 3 },
    el("summary", {}, el("span", { class: `action ${policy.action.split(" ")[0].toLowerCase()}` }, effect), " ", el("b", {}, `${policy.namespace}/${policy.name}`), el("small", { class: "file" }, place(now, number, 0))),
    rules.length ? el("ol", { class: "rules" }, order.slice(0, RULES_MAX).map(rulePart)) : el("p", { class: "note" }, "no rules: it matches nothing"),
    order.length > RULES_MAX ? el("p", { class: "note" }, `and ${order.length - RULES_MAX} more rules`) : null);
}

function rulePart({ index, line, truth, clauses, why, note }) {
  const firstFailed = clauses.findIndex((c) => c.truth === FAILS);
  const told = firstFailed < 0 ? clauses : clauses.slice(0, firstFailed + 1);
  const t = TRUTHS[truth];
  return el("li", { class: t.name },
    el("span", { class: "sign", title: t.word, role: "img", "aria-label": t.word }, t.sign),
    el("div", {}, el("span", { class: "rule" }, `rule ${index}`, line ? el("small", {}, ` line ${line}`) : null),
      why ? el("p", {}, why) : null, note ? el("p", {}, note) : null,
      !clauses.length && !why ? el("p", {}, "everything") : null,
      told.length ? el("ul", {}, told.map((c) => el("li", { class: TRUTHS[c.truth].name }, el("span", { class: "sign", role: "img", "aria-label": TRUTHS[c.truth].word }, TRUTHS[c.truth].sign), el("span", {}, c.text)))) : null));
}
