// The frame of all pages: which page the address means, the log-in when a token is needed, errors that nobody expected.

import { Away, WrongToken, get, token } from "./api.js";
import { el, fill, note } from "./dom.js";
import { machinesPage } from "./machines.js";
import { newPage } from "./new.js";
import { nodesPage } from "./nodes.js";
import { settingsPage } from "./settings.js";
import { taskPage } from "./task.js";
import { tasksPage } from "./tasks.js";

const PAGES = [
  [/^#\/?$/, "tasks", tasksPage],
  [/^#\/new(?:\/([0-9a-f-]{36}))?$/, "new", newPage],
  [/^#\/task\/([0-9a-f-]{36})$/, "tasks", taskPage],
  [/^#\/machines$/, "machines", machinesPage],
  [/^#\/nodes$/, "nodes", nodesPage],
  [/^#\/settings$/, "settings", settingsPage],
];
const main = document.getElementById("main");
let leaving = new AbortController();

// The QR code of `passel serve` carries the token; it must not stay in the address.
const given = new URLSearchParams(location.search).get("token");
if (given) {
  token.set(given);
  history.replaceState(null, "", location.pathname + location.hash);
}

async function open() {
  leaving.abort();
  leaving = new AbortController();
  const still = leaving.signal;
  const [pattern, name, page] = PAGES.find(([p]) => p.test(location.hash || "#/")) ?? PAGES[0];
  for (const a of document.querySelectorAll("nav a")) a.toggleAttribute("aria-current", a.dataset.page === name);
  for (const a of document.querySelectorAll("nav a[aria-current]")) a.setAttribute("aria-current", "page");
  const parts = (location.hash || "#/").match(pattern) ?? [];
  fill(main);
  window.scrollTo(0, 0);
  try {
    await page(main, still, ...parts.slice(1));
  } catch (error) {
    if (still.aborted) return;
    if (error instanceof WrongToken) logIn(error.message);
    else if (error instanceof Away) openLater(still);
    else fill(main, note(error.message || "Something went wrong on this page; load it again.", true));
  }
}

// The page as soon as the server is there again.
function openLater(still) {
  fill(main, note("Waiting for the server…"));
  const timer = setTimeout(open, 2000);
  still.addEventListener("abort", () => clearTimeout(timer), { once: true });
}

function logIn(words) {
  const field = el("input", { type: "password", name: "token", autocomplete: "current-password", required: true, "aria-describedby": "token-hint" });
  const trouble = el("div");
  const send = async (event) => {
    event.preventDefault();
    token.set(field.value.trim());
    try {
      await get("/info");
      open();
    } catch (error) {
      token.set("");
      fill(trouble, note(error instanceof WrongToken ? "This token is not known, expired or revoked." : error.message, true));
      field.focus();
    }
  };
  const hint = el("span", { class: "hint", id: "token-hint" }, el("code", {}, "passel serve"), " shows it at its start; ", el("code", {}, "passel token create --api"), " makes another.");
  fill(main, el("form", { class: "card stack", onsubmit: send, style: "max-width:460px;margin:8vh auto" },
    el("h1", {}, "Log in"), token.get() && words ? note(words, true) : null, el("label", {}, "Token", field, hint), trouble, el("button", { class: "primary" }, "Log in")));
  document.title = "Log in · Passel";
  field.focus();
}

window.addEventListener("hashchange", () => { open(); main.focus({ preventScroll: true }); });
open();
