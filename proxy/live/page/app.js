// The page: frames come in, numbers, curves and tables follow.

import { chart, memory } from "./charts.js";
import "./request.js";
import { groups, joules, servers, trials, waiting } from "./sections.js";
import { stream, token } from "./stream.js";
import { clock, figure, measured, plural, rate, source, whole } from "./words.js";

const SAYS_EVERY_MS = 10_000;
const el = (id) => document.getElementById(id);
const past = memory();

// --- charts ------------------------------------------------------------------------------------------------------

const LINES = { total: { colour: "accent", fill: "accent-soft" }, part: [{ colour: "soft", dash: true }, { colour: "second", dash: true }, { colour: "ink", dash: true }] };
const watts = (value) => (value === null || value === undefined ? "–" : whole(value));
const charts = {
  power: chart(el("charts"), "Power", "W", [], { empty: "No meter: power is unknown.", digits: watts }),
  request: chart(el("charts"), "Joules a request, idle included", "J", [{ name: "mean of the last minute", ...LINES.total }], { empty: "Unknown: no meter, or no answers yet." }),
  waiting: chart(el("charts"), "Waiting and in flight", "", [{ name: "held", ...LINES.total }, { name: "ready", colour: "second" }, { name: "in flight", colour: "soft", thin: true }], { digits: watts, least: 4 }),
  groups: chart(el("charts"), "Groups leaving", "", [{ name: "largest in a second", colour: "accent", bars: true }, { name: "requests leaving a second", colour: "second" }], { digits: watts, least: 4 }),
};

function draw() {
  const columns = past.columns, at = columns.at_unix_s, names = Object.keys(columns.power_w ?? {});
  const parts = names.map((name) => columns.power_w[name]);
  const total = at.map((_, index) => {
    const there = parts.map((column) => column[index]).filter((value) => value !== null);
    return there.length ? there.reduce((sum, value) => sum + value, 0) : null;
  });
  const curves = [{ name: names.length > 1 ? "all" : "now", ...LINES.total }];
  if (names.length > 1) names.forEach((name, place) => curves.push({ name: label(name), ...LINES.part[place % 3] }));
  charts.power.show([at, total, ...(names.length > 1 ? parts : [])], curves);
  charts.request.show([at, columns.per_request_j]);
  charts.waiting.show([at, columns.held, columns.ready, columns.in_flight]);
  charts.groups.show([at, columns.largest, columns.left]);
}

