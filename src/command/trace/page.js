"use strict";
// Everything from the data is put into the document as text. What is chosen, searched and sorted stands in the address behind `#`, so that a
// reload or a link shows the same.
(() => {
  const root = document.documentElement;
  addEventListener("error", (event) => { root.dataset.error = String(event.message); });

  const data = JSON.parse(document.getElementById("data").textContent);
  const { nodes, facts } = data;
  const spread = (distances) => { let at = 0; return distances.map((step) => (at += step)); };
  const tasks = data.tasks.map((task, number) => ({
    ...task, number, inputs: spread(task.inputs), outputs: spread(task.outputs), modified: new Set(spread(task.modified)),
  }));
  const byId = (id) => document.getElementById(id);
  const place = new Map(data.places);

  // Words.
  const thousands = (number) => number.toLocaleString("en-US");
  const count = (number, noun) => `${thousands(number)} ${noun}${number === 1 ? "" : "s"}`;
  const bytes = (size) => {
    if (size < 1000) return count(size, "byte");
    let unit = -1;
    do { size /= 1000; unit += 1; } while (size >= 999.95 && unit < 4);
    return `${size.toFixed(1)} ${["kB", "MB", "GB", "TB", "PB"][unit]}`;
  };
  const time = (ms) => {
    if (ms < 1000) return `${ms} ms`;
    if (ms < 59950) return `${(ms / 1000).toFixed(1)} s`;
    const seconds = Math.round(ms / 1000);
    return seconds < 3600 ? `${Math.floor(seconds / 60)} min ${seconds % 60} s`
      : `${thousands(Math.floor(seconds / 3600))} h ${Math.floor(seconds / 60) % 60} min`;
  };
  const date = (ms) => new Date(ms).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

  // A program by its name, a shell line by the line.
  const title = (task) => {
    const shell = /^(?:\S*\/)?(?:ba|da|z)?sh -\w*c (.*)$/s.exec(task.command);
    const words = (shell ? shell[1] : task.command).split(data.workspace + "/").join("");
    return words.replace(/^\S*\/(\S+)/, "$1");
  };
  const byName = new Intl.Collator("en", { numeric: true });
  const clipped = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

  const paths = new Array(nodes.length);
  nodes.forEach(([parent, name], number) => {
    const above = parent < 0 ? "" : paths[parent];
    paths[number] = parent < 0 ? name : `${above === "/" ? "" : above}/${name}`;
  });
  const folded = paths.map((path) => path.toLowerCase());
  const rootOf = new Array(nodes.length);
  nodes.forEach(([parent], number) => { rootOf[number] = parent < 0 ? number : rootOf[parent]; });
  const workspaceNode = (node) => place.get(rootOf[node]) === "the workspace";

  // Making elements.
  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "class") element.className = value;
      else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value !== undefined) element.setAttribute(key, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };
  const drawn = (name, attributes, ...children) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const marked = (text, query) => {
    const span = make("span");
    const lower = text.toLowerCase();
    let at = 0;
    // Where lower case has another length, positions mean nothing.
    for (let found; query && lower.length === text.length && (found = lower.indexOf(query, at)) >= 0; at = found + query.length) {
      span.append(text.slice(at, found), make("mark", {}, text.slice(found, found + query.length)));
    }
    span.append(text.slice(at));
    return span;
  };

  // What is shown.
  const state = { chosen: null, query: "", order: "recent", whole: false };
  const read = () => {
    const hash = new URLSearchParams(location.hash.slice(1));
    state.chosen = tasks.find((task) => hash.get("task") && task.record.startsWith(hash.get("task"))) ?? null;
    state.query = (hash.get("q") ?? "").toLowerCase();
    state.order = [...byId("order").options].some((one) => one.value === hash.get("sort")) ? hash.get("sort") : "recent";
    state.whole = hash.get("all") === "1";
  };
  const write = (change) => {
    Object.assign(state, change);
    const hash = new URLSearchParams();
    if (state.chosen) hash.set("task", state.chosen.record.slice(0, 12));
    if (state.query) hash.set("q", state.query);
    if (state.order !== "recent") hash.set("sort", state.order);
    if (state.whole) hash.set("all", "1");
    history.replaceState(null, "", `#${hash}`);
    show();
  };

  const matching = () => {
    if (!state.query) return { tasks, nodes: null };
    const hit = new Set();
    folded.forEach((path, node) => { if (path.includes(state.query)) hit.add(node); });
    const has = (numbers) => numbers.some((fact) => hit.has(facts[fact][0]) && (state.whole || workspaceNode(facts[fact][0])));
    return {
      tasks: tasks.filter((task) => task.command.toLowerCase().includes(state.query) || has(task.outputs) || has(task.inputs)),
      nodes: hit,
    };
  };
  const orders = {
    recent: () => 0,
    time: (one, other) => other.ran_ms - one.ran_ms,
    size: (one, other) => other.output_bytes - one.output_bytes,
    inputs: (one, other) => other.inputs.length - one.inputs.length,
    name: (one, other) => byName.compare(title(one), title(other)),
  };
  const counted = (numbers) => (state.whole ? numbers : numbers.filter((fact) => workspaceNode(facts[fact][0]))).length;

  const chips = (task) => {
    const all = [];
    if (task.exit_code !== 0) all.push(["bad", `exit code ${task.exit_code}`]);
    if (!task.usable) all.push(["warn", "not reusable"]);
    if (task.bound) all.push(["warn", "holds only here"]);
    return all.map(([kind, text]) => make("span", { class: `chip ${kind}` }, text));
  };

  const showTasks = (found) => {
    const longest = Math.max(1, ...tasks.map((task) => task.ran_ms));
    const list = [...found.tasks].sort(orders[state.order]).map((task) => {
      const meter = make("div");
      meter.style.width = `${(100 * task.ran_ms) / longest}%`;
      return make("li", {}, make("button", {
        class: "task", type: "button", title: task.command, "aria-current": String(task === state.chosen),
        onclick: () => write({ chosen: task === state.chosen ? null : task }),
      },
      make("span", { class: "command" }, marked(title(task), state.query)),
      make("span", { class: "facts" },
        make("span", {}, time(task.ran_ms)),
        make("span", {}, count(counted(task.inputs), "input")),
        make("span", {}, `${count(task.outputs.length, "output")}${task.outputs.length ? `, ${bytes(task.output_bytes)}` : ""}`),
        task.cwd ? make("span", {}, `in ${task.cwd}`) : null,
        ...chips(task)),
      make("div", { class: "meter" }, meter)));
    });
    byId("tasks").replaceChildren(...list);
    byId("nothing").hidden = list.length > 0;
  };

  // Trees: children are made when a directory is opened.
  const grown = (numbers, hit) => {
    const tree = { below: new Map() };
    for (const fact of numbers) {
      const [node] = facts[fact];
      if (hit && !hit.has(node)) continue;
      const way = [];
      for (let at = node; at >= 0; at = nodes[at][0]) way.push(at);
      let branch = tree;
      for (const step of way.reverse()) {
        if (!branch.below.has(step)) branch.below.set(step, { node: step, below: new Map(), facts: [], leaves: 0, size: 0 });
        branch = branch.below.get(step);
        branch.leaves += 1;
        branch.size += facts[fact][2] ?? 0;
      }
      branch.facts.push(fact);
    }
    return tree;
  };
  const notes = { a: "looked for, not there", d: "", n: "listed", f: "", l: "", u: "unreadable", o: "special file", r: "removed" };
  const said = (fact, task) => {
    const [, kind, , digest, note] = facts[fact];
    const parts = [kind === "l" ? `→ ${note}` : notes[kind], task.modified.has(fact) ? "held something else before" : ""];
    return { text: parts.filter(Boolean).join(", "), hint: [digest, kind === "f" ? note : ""].filter(Boolean).join(", ") };
  };
  const branchElement = (branch, task, open, isTop) => {
    let name = nodes[branch.node][1];
    let at = branch;
    while (!isTop && at.facts.every((fact) => facts[fact][1] === "d") && at.below.size === 1) {
      [at] = at.below.values();
      name += `/${nodes[at.node][1]}`;
    }
    const words = at.facts.map((fact) => said(fact, task));
    const text = words.map((word) => word.text).filter(Boolean).join(", ");
    const hint = words.map((word) => word.hint).filter(Boolean).join("; ");
    if (at.below.size === 0) {
      const isDir = at.facts.some((fact) => "dn".includes(facts[fact][1]));
      const size = at.facts.map((fact) => facts[fact][2]).find((found) => found !== null && found !== undefined);
      const absent = at.facts.length > 0 && at.facts.every((fact) => "ar".includes(facts[fact][1]));
      return make("div", { class: absent ? "leaf absent" : "leaf", title: hint },
        make("span", { class: "name" }, marked(name + (isDir ? "/" : ""), state.query)),
        text ? make("span", { class: "note" }, text) : null,
        size !== undefined ? make("span", { class: "size" }, bytes(size)) : null);
    }
    const holder = make("div");
    const fill = () => {
      if (holder.childElementCount) return;
      const children = [...at.below.values()];
      children.sort((one, other) => byName.compare(nodes[one.node][1], nodes[other.node][1]) || one.node - other.node);
      const isLong = children.length > 200;
      holder.replaceChildren(...children.map((child) => branchElement(child, task, open && !isLong, false)));
    };
    const sum = `${thousands(at.leaves)}${at.size ? `, ${bytes(at.size)}` : ""}`;
    const details = make("details", { ontoggle: fill }, make("summary", { title: hint },
      marked(name + (name.endsWith("/") ? "" : "/"), state.query), " ",
      isTop ? make("span", { class: "place" }, `${place.get(branch.node)} · ${sum}`) : make("span", { class: "count" }, text ? `${text} · ${sum}` : sum)),
    holder);
    if (open) { details.open = true; fill(); }
    return details;
  };
  const treeElement = (numbers, task, hit, openAll) => {
    const tree = grown(numbers, hit);
    if (!tree.below.size) return make("p", { class: "hint" }, hit ? "none that matches the search" : "none");
    const tops = [...tree.below.values()].sort((one, other) => Number(workspaceNode(other.node)) - Number(workspaceNode(one.node)));
    return make("div", { class: "tree" }, ...tops.map((top) => {
      const open = openAll || workspaceNode(top.node);
      return branchElement(top, task, open && top.leaves <= 400, true);
    }));
  };

  const shared = (edge) => {
    const left = new Map(tasks[edge.from].outputs.filter((fact) => "fl".includes(facts[fact][1])).map((fact) => [facts[fact][0], fact]));
    return tasks[edge.to].inputs.filter((fact) => left.has(facts[fact][0]) && "fl".includes(facts[fact][1]));
  };
  const linkElement = (edge, task) => {
    const files = shared(edge).map((fact) => paths[facts[fact][0]].slice(data.workspace.length + 1));
    const stale = edge.stale ? `, ${thousands(edge.stale)} of them in another state` : "";
    return make("li", {},
      make("button", { class: "link", type: "button", onclick: () => write({ chosen: task }) }, clipped(title(task), 90)),
      make("div", { class: "why" }, `${count(edge.fresh + edge.stale, "file")}${stale}: ${clipped(files.slice(0, 3).join(", "), 160)}${files.length > 3 ? ", …" : ""}`));
  };

  // How many tasks at one end are listed before the rest is folded away.
  const LINKS = 6;
  const showDetail = (found) => {
    const task = state.chosen;
    const detail = byId("detail");
    if (!task) {
      detail.replaceChildren(make("h2", {}, "What a task read and wrote"), make("p", { class: "hint" }, "Choose a task."));
      return;
    }
    const hit = found.nodes;
    const fedBy = data.edges.filter((edge) => edge.to === task.number);
    const feeds = data.edges.filter((edge) => edge.from === task.number);
    const list = (edges, end) => {
      if (!edges.length) return make("p", { class: "hint" }, "none of these tasks");
      const all = edges.map((edge) => linkElement(edge, tasks[edge[end]]));
      const first = make("ul", { class: "links" }, ...all.slice(0, LINKS));
      const rest = all.slice(LINKS);
      return rest.length === 0 ? first : make("div", {}, first,
        make("details", {}, make("summary", { class: "hint" }, `and ${thousands(rest.length)} more`), make("ul", { class: "links" }, ...rest)));
    };
    const inputs = state.whole ? task.inputs : task.inputs.filter((fact) => workspaceNode(facts[fact][0]));
    const hidden = task.inputs.length - inputs.length;
    const pairs = [
      ["record", make("code", {}, task.record.slice(0, 16))],
      ["ran", `${time(task.ran_ms)}, exit code ${task.exit_code}`],
      ["made", date(task.created_ms)],
      ["in", task.cwd === null ? "no longer known" : make("code", {}, task.cwd || ".")],
    ];
    detail.replaceChildren(
      make("h2", {}, "What it read and wrote"),
      make("p", { class: "command" }, marked(task.command, state.query)),
      ...(chips(task).length ? [make("p", {}, ...chips(task).flatMap((chip) => [chip, " "]))] : []),
      make("dl", { class: "pairs" }, ...pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
      make("h3", {}, "Fed by"), list(fedBy, "from"),
      make("h3", {}, "Feeds"), list(feeds, "to"),
      make("h3", {}, `${count(task.outputs.length, "output")}, ${bytes(task.output_bytes)}`),
      treeElement(task.outputs, task, hit, Boolean(hit)),
      make("h3", {}, `${count(inputs.length, "input")}${state.whole ? "" : " in the workspace"}`),
      treeElement(inputs, task, hit, Boolean(hit)),
      hidden > 0 ? make("p", { class: "hint" }, `and ${thousands(hidden)} outside of it: tick "whole system" to see them`) : "",
    );
    detail.scrollTop = 0;
  };

  // The graph: tasks in columns by how many others come before them.
  const WIDTH = 230, HEIGHT = 46, GAP_X = 70, GAP_Y = 14;
  // With more tasks than this only those are drawn that the chosen one depends on, or that depend on it.
  const MANY = 30;
  const showGraph = (found) => {
    const visible = new Set(found.tasks.map((task) => task.number));
    let edges = data.edges.filter((edge) => visible.has(edge.from) && visible.has(edge.to));
    byId("graph-section").hidden = edges.length === 0;
    if (!edges.length) return;
    const ends = () => [...new Set(edges.flatMap((edge) => [edge.from, edge.to]))];
    const chosen = state.chosen && ends().includes(state.chosen.number) ? state.chosen.number : null;
    const reach = (from, to) => {
      const reached = new Set(chosen === null ? [] : [chosen]);
      for (const number of reached) edges.filter((edge) => edge[from] === number).forEach((edge) => reached.add(edge[to]));
      return reached;
    };
    const earlier = reach("to", "from"), later = reach("from", "to");
    const isOn = (edge) => (earlier.has(edge.from) && earlier.has(edge.to)) || (later.has(edge.from) && later.has(edge.to));
    if (chosen !== null && ends().length > MANY) edges = edges.filter(isOn);
    const inGraph = ends();
    const before = new Map(inGraph.map((number) => [number, edges.filter((edge) => edge.to === number).map((edge) => edge.from)]));
    const column = new Map();
    const visiting = new Set();
    // Tasks may feed each other in a circle; whoever is met again on the way counts as coming later. No recursion: chains can be long.
    for (const first of inGraph) {
      const stack = [[first, 0]];
      while (stack.length) {
        const top = stack[stack.length - 1];
        const [number, next] = top;
        if (next === 0) {
          if (column.has(number)) { stack.pop(); continue; }
          visiting.add(number);
        }
        const earlier = before.get(number);
        if (next < earlier.length) {
          top[1] += 1;
          if (!column.has(earlier[next]) && !visiting.has(earlier[next])) stack.push([earlier[next], 0]);
        } else {
          column.set(number, 1 + Math.max(-1, ...earlier.filter((one) => column.has(one)).map((one) => column.get(one))));
          visiting.delete(number);
          stack.pop();
        }
      }
    }
    const columns = [];
    for (const number of inGraph) (columns[column.get(number)] ??= []).push(number);
    const row = new Map();
    columns.forEach((numbers) => {
      // Beside the middle of what feeds them, so that few arrows cross.
      const middle = (number) => {
        const rows = before.get(number).filter((one) => row.has(one)).map((one) => row.get(one));
        return rows.length ? rows.reduce((sum, one) => sum + one, 0) / rows.length : -1;
      };
      const wanted = new Map(numbers.map((number) => [number, middle(number)]));
      numbers.sort((one, other) => wanted.get(one) - wanted.get(other) || one - other);
      let free = 0;
      for (const number of numbers) {
        row.set(number, Math.max(free, wanted.get(number)));
        free = row.get(number) + 1;
      }
    });
    const x = (number) => 4 + column.get(number) * (WIDTH + GAP_X);
    const y = (number) => 4 + row.get(number) * (HEIGHT + GAP_Y);
    const lines = edges.map((edge) => {
      const [x1, y1] = [x(edge.from) + WIDTH, y(edge.from) + HEIGHT / 2];
      const [x2, y2] = [x(edge.to) - 5, y(edge.to) + HEIGHT / 2];
      const bend = Math.max(40, Math.abs(x2 - x1) / 2);
      const label = `${count(edge.fresh + edge.stale, "file")} from ${title(tasks[edge.from])}`;
      return drawn("path", {
        class: `edge${edge.fresh ? "" : " stale"}${isOn(edge) ? " on" : ""}`, "marker-end": "url(#arrow)",
        "stroke-width": Math.min(3.5, 1 + Math.log2(1 + edge.fresh + edge.stale) / 4).toFixed(2),
        d: `M${x1},${y1} C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2},${y2}`,
      }, drawn("title", {}, label));
    });
    const boxes = inGraph.map((number) => {
      const task = tasks[number];
      const on = earlier.has(number) || later.has(number);
      const box = drawn("g", {
        class: `box${number === chosen ? " chosen" : ""}${on ? " on" : ""}`, transform: `translate(${x(number)},${y(number)})`,
        tabindex: "0", role: "button", "aria-label": title(task),
      },
      drawn("title", {}, task.command),
      drawn("rect", { width: WIDTH, height: HEIGHT }),
      drawn("text", { x: 12, y: 19 }, clipped(title(task), 29)),
      drawn("text", { x: 12, y: 36, class: "small" }, clipped(`${time(task.ran_ms)} · ${count(task.outputs.length, "output")}${task.cwd ? ` · in ${task.cwd}` : ""}`, 38)));
      const choose = () => write({ chosen: state.chosen === task ? null : task });
      box.addEventListener("click", choose);
      box.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(); } });
      return box;
    });
    const wide = 8 + columns.length * (WIDTH + GAP_X) - GAP_X;
    const high = 8 + (1 + Math.max(...row.values())) * (HEIGHT + GAP_Y) - GAP_Y;
    const arrow = drawn("marker", { id: "arrow", viewBox: "0 0 8 8", refX: "6", refY: "4", markerWidth: "11", markerHeight: "11", markerUnits: "userSpaceOnUse", orient: "auto" },
      drawn("path", { d: "M0,0.5 L7.5,4 L0,7.5 z" }));
    const svg = drawn("svg", { width: wide, height: high, viewBox: `0 0 ${wide} ${high}`, class: chosen === null ? "" : "lit", role: "group", "aria-label": "Which task feeds which" },
      drawn("defs", {}, arrow), ...lines, ...boxes);
    const frame = byId("graph");
    frame.replaceChildren(svg);
    if (chosen !== null) {
      frame.scrollTo(x(chosen) + (WIDTH - frame.clientWidth) / 2, y(chosen) + (HEIGHT - frame.clientHeight) / 2);
    }
  };

  const show = () => {
    const found = matching();
    showTasks(found);
    showGraph(found);
    showDetail(found);
  };

  const summary = () => {
    const read = new Set(tasks.flatMap((task) => task.inputs.map((fact) => facts[fact][0])));
    const total = (pick) => tasks.reduce((sum, task) => sum + pick(task), 0);
    const sums = [
      ["tasks", thousands(tasks.length)],
      ["running them took", time(total((task) => task.ran_ms))],
      ["they looked at", count(read.size, "path")],
      ["and left", `${count(total((task) => task.outputs.length), "output")}, ${bytes(total((task) => task.output_bytes))}`],
    ];
    byId("sums").replaceChildren(...sums.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
    byId("workspace").textContent = data.workspace;
    byId("footer").textContent = `Made by wink ${data.version}, ${date(data.made_ms)}. One file, nothing is loaded.`;
    document.title = `wink trace · ${data.workspace}`;
  };
  const controls = () => {
    byId("query").value = state.query;
    byId("order").value = state.order;
    byId("whole").checked = state.whole;
  };

  let waiting = 0;
  byId("query").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => write({ query: event.target.value.trim().toLowerCase() }), 120);
  });
  byId("order").addEventListener("change", (event) => write({ order: event.target.value }));
  byId("whole").addEventListener("change", (event) => write({ whole: event.target.checked }));
  addEventListener("hashchange", () => { read(); controls(); show(); });
  addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(?:INPUT|SELECT)$/.test(document.activeElement?.tagName ?? "")) {
      event.preventDefault();
      byId("query").focus();
    }
  });

  read();
  controls();
  summary();
  show();
  root.dataset.ready = String(tasks.length);
})();
