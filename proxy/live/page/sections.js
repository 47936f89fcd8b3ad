// The parts of the page below the charts: who waits, who left, servers, joules, experiments.

import { table } from "./tables.js";
import { figure, measured, percent, plural, seconds, share, short, signed, source, whole } from "./words.js";

const el = (id) => document.getElementById(id);

export function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// --- waiting room ------------------------------------------------------------------------------------------------

const longest = table(el("longest"), "Those who have waited the longest, the longest first", [
  { head: "Waited", n: true, cell: (row) => seconds(row.waited_s) },
  { head: "Why", wrap: true, cell: (row) => row.why },
  { head: "At the latest in", n: true, cell: (row) => (row.deadline_in_s === null ? "–" : seconds(row.deadline_in_s)) },
  { head: "Tier", cell: (row) => row.tier },
  { head: "Tenant", cell: (row) => row.tenant || "–" },
  { head: "Request", mono: true, cell: (row) => request(row.id) },
], (row) => row.id, "Nobody waits.");

function request(id) {
  const link = make("a", "", id.length > 12 ? `${id.slice(0, 12)}…` : id);
  link.href = `requests/${encodeURIComponent(id)}`;
  link.title = id;
  link.dataset.request = "";
  link.tabIndex = -1; // its row is reached by the arrows, and opens it by the return key
  return link;
}

el("longest").addEventListener("keydown", (press) => {
  if (press.key !== "Enter" || press.target.tagName !== "TR") return;
  press.preventDefault(); // else the button that then has focus is pressed as well
  press.target.querySelector("a")?.click();
});

export function waiting(told) {
  longest(told.longest);
  const most = Math.max(...told.by_tier.map((tier) => tier.held + tier.ready), 1);
  keyed(el("tiers"), told.by_tier, (tier) => tier.tier, tier_row, (row, tier) => {
    row.querySelector(".counts").textContent = `${whole(tier.held)} held, ${whole(tier.ready)} ready`;
    row.querySelector(".one").style.width = percent(tier.held / most);
    row.querySelector(".two").style.width = percent(tier.ready / most);
  }, "Held: its policy lets it wait for company, until its own deadline at the latest. Ready: it waits for a free slot.");
}

function tier_row(tier) {
  const row = make("div", "row"), bar = make("div", "bar");
  bar.append(make("i", "one"), make("i", "two"));
  row.append(make("h3", "", tier.tier), make("span", "counts"), bar);
  return row;
}

/** Children by key, made once; a note stands last. */
function keyed(parent, values, key, create, fill, note) {
  const there = new Map([...parent.children].filter((child) => child.dataset.key).map((child) => [child.dataset.key, child]));
  if (!parent.dataset.begun) parent.replaceChildren(), (parent.dataset.begun = "1"), note && parent.append(make("p", "note", note));
  const foot = parent.querySelector(":scope > .note");
  for (const value of values) {
    let child = there.get(key(value));
    if (!child) {
      child = create(value);
      child.dataset.key = key(value);
      parent.insertBefore(child, foot);
    }
    fill(child, value);
    there.delete(key(value));
  }
  for (const gone of there.values()) gone.remove();
}

// --- groups and servers ------------------------------------------------------------------------------------------

const left = table(el("groups"), "Groups that left, the latest first", [
  { head: "Ago", n: true, cell: (row) => seconds(row.ago_s) },
  { head: "Size", n: true, cell: (row) => whole(row.size) },
  { head: "First waited", n: true, cell: (row) => seconds(row.waited_s) },
  { head: "Let go by", cell: (row) => let_go(row) },
  { head: "To", mono: true, cell: (row) => Object.entries(row.servers).map(([name, count]) => (Object.keys(row.servers).length > 1 ? `${count} × ${short(name)}` : short(name))).join(", ") },
], (row) => String(row.number), "No group of two or more has left yet.");

function let_go(row) {
  const others = Object.entries(row.outcomes).filter(([outcome]) => outcome !== "policy").map(([outcome, count]) => `${count} by ${outcome}`);
  return others.length ? `${row.policy} (${others.join(", ")})` : row.policy;
}

export function groups(told) {
  left(told.groups);
  el("alone").textContent = `${plural(told.alone, "request", "requests")} left alone in the last minute; groups are of two or more.`;
}

let several = false; // groups, so that each server's is told

const server_rows = table(el("servers"), "Servers", [
  { head: "Server", mono: true, cell: (row) => (several ? `${short(row.name)} (${row.group})` : short(row.name)) },
  { head: "In flight", cell: load },
  { head: "State", cell: server_state, tone: (row) => (server_state(row) === "works" ? "" : row.circuit === "closed" && row.healthy ? "warned" : "bad") },
  { head: "Power", n: true, cell: (row) => (row.power_w === null ? "–" : `${whole(row.power_w)} W`) },
  { head: "Model", cell: model },
], (row) => `${row.group} ${row.name}`, "No server.");

function load(row) {
  if (row.slots === null) return `${whole(row.in_flight)}, no limit`;
  const cell = make("span", "", `${whole(row.in_flight)} of ${whole(row.slots)}`), bar = make("span", "bar inline"), part = make("i");
  part.style.width = percent(row.in_flight / row.slots);
  bar.setAttribute("aria-hidden", "true");
  bar.append(part);
  cell.append(bar);
  return cell;
}

function model(row) {
  const cell = make("span", "", row.model?.split("/").at(-1) ?? "–");
  cell.title = row.model ?? "";
  return cell;
}

