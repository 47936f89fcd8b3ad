// Before the first paint, so that nothing flashes: the colours that were chosen here before.
"use strict";
try {
  const chosen = localStorage.getItem("paceline-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // a browser that stores nothing follows the system
}