const label = (name) => name.replace(/^https?:\/\//, "");

// --- numbers -----------------------------------------------------------------------------------------------------

function number(id, value, note, tone = "") {
  const place = el(`n-${id}`);
  place.textContent = value ?? "unknown";
  place.classList.toggle("unknown", value === null);
  const below = el(`n-${id}-note`);
  below.textContent = note;
  below.className = `note ${tone ?? ""}`;
}

function numbers(frame) {
  const { energy, joules: cost, gain, point, rates, requests } = frame;
  const told = energy === null || measured(energy.source) ? "" : "warned";
  const watt = energy && (energy.power_w ?? energy.host_power_w);
  number("power", watt === null ? null : whole(watt), energy === null ? "no meter" : power_note(energy), told);
  const request = cost.all_in_j === null ? null : figure(cost.all_in_j);
  number("request", request, energy === null ? "no meter" : request === null ? "no answer in the last minute" : `last ${plural(Math.round(cost.seconds), "second", "seconds")}, idle included${told && `; ${energy.source}`}`, request && told);
  number("gain", gain === null || gain.saved_share_of_active === null ? null : figure(gain.saved_share_of_active * 100), gain === null ? "nothing is compared yet" : `against straight through; ${plural(gain.requests, "request", "requests")}`, gain && "warned");
  const room = frame.waiting;
  number("waiting", whole(room.held + room.ready), `${whole(room.held)} held, ${whole(room.ready)} ready for a slot`);
  const slots = frame.servers.reduce((sum, server) => (server.slots === null ? NaN : sum + server.slots), 0);
  number("flight", whole(point.in_flight), Number.isNaN(slots) ? plural(frame.servers.length, "server", "servers") : `of ${plural(slots, "slot", "slots")}`);
  const ends = ["failed", "expired", "rejected", "cancelled"].filter((name) => rates[name]).map((name) => `${rate(rates[name])} ${name}`);
  number("answers", rate(rates.completed), ends.join(", ") || `${whole(rates.output_tokens ?? 0)} tokens a second; none fails`, rates.failed ? "bad" : "");
  el("foot").textContent = `Paceline ${frame.version}, configuration ${frame.config.generation} (${frame.config.digest}), ${whole(requests.completed)} answered and ${whole(requests.failed)} failed since the start. As of ${clock(frame.at_unix_s)}.`;
}

function power_note(energy) {
  const frozen = energy.domains.flatMap((domain) => domain.frozen);
  if (frozen.length) return `without ${frozen.join(", ")}: no news of ${frozen.length === 1 ? "its counter" : "their counters"}`;
  const host = energy.host_power_w !== null && energy.power_w !== null ? `, hosts ${whole(energy.host_power_w)} W` : "";
  return `${source(energy.source)}${host}`;
}

function head(frame) {
  const bold = (text) => Object.assign(document.createElement("b"), { textContent: text });
  const parts = ["policy ", bold(frame.strategy.policy), ", placement ", bold(frame.strategy.placement)];
  if (frame.strategy.experiment) parts.push(", by experiment ", bold(frame.strategy.experiment));
  if (frame.draining) parts.push(", closing");
  const said = parts.map((part) => part.textContent ?? part).join("");
  if (el("strategy").textContent !== said) el("strategy").replaceChildren(...parts);
  const badge = el("source"), name = frame.energy?.source;
  badge.hidden = frame.energy !== null && measured(name);
  badge.textContent = frame.energy === null ? "no meter: energy is unknown" : `joules are ${source(name)}`;
}

// --- frames ------------------------------------------------------------------------------------------------------

let latest = null, paused = false, shown = -1;

function show() {
  if (latest === null || document.hidden) return;
  const frame = latest;
  head(frame);
  numbers(frame);
  draw();
  waiting(frame.waiting);
  groups(frame);
  servers(frame.servers);
  joules(frame);
  trials(frame.experiments);
  if (shown < 0) describe();
  shown = frame.at_unix_s;
}

const watching = stream(new URL("live", document.baseURI), {
  event(name, data) {
    if (name === "history") past.begin(data);
    if (name !== "frame") return;
    past.add(data.point);
    latest = data;
    if (!paused) requestAnimationFrame(show);
  },
  state(now, why, again_s) {
    el("state").dataset.state = now;
    el("state-text").textContent = now === "live" ? (paused ? "paused" : "live") : "lost";
    document.body.toggleAttribute("data-stale", now === "lost");
    const banner = el("lost");
    banner.hidden = now === "live";
    if (now === "lost") banner.textContent = `The stream is lost: ${why}. ${latest ? `What is shown is of ${clock(latest.at_unix_s)}. ` : ""}Trying again${again_s > 1 ? ` in ${again_s} s` : ""}.`;
  },
  unauthorized() {
    el("state").dataset.state = "lost";
    el("state-text").textContent = "closed";
    el("ask-why").hidden = !token.get();
    if (!el("ask").open) el("ask").showModal();
  },
});

// --- what a reader can do ----------------------------------------------------------------------------------------

el("ask-form").addEventListener("submit", (submit) => {
  submit.preventDefault();
  token.set(el("token").value.trim());
  el("token").value = "";
  el("ask").close();
  watching.start();
});
el("ask").addEventListener("cancel", (cancel) => cancel.preventDefault());

el("pause").addEventListener("click", () => {
  paused = !paused;
  el("pause").setAttribute("aria-pressed", String(paused));
  if (el("state").dataset.state === "live") el("state-text").textContent = paused ? "paused" : "live";
  if (!paused) show();
});

const chosen = document.documentElement.dataset.theme ?? "auto";
for (const choice of document.querySelectorAll("input[name=theme]")) {
  choice.checked = choice.value === chosen;
  choice.addEventListener("change", () => {
    if (choice.value === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = choice.value;
    try { localStorage.setItem("paceline-theme", choice.value); } catch { /* then for this page only */ }
    repaint();
  });
}
const repaint = () => Object.values(charts).forEach((one) => one.redraw());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
document.addEventListener("visibilitychange", () => { if (!paused) show(); });

/** For those who hear the page: at most every ten seconds, and only what is another sentence than before. */
function describe() {
  if (latest === null || paused) return;
  Object.values(charts).forEach((one) => one.describe());
  const { energy, joules: cost, waiting: room, point } = latest;
  const power = energy === null ? "energy unknown" : `${figure(energy.power_w ?? energy.host_power_w)} watts`;
  const request = cost.all_in_j === null ? "" : `, ${figure(cost.all_in_j)} joules a request`;
  const mark = energy === null || measured(energy.source) ? "" : ` ${energy.source}`;
  const said = `${power}${request}${mark}, ${plural(room.held + room.ready, "request waits", "requests wait")}, ${whole(point.in_flight)} in flight`;
  if (el("summary").textContent !== said) el("summary").textContent = said;
}
setInterval(describe, SAYS_EVERY_MS);

watching.start();
