// A form from the server's table of options: the few that matter first, the others behind a fold.

import { get } from "./api.js";
import { el } from "./dom.js";

const FIRST = ["split", "split-overlap", "orthophoto-resolution", "dem-resolution", "feature-quality", "fast-orthophoto"];

const LEFT_OUT = ["cameras", "rerun-from", "rerun-all"]; // a file; and a new map has nothing to run again

export class OptionsForm {
  static async load() {
    const rows = await get("/options");
    return new OptionsForm(rows.filter((row) => !/^(Not supported yet|No effect)/.test(row.help)));
  }

  constructor(rows) {
    this.rows = rows;
    this.fields = new Map();
    const of = (row) => this.field(row);
    const first = FIRST.map((name) => rows.find((row) => row.name === name)).filter(Boolean);
    const others = rows.filter((row) => !FIRST.includes(row.name) && !LEFT_OUT.includes(row.name));
    this.element = el("div", { class: "stack" }, el("div", { class: "fields" }, first.map(of)),
      el("details", {}, el("summary", {}, "More options"), el("div", { class: "fields", style: "margin-top:12px" }, others.map(of))));
  }

  field(row) {
    const id = `option-${row.name}`;
    const title = row.name.replaceAll("-", " ");
    let input;
    if (row.type === "bool") input = el("input", { type: "checkbox", id, checked: row.value === "true", "aria-describedby": `${id}-hint` });
    else if (Array.isArray(row.domain)) input = el("select", { id, "aria-describedby": `${id}-hint` }, row.domain.includes(row.value) ? null : el("option", { value: "", selected: true }, "automatic"), row.domain.map((v) => el("option", { value: v, selected: v === row.value }, v)));
    else input = el("input", { id, type: row.type === "int" || row.type === "float" ? "number" : "text", step: row.type === "int" ? 1 : "any", placeholder: row.value || "automatic", "aria-describedby": `${id}-hint` });
    this.fields.set(row.name, { row, input });
    const hint = el("span", { class: "hint", id: `${id}-hint` }, row.help);
    return row.type === "bool" ? el("div", {}, el("label", { class: "check", for: id }, input, title), hint) : el("label", { for: id }, title, input, hint);
  }

  // [{name, value}] of what differs from the defaults.
  values() {
    const given = [];
    for (const [name, { row, input }] of this.fields) {
      const value = row.type === "bool" ? String(input.checked) : input.value.trim();
      if (value !== "" && value !== row.value) given.push({ name, value });
    }
    return given;
  }
}
