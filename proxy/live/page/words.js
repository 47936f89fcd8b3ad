// How numbers and names are written, the same everywhere on the page.

export const UNKNOWN = "unknown";

/** Three figures or so: 0.284, 2.84, 28.4, 284, 2,840. */
export function figure(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  const digits = size >= 100 || size === 0 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

export const whole = (value) => Math.round(value).toLocaleString("en");

/** 1 digit where it is a rate: 12.3, 0.4, 0. */
export const rate = (value) => (value ? value.toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 }) : "0");

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0) return "now";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 100) return `${value.toFixed(1)} s`;
  if (value < 5400) return `${Math.round(value / 60)} min`;
  return `${(value / 3600).toFixed(1)} h`;
}

export const share = (value, digits = 1) => `${value < 0 ? "−" : ""}${Math.abs(value * 100).toFixed(digits)} %`;

/** The same for a style sheet. */
export const percent = (value) => `${(Math.min(Math.max(value, 0), 1) * 100).toFixed(2)}%`;

/** A signed share, as effects are told. */
export const signed = (value) => `${value > 0 ? "+" : ""}${share(value)}`;

export const clock = (unix_s) => new Date(unix_s * 1000).toLocaleTimeString("en-GB");

export const short = (name) => name.replace(/^https?:\/\//, "");

const SOURCES = {
  counter: "the devices' own counters",
  power_integral: "power readings, added up",
  replayed: "replayed recordings, not measured now",
  simulated: "simulated, not measured",
  modelled: "modelled, not measured",
};
export const source = (name) => SOURCES[name] ?? name;
export const measured = (name) => name === "counter" || name === "power_integral";

export const plural = (count, one, many) => `${whole(count)} ${count === 1 ? one : many}`;
