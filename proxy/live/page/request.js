// One request, looked up when its row is opened; by fetch, so that a port that asks for a token gets it.

import { token } from "./stream.js";

const el = (id) => document.getElementById(id);

export async function open(link) {
  const dialog = el("request");
  el("request-id").textContent = link.title;
  el("request-told").textContent = "asking";
  dialog.showModal();
  try {
    const headers = token.get() ? { authorization: `Bearer ${token.get()}` } : {};
    const answer = await fetch(link.href, { headers, cache: "no-store" });
    const told = await answer.json();
    el("request-told").textContent = answer.ok ? lines(told) : told.detail;
  } catch {
    el("request-told").textContent = "The admin port does not answer.";
  }
}

/** Name and value, a line each; what is inside another thing goes below it, further in. */
function lines(told, depth = 0) {
  return Object.entries(told).map(([name, value]) => {
    const inside = value !== null && typeof value === "object" && !Array.isArray(value);
    const said = inside ? `\n${lines(value, depth + 1)}` : ` ${value === null || value === "" ? "–" : value}`;
    return `${"  ".repeat(depth)}${name}:${said}`;
  }).join("\n");
}

document.addEventListener("click", (click) => {
  const link = click.target.closest?.("a[data-request]");
  if (!link || click.ctrlKey || click.metaKey || click.shiftKey) return;
  click.preventDefault();
  open(link);
});
