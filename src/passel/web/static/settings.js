// Tokens: who may use this server, which machines may join; and this browser's own.

import { WrongToken, get, post, token } from "./api.js";
import { day, el, fill, note, table } from "./dom.js";
import { copyLine } from "./machines.js";

export async function settingsPage(main, still) {
  document.title = "Settings · Passel";
  const list = el("div");
  const made = el("div", { "aria-live": "polite" });
  const form = create(made, () => show(list, form, still));
  fill(main, el("div", { class: "head" }, el("h1", {}, "Settings")), el("div", { class: "stack" }, form, made, list, own()));
  try {
    await show(list, form, still);
  } catch (error) {
    if (error instanceof WrongToken || still.aborted) throw error;
    fill(main, el("div", { class: "head" }, el("h1", {}, "Settings")), el("div", { class: "stack" }, note(error.message, true), own())); // one can log out in any case
  }
}

async function show(list, form, still) {
  const { tokens, none } = await get("/ui/api/tokens", still);
  if (none) {
    fill(list, note("This server runs in test mode: it makes no tokens."));
    form.hidden = true;
    return;
  }
  const now = Date.now() / 1000;
  const rows = tokens.map((t) => {
    const state = t.trouble || (t.expires_s ? `until ${day(1000 * t.expires_s)}` : "for ever");
    const revoke = el("button", { class: "danger", onclick: async () => {
      if (!window.confirm(`Revoke ${t.name || t.id}?`)) return;
      await post("/ui/api/tokens/revoke", { id: t.id }).catch((error) => window.alert(error.message));
      await show(list, form, still);
    } }, "Revoke");
    return [
      [el("strong", {}, t.name || t.id), el("div", { class: "small soft" }, t.id)], t.kind === "join" ? "machines" : "people and programs",
      el("span", { class: "small" }, day(1000 * t.created_s)), el("span", { class: "small" }, state), t.trouble || (t.expires_s && t.expires_s < now) ? null : revoke,
    ];
  });
  fill(list, rows.length ? table("Tokens", ["Token", "For", "Made", "Valid", ""], rows) : note("There are no tokens: this server takes requests from this machine only."));
}

function create(made, again) {
  const kind = el("select", {}, el("option", { value: "join" }, "Machines that join"), el("option", { value: "api" }, "People and programs"));
  const name = el("input", { maxlength: 60, placeholder: "Whose it is" });
  const days = el("input", { type: "number", min: 0, step: "any", value: 1 });
  const send = async (event) => {
    event.preventDefault();
    try {
      const answer = await post("/ui/api/tokens/create", { kind: kind.value, name: name.value, days: days.value });
      fill(made, el("section", { class: "card stack" }, el("h2", { style: "margin:0" }, "Shown once, copy it now"), copyLine(answer.token)));
      await again();
    } catch (error) {
      fill(made, note(error.message, true));
    }
  };
  return el("form", { class: "card stack", onsubmit: send }, el("h2", { style: "margin:0" }, "New token"),
    el("div", { class: "fields" }, el("label", {}, "For", kind), el("label", {}, "Name", name), el("label", {}, "Days", days, el("span", { class: "hint" }, "empty: for ever"))),
    el("div", {}, el("button", { class: "primary" }, "Make token")));
}

function own() {
  if (!token.get()) return null;
  return el("section", { class: "card row", style: "justify-content:space-between" }, el("span", {}, "This browser is logged in."), el("button", { onclick: () => { token.set(""); location.hash = "#/"; location.reload(); } }, "Log out"));
}
