// The graph. Few workloads are all drawn, in their namespaces; many are drawn as namespaces. With a
// workload in focus: who reaches it on its left, whom it reaches on its right.
const DRAWN_MAX = 48, SIDE_MAX = 40;

function networkView(host) {
  const canvas = el("div", { class: "network" });
  host.replaceChildren(canvas);
  draw();

  function draw() {
    const parts = state.focus ? ego(state.focus) : overview();
    canvas.replaceChildren(...parts);
  }

  function reachWord(found) {
    if (found.mask === 1 << DENY) return "";
    const userspace = found.mask & (1 << ASK), kernel = found.mask & (1 << ALLOW);
    return userspace && kernel ? "both" : userspace ? "userspace" : "kernel";
  }

  function overview() {
    const { rows, columns } = visible();
    const shown = new Set([...rows.flatMap((r) => r.members), ...columns.flatMap((c) => c.members)]);
    if (!shown.size) return [el("p", { class: "empty" }, "Nothing matches these filters.")];
    const few = shown.size <= DRAWN_MAX;
    const nodes = few ? [...shown].sort((a, b) => a.number - b.number).map((party) => ({ name: party.name, group: party.namespace, party, members: [party] })) : byNamespace(shown);
    const links = linksBetween(nodes, few);
    return [
      el("p", { class: "note" }, few
        ? "Arrows are what may be reached. What everybody may reach is drawn from \u201cany other address\u201d alone. Choose a workload to see only what is about it."
        : `${shown.size.toLocaleString("en")} workloads, drawn as namespaces. Choose one, or search, to see its workloads.`),
      ring(nodes, links),
    ];
  }

  function byNamespace(parties) {
    const namespaces = new Map();
    for (const party of parties) {
      if (!namespaces.has(party.namespace)) namespaces.set(party.namespace, []);
      namespaces.get(party.namespace).push(party);
    }
    return [...namespaces].map(([namespace, members]) => ({ name: namespace || "outside", group: "", namespace, members }));
  }

  // An arrow where a source may do more than everybody may, and from "any other address" for that.
  function linksBetween(nodes, few) {
    const links = [];
    const open = now.parties.find((p) => p.kind === "elsewhere");
    for (const to of nodes) for (const from of nodes) {
      if (from === to && few) continue;
      let count = 0, mask = 0, change = null;
      for (const b of to.members) {
        if (b.scope === NOT_ENFORCED) continue;
        const usual = open && pair(open, b, state.port);
        for (const a of from.members) {
          const found = pair(a, b, state.port);
          if (!wanted(found)) continue;
          const plain = found.mask === 1 << DENY || (a !== open && usual && usual.mask === found.mask);
          if (plain && !found.change) continue;
          count++;
          mask |= found.mask;
          change = change || found.change;
        }
      }
      if (count) links.push({ from, to, mask, change, count });
    }
    return links;
  }

  function ring(nodes, links) {
    const groups = [...new Set(nodes.map((n) => n.group))];
    const slots = nodes.length + (groups.length > 1 ? groups.length : 0);
    // Many names stand like rays, and the ring grows until they are apart.
    const rays = slots > 44, radius = (slots * 15) / (2 * Math.PI);
    const wide = Math.max(760, canvas.clientWidth - 48, rays ? 2 * radius + 400 : 0);
    const high = Math.max(520, canvas.clientHeight - 72, rays ? 2 * radius + 400 : 0);
    const cx = wide / 2, cy = high / 2;
    const rx = rays ? Math.min(wide, high) / 2 - 190 : wide / 2 - 170, ry = rays ? rx : high / 2 - 44;
    let slot = 0, previous = null;
    for (const node of nodes) {
      if (groups.length > 1 && node.group !== previous) slot++;
      previous = node.group;
      node.angle = (slot++ / slots) * 2 * Math.PI - Math.PI / 2;
      node.x = cx + rx * Math.cos(node.angle);
      node.y = cy + ry * Math.sin(node.angle);
    }
    const drawing = svg("svg", { viewBox: `0 0 ${wide} ${high}`, width: wide, height: high, role: "group", "aria-label": "Graph of what may be reached", class: links.length > 120 ? "many" : null }, markers());
    const most = Math.max(...links.map((l) => l.count), 1);
    for (const link of links) {
      if (link.from === link.to) continue;
      // The nearer the ends, the flatter the bow.
      const mx = (link.from.x + link.to.x) / 2, my = (link.from.y + link.to.y) / 2;
      const bow = 0.25 + 0.75 * Math.min(1, Math.hypot(link.from.x - link.to.x, link.from.y - link.to.y) / (2 * ry));
      const path = `M${link.from.x} ${link.from.y} Q${mx + (cx - mx) * bow} ${my + (cy - my) * bow} ${link.to.x} ${link.to.y}`;
      const word = reachWord(link) || "denied";
      drawing.append(svg("path", { d: path, class: `link ${word} ${link.change || ""}`, "stroke-width": 1.2 + 2.5 * Math.sqrt(link.count / most), "data-from": nodes.indexOf(link.from), "data-to": nodes.indexOf(link.to), "marker-end": `url${"(#"}arrow-${word})` }));
    }
    nodes.forEach((node, index) => drawing.append(dot(node, index, node.x < cx - 1 ? "end" : "start", drawing, rays)));
    return drawing;
  }

  function markers() {
    return svg("defs", {}, ["kernel", "userspace", "both", "denied"].map((word) =>
      svg("marker", { id: `arrow-${word}`, class: `arrow ${word}`, viewBox: "0 0 10 10", refX: 14, refY: 5, markerWidth: 9, markerHeight: 9, markerUnits: "userSpaceOnUse", orient: "auto" }, svg("path", { d: "M0 0L10 5L0 10z" }))));
  }

  function dot(node, index, anchor, drawing, rays) {
    const far = anchor === "end" ? -11 : 11;
    const text = node.members.length > 1 ? `${node.name} (${node.members.length})` : node.name;
    const light = (on) => () => {
      drawing.classList.toggle("lit", on);
      for (const path of drawing.querySelectorAll(".link"))
        path.classList.toggle("on", on && (path.dataset.from === String(index) || path.dataset.to === String(index)));
    };
    const open = () => (node.party ? update({ focus: node.party }) : update({ namespaces: new Set([node.namespace]), focus: null }));
    return svg("g", {
      class: "node", tabindex: "0", role: "button", "aria-label": node.party ? partyText(node.party) : `namespace ${text}`, onclick: open,
      onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(); } else step(event); },
      onmouseenter: light(true), onmouseleave: light(false), onfocus: light(true), onblur: light(false),
    }, svg("circle", { cx: node.x, cy: node.y, r: 6 }),
      svg("text", { x: node.x + far, y: node.y + 4, "text-anchor": anchor, transform: rays ? `rotate(${(node.angle * 180) / Math.PI + (anchor === "end" ? 180 : 0)} ${node.x} ${node.y})` : null }, text, node.group ? svg("tspan", { class: "namespace", dx: 6 }, node.group) : null));
  }

  // Arrow keys go from node to node.
  function step(event) {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const nodes = [...canvas.querySelectorAll(".node,.neighbour")];
    nodes[(nodes.indexOf(document.activeElement) + by + nodes.length) % nodes.length].focus();
  }

  function ego(party) {
    const reaching = [], reached = [];
    for (const other of now.parties) {
      const into = pair(other, party, state.port), out = pair(party, other, state.port);
      if (wanted(into) && (into.mask !== 1 << DENY || into.change)) reaching.push({ party: other, from: other, to: party, found: into });
      if (wanted(out) && (out.mask !== 1 << DENY || out.change)) reached.push({ party: other, from: party, to: other, found: out });
    }
    const list = (title, items, empty) => el("section", {}, el("h3", {}, title, el("span", { class: "count" }, String(items.length))),
      items.length ? items.slice(0, SIDE_MAX).map(neighbour) : el("p", { class: "note" }, empty),
      items.length > SIDE_MAX ? el("p", { class: "note" }, `and ${items.length - SIDE_MAX} more: narrow them by the filters above`) : null);
    return [
      el("p", { class: "note" }, el("button", { type: "button", class: "quiet", onclick: () => update({ focus: null }) }, "\u2190 all"), state.port === undefined ? " On any port." : ` On ${portWord(state.port)}.`),
      el("div", { class: "ego" },
        list("May reach it", reaching, party.scope === NOT_ENFORCED ? "It is not a destination: nothing is enforced there." : "Nobody may reach it."),
        el("section", { class: "middle" }, el("div", { class: "hub" }, partyName(party), el("small", {}, describeParty(party)))),
        list("It may reach", reached, "It may reach nothing.")),
    ];
  }

  function neighbour(item) {
    const { party, from, to, found } = item;
    return el("button", { type: "button", class: "neighbour", onclick: () => update({ from, to }), ondblclick: () => update({ focus: party }), onkeydown: step, title: "Choose for details, twice to move there" },
      el("i", { class: `dot m${found.mask}`, "aria-hidden": "true" }), partyName(party), el("small", {}, inWords(from, to, state.port)), changeBadge(found.change));
  }

  return { update: draw, focus: () => { const first = canvas.querySelector(".node,.neighbour"); if (first) first.focus(); }, end: () => {} };
}

function describeParty(party) {
  const parts = [party.kind];
  if (party.members.length > 1) parts.push(`${party.members.length} pods`);
  if (party.account) parts.push(`account ${party.account}`);
  if (party.scope === NOT_ENFORCED && !outside(party) && party.kind !== "identity") parts.push("on the host\u2019s network: nothing is enforced there");
  return parts.join(", ");
}