function server_state(row) {
  if (row.circuit === "open") return "fails: circuit open";
  if (row.circuit !== "closed") return "is tried again";
  if (row.state !== "awake") return row.state.replaceAll("_", " ");
  return row.healthy ? "works" : "takes no more";
}

export function servers(told) {
  several = new Set(told.map((row) => row.group)).size > 1;
  server_rows(told);
  const without = told.some((row) => row.power_w === null);
  el("servers-note").textContent = without ? "Power is a server's own only where its devices serve no other." : "";
}

// --- joules ------------------------------------------------------------------------------------------------------

const policies = table(el("joules"), "Joules by policy, of the last minute", [
  { head: "Policy", cell: (row) => row.policy || "–" },
  { head: "Requests", n: true, cell: (row) => whole(row.requests) },
  { head: "J a request", n: true, cell: (row) => figure(row.per_request_j) },
  { head: "J a token", n: true, cell: (row) => figure(row.per_token_j) },
  { head: "Joules are", cell: (row) => (measured(row.source) ? "measured" : row.source), tone: (row) => (measured(row.source) ? "" : "warned") },
], (row) => `${row.policy} ${row.source}`, "No request of the last minute has final joules.");

const PARTS = [["requests_j", "requests", ""], ["idle_j", "idle", "two"], ["unattributed_j", "unattributed", "three"]];

export function joules(frame) {
  policies(frame.joules.by_policy);
  const note = el("joules-note"), books = el("books");
  books.hidden = frame.energy === null;
  if (frame.energy === null) {
    note.textContent = "No meter tells of these servers, so their energy is unknown.";
    return;
  }
  const minute = frame.energy.last_minute, all = frame.energy.since_start, error_uj = all.conservation_error_uj;
  note.textContent = `By policy: a request's own share, net of idle power; ${source(frame.energy.source)}.`;
  if (!books.firstChild) {
    const bar = make("div", "bar"), list = make("ul");
    for (const [, , tone] of PARTS) bar.append(make("i", tone)), list.append(make("li"));
    bar.setAttribute("aria-hidden", "true");
    books.append(bar, list, make("p", "note"));
  }
  const [bar, list, sum] = books.children;
  PARTS.forEach(([key, name, tone], place) => {
    const part = minute.counted_j > 0 ? minute[key] / minute.counted_j : 0;
    bar.children[place].style.width = percent(part);
    const item = make("li"), digits = key === "unattributed_j" ? 2 : 1;
    item.append(make("span", `sw ${tone}`), `${name} ${whole(minute[key])} J, ${share(part, digits)}`);
    list.children[place].replaceWith(item);
  });
  sum.textContent = error_uj === 0
    ? `Conserved: since the start the three add up to the ${whole(all.counted_j)} J counted, to the microjoule.`
    : `Not conserved: ${whole(error_uj)} µJ of ${whole(all.counted_j)} J are missing, which is a fault.`;
  sum.classList.toggle("bad", error_uj !== 0);
}

// --- experiments -------------------------------------------------------------------------------------------------

const METRICS = { j_per_token: "J a token", j_per_request: "J a request" };

export function trials(told) {
  const parent = el("trials");
  if (!told.length) {
    if (!parent.querySelector(".none")) parent.replaceChildren(none());
    return;
  }
  parent.replaceChildren(...told.map(trial));
}

function none() {
  const said = make("p", "note none", "None runs. ");
  said.append(make("code", "mono", "paceline ab start"), " begins one.");
  return said;
}

function trial(one) {
  const box = make("div", "trial"), list = make("dl");
  const row = (name, value) => list.append(make("dt", "", name), make("dd", "", value));
  const ends = one.ends_in_s === null ? "" : `, for ${seconds(one.ends_in_s)} more`;
  box.append(make("h3", "", one.name), list);
  row("In force", one.sides ? `${one.sides.map((arm, side) => `side ${"AB"[side]} ${arm}: ${one.arms[arm]}`).join(", ")}${ends}` : `${one.arm}: ${one.policy}${ends}`);
  row("Block", one.block === null ? "outside its blocks" : `${one.block + 1} of ${one.blocks}`);
  row("Arms", `control ${one.arms.control}, treatment ${one.arms.treatment}`);
  const found = one.result;
  if (!found || found.effect === null) {
    row("Effect", "no pair of blocks is analysed yet");
    return box;
  }
  const between = found.low === null ? "no interval yet" : `between ${signed(found.low)} and ${signed(found.high)}`;
  row("Effect", `${signed(found.effect)} ${METRICS[one.metric] ?? one.metric}, ${between}${found.sources.every(measured) ? "" : `; ${found.sources.join(", ")}`}`);
  row("Verdict", `${found.verdict}, ${found.pairs} of ${one.pairs_planned} pairs`);
  const guards = Object.entries(found.guardrails).map(([name, judged]) => `${name} ${judged}`);
  if (guards.length) row("Guardrails", guards.join(", "));
  if (found.low !== null) box.insertBefore(ruler(found), list);
  return box;
}

/** The interval on a line with zero in its middle. */
function ruler(found) {
  const reach = Math.max(Math.abs(found.low), Math.abs(found.high), 0.05) * 1.1;
  const at = (value) => `${((value / reach + 1) * 50).toFixed(2)}%`;
  const line = make("div", "ruler"), span = make("div", "span"), middle = make("div", "middle");
  line.setAttribute("aria-hidden", "true");
  span.style.left = at(found.low);
  span.style.right = `${(100 - parseFloat(at(found.high))).toFixed(2)}%`;
  middle.style.left = at(found.effect);
  line.append(make("div", "zero"), span, middle);
  return line;
}
