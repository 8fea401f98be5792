// The machines that do the work, and how another one joins.

import { get, poll, post } from "./api.js";
import { duration, el, fill, note, state, table } from "./dom.js";

export async function machinesPage(main, still) {
  document.title = "Machines · Passel";
  const body = el("div", { class: "stack" });
  const joining = el("div");
  const trouble = el("div");
  fill(main, el("div", { class: "head" }, el("h1", {}, "Machines")), trouble, el("div", { class: "stack" }, body, joining));
  let before = "";
  let lines = "";
  await poll(async () => {
    const seen = await get("/ui/api/passel", still);
    const key = JSON.stringify({ ...seen, uptime_s: 0 });
    if (key !== before) fill(body, summary(seen), workers(seen.workers, trouble));
    before = key;
    const address = JSON.stringify([seen.alone, seen.join_lines]);
    if (address !== lines) fill(joining, join(seen)); // not at every look: it may show a token
    lines = address;
    return "";
  }, 2000, still);
}

function summary(seen) {
  if (seen.alone) return note("This server runs in test mode: it has no machines.");
  const busy = seen.workers.reduce((sum, w) => sum + w.running.length, 0);
  const fact = (value, name) => el("div", {}, el("strong", {}, value), el("span", { class: "small soft" }, name));
  return el("section", { class: "card facts", "aria-label": seen.name || "This passel" },
    fact(String(seen.workers.length), seen.workers.length === 1 ? "machine" : "machines"), fact(String(busy), "steps running"), fact(seen.steps_a_minute.toFixed(1), "steps a minute"),
    fact(seen.rest_s === null ? "–" : duration(seen.rest_s), "until all is done"), fact(duration(seen.uptime_s), "up"), fact(seen.version, "version"));
}

function workers(seen, trouble) {
  if (!seen.length) return el("div", { class: "card empty" }, el("h2", {}, "No machine is connected"), el("p", { class: "soft" }, "Jobs wait until one joins."));
  const act = async (path, fields) => {
    try {
      await post(path, fields);
      fill(trouble);
    } catch (error) {
      fill(trouble, note(error.message, true));
    }
  };
  const rows = seen.map((w) => {
    const draining = w.state === "draining" || w.state === "drained";
    const drain = el("button", { onclick: () => act("/ui/api/workers/drain", { worker: w.name, drained: String(!draining) }) }, draining ? "Use again" : "Drain");
    const out = w.local ? null : el("button", { class: "danger", onclick: () => window.confirm(`Shut ${w.name} out? It needs a new token to come back.`) && act("/ui/api/workers/revoke", { worker: w.name }) }, "Shut out");
    return [
      [el("strong", {}, w.name), el("div", { class: "small soft" }, `${w.hostname}${w.local ? ", this machine" : ""}`)],
      state(w.state),
      w.running.length ? el("span", { class: "small" }, w.running.join(", ")) : el("span", { class: "small soft" }, "nothing"),
      `${w.cpus} core${w.cpus === 1 ? "" : "s"}${w.gpu ? `, ${w.gpu}` : ""}`,
      `${(w.free_memory_mb / 1000).toFixed(1)} of ${(w.memory_mb / 1000).toFixed(0)} GB free`,
      String(w.steps_done),
      el("div", { class: "row acts" }, drain, out),
    ];
  });
  return table("Machines", ["Machine", "State", "Runs", "Processor#", "Memory#", "Steps done#", ""], rows);
}

function join(seen) {
  if (seen.alone) return null;
  const head = el("h2", { style: "margin:0" }, "Add a machine");
  if (!seen.join_lines.length) return el("section", { class: "card stack" }, head, el("p", { class: "soft", style: "margin:0" }, "This server listens on this machine only. Start it so that others can join:"), copyLine(seen.open_line));
  const shown = el("div", { "aria-live": "polite" });
  const show = async () => {
    try {
      fill(shown, invitation(await post("/ui/api/invite", {})));
    } catch (error) {
      fill(shown, note(error.message, true));
    }
  };
  return el("section", { class: "card stack" }, head,
    el("p", { style: "margin:0" }, "On a machine with Python, in the same network. Nothing is fetched from the internet."),
    el("div", {}, el("button", { class: "primary", onclick: show }, "Show the line to type")), shown);
}

// What to type there: without and with Passel installed.
function invitation(made) {
  const box = el("div", { class: "qr" });
  const parsed = new DOMParser().parseFromString(made.qr, "image/svg+xml").documentElement;
  if (parsed.tagName === "svg") box.append(document.importNode(parsed, true));
  const [bare, installed] = made.lines;
  return el("div", { class: "row", style: "align-items:flex-start" }, el("div", { class: "stack", style: "flex:1;min-width:min(300px,100%)" },
    copyLine(bare), el("p", { class: "small soft", style: "margin:0" }, "Where Passel is installed already:"), copyLine(installed),
    el("p", { class: "small soft", style: "margin:0" }, `Good for ${made.days} days and any number of machines. Settings lists its token and can revoke it.`)), box);
}

export function copyLine(text) {
  const button = el("button", { onclick: async () => {
    await navigator.clipboard?.writeText(text).catch(() => {});
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  } }, "Copy");
  return el("div", { class: "line" }, el("code", {}, text), navigator.clipboard ? button : null);
}
