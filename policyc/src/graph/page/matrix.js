// The matrix: sources down, destinations across. Only what is in sight has elements, so that 10 000
// rows scroll like ten.
const CELL = 26, NAMES = 230, HEAD = 168, MARGIN = 4;

function matrixView(host) {
  let rows = [], columns = [], active = { r: 0, c: 0 }, frame = 0;
  const canvas = el("div", { class: "canvas", role: "presentation" });
  const grid = el("div", { class: "matrix", role: "grid", tabindex: "-1", "aria-label": "Reachability: sources down, destinations across", onscroll: later, onkeydown: key, onclick: click, onmouseover: hover, onmouseleave: () => hint(null) }, canvas);
  host.replaceChildren(grid);

  function reset() {
    ({ rows, columns } = visible());
    const selected = rows.findIndex((r) => r.members.includes(state.from));
    const column = columns.findIndex((c) => c.members.includes(state.to));
    if (selected >= 0 && column >= 0) active = { r: selected, c: column };
    active = { r: Math.min(active.r, rows.length - 1), c: Math.min(active.c, columns.length - 1) };
    grid.setAttribute("aria-rowcount", rows.length + 1);
    grid.setAttribute("aria-colcount", columns.length + 1);
    canvas.style.width = `${NAMES + columns.length * CELL}px`;
    canvas.style.height = `${HEAD + rows.length * CELL}px`;
    draw();
  }

  function later() {
    if (!frame) frame = requestAnimationFrame(() => { frame = 0; draw(); });
  }

  function draw() {
    if (!rows.length || !columns.length) {
      canvas.replaceChildren(el("p", { class: "empty" }, "Nothing matches these filters."));
      return;
    }
    const top = Math.max(0, Math.floor(grid.scrollTop / CELL) - MARGIN);
    const bottom = Math.min(rows.length, Math.ceil((grid.scrollTop + grid.clientHeight - HEAD) / CELL) + MARGIN);
    const left = Math.max(0, Math.floor(grid.scrollLeft / CELL) - MARGIN);
    const right = Math.min(columns.length, Math.ceil((grid.scrollLeft + grid.clientWidth - NAMES) / CELL) + MARGIN);
    const focused = grid.contains(document.activeElement) && document.activeElement !== grid;
    const lines = [header(left, right)];
    for (let r = top; r < bottom; r++) lines.push(line(r, left, right));
    canvas.replaceChildren(...lines);
    if (focused) focus(true);
  }

  function header(left, right) {
    const line = el("div", { class: "head", role: "row", "aria-rowindex": "1" },
      el("div", { class: "corner", role: "columnheader", "aria-colindex": "1" },
        el("span", {}, counted(rows.length, "source", "sources") + " \u2193"),
        el("span", {}, counted(columns.length, "destination", "destinations") + " \u2192")));
    for (let c = left; c < right; c++) {
      const { party, members, found } = columns[c];
      const border = c > 0 && columns[c - 1].party.namespace !== party.namespace;
      line.append(el("div", {
        class: `column${border ? " border" : ""}${found ? " found" : ""}`, role: "columnheader", "aria-colindex": c + 2, "data-c": c, title: namesOf(members), css: { left: `${NAMES + c * CELL}px` },
      }, partyName(party, members.length - 1)));
    }
    return line;
  }

  function line(r, left, right) {
    const { party, members, found } = rows[r];
    const border = r > 0 && rows[r - 1].party.namespace !== party.namespace;
    const node = el("div", { class: `row${border ? " border" : ""}`, role: "row", "aria-rowindex": r + 2, css: { top: `${HEAD + r * CELL}px`, width: `${NAMES + columns.length * CELL}px` } },
      el("div", { class: `source${found ? " found" : ""}`, role: "rowheader", "aria-colindex": "1", "data-r": r, title: namesOf(members) }, partyName(party, members.length - 1)));
    for (let c = left; c < right; c++) node.append(cell(r, c, party, columns[c].party));
    return node;
  }

  function cell(r, c, from, to) {
    const found = pair(from, to, state.port);
    const selected = state.from && rows[r].members.includes(state.from) && columns[c].members.includes(state.to);
    const border = c > 0 && columns[c - 1].party.namespace !== to.namespace;
    const classes = ["cell", border && "border", !wanted(found) && "dim", selected && "selected", found && found.change];
    const node = el("div", {
      class: classes.filter(Boolean).join(" "), role: "gridcell", "aria-colindex": c + 2, "data-r": r, "data-c": c,
      tabindex: active.r === r && active.c === c ? "0" : "-1", "aria-selected": selected ? "true" : null, css: { left: `${NAMES + c * CELL}px` },
    }, el("i", { class: `dot ${found ? "m" + found.mask : "none"}` }));
    if (found && found.change) node.append(el("b", { "aria-hidden": "true" }, CHANGES[found.change].sign));
    if (active.r === r && active.c === c) node.setAttribute("aria-label", label(r, c));
    return node;
  }

  const namesOf = (members) => members.slice(0, 12).map(partyText).join("\n") + (members.length > 12 ? `\nand ${members.length - 12} more` : "");

  function label(r, c) {
    const from = rows[r].party, to = columns[c].party, found = pair(from, to, state.port);
    const change = found && found.change ? `; ${CHANGES[found.change].word} since the old side` : "";
    return `${partyText(from)} to ${partyText(to)}: ${inWords(from, to, state.port)}${change}`;
  }

  // Brings the active cell into sight and gives it the focus.
  function focus(quiet) {
    const node = canvas.querySelector(`.cell[data-r="${active.r}"][data-c="${active.c}"]`);
    (node || grid).focus({ preventScroll: true });
    if (!quiet) byId("status").replaceChildren(label(active.r, active.c));
  }

  function show() {
    const x = active.c * CELL, y = active.r * CELL;
    const wide = grid.clientWidth - NAMES - CELL, high = grid.clientHeight - HEAD - CELL;
    grid.scrollLeft = Math.min(x, Math.max(grid.scrollLeft, x - wide));
    grid.scrollTop = Math.min(y, Math.max(grid.scrollTop, y - high));
    draw();
    focus();
  }

  function key(event) {
    const page = Math.max(1, Math.floor((grid.clientHeight - HEAD) / CELL) - 1);
    const last = { r: rows.length - 1, c: columns.length - 1 };
    const all = event.ctrlKey || event.metaKey;
    const moves = {
      ArrowUp: () => active.r--, ArrowDown: () => active.r++, ArrowLeft: () => active.c--, ArrowRight: () => active.c++,
      PageUp: () => (active.r -= page), PageDown: () => (active.r += page),
      Home: () => { active.c = 0; if (all) active.r = 0; }, End: () => { active.c = last.c; if (all) active.r = last.r; },
    };
    if (!rows.length || !columns.length || event.altKey) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      select(active.r, active.c);
    } else if (moves[event.key]) {
      event.preventDefault();
      moves[event.key]();
      active.r = Math.min(last.r, Math.max(0, active.r));
      active.c = Math.min(last.c, Math.max(0, active.c));
      show();
    }
  }

  function select(r, c) {
    active = { r, c };
    update({ from: rows[r].party, to: columns[c].party });
    focus();
  }

  function click(event) {
    const target = event.target.closest("[data-r],[data-c]");
    if (!target) return;
    const { r, c } = target.dataset;
    if (r !== undefined && c !== undefined) select(Number(r), Number(c));
    else update({ view: "network", focus: r !== undefined ? rows[r].party : columns[c].party });
  }

  function hover(event) {
    const target = event.target.closest(".cell");
    if (!target) return hint(null);
    const [r, c] = [Number(target.dataset.r), Number(target.dataset.c)];
    hint(label(r, c));
    for (const node of canvas.querySelectorAll(".source,.column"))
      node.classList.toggle("pointed", node.dataset.r === String(r) || node.dataset.c === String(c));
  }

  const resized = new ResizeObserver(later);
  resized.observe(grid);
  reset();
  return {
    update: (changes) => ("from" in changes && !("query" in changes) ? draw() : reset()),
    focus: () => (rows.length && columns.length ? show() : grid.focus()),
    end: () => resized.disconnect(),
  };
}

function hint(text) {
  byId("status").replaceChildren(text || legend());
}

// What the marks mean.
function legend() {
  const mark = (mask, text) => el("span", {}, el("i", { class: `dot m${mask}` }), " ", text);
  return el("span", { class: "legend" },
    mark(1 << ALLOW, "kernel lets through"), mark(1 << ASK, "userspace judges requests"), mark(1 << DENY, "denied"),
    mark((1 << ALLOW) | 1, "some ports"), mark((1 << ASK) | 1, "some ports, by request"), mark((1 << ALLOW) | (1 << ASK), "both"));
}
