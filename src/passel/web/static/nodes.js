// NodeODM nodes behind this server: how they are, and adding, locking, deleting them; what `passel node` does.

import { get, poll, post } from "./api.js";
import { duration, el, fill, note, say, state, table } from "./dom.js";

const WORDS = { online: "Takes tasks", locked: "Locked", offline: "Offline", isolated: "Bad" };

export async function nodesPage(main, still) {
  document.title = "Nodes · Passel";
  const page = new NodesPage(main, still);
  await poll(() => page.look(), 3000, still);
}

class NodesPage {
  constructor(main, still) {
    this.still = still;
    this.trouble = el("div");
    this.list = el("div");
    this.form = new NodeForm((fields) => this.order("add", fields, `${fields.url} is added`));
    this.ask = el("button", { onclick: () => this.order("update", {}, "All nodes were asked") }, "Ask all now");
    this.ask.hidden = true;
    fill(main, el("div", { class: "head" }, el("div", {}, el("h1", {}, "Nodes"), el("p", { class: "soft small", style: "margin:6px 0 0" }, "Machines with NodeODM or another Passel, which make whole maps for this server.")), this.ask),
      this.trouble, el("div", { class: "stack" }, this.list, this.form.element));
  }

  async look() {
    this.show(await get("/admin/nodes", this.still));
    return "";
  }

  show({ nodes, none }) {
    const key = JSON.stringify([nodes, none]);
    if (key === this.shown) return;
    this.shown = key;
    this.form.element.hidden = Boolean(none);
    this.ask.hidden = none || !nodes.length;
    if (none) fill(this.list, note("This server runs in test mode: it has no nodes."));
    else if (!nodes.length) fill(this.list, el("div", { class: "card empty" }, el("h2", {}, "No nodes"), el("p", { class: "soft" }, "Passel makes all maps itself. Add machines with NodeODM if you have some: tasks go to whichever is free.")));
    else this.refill(table("Nodes", ["Node", "State", "Engine", "Tasks", "A photo takes#", ""], nodes.map((n) => this.row(n))));
  }

  // The keyboard's place stays, although the table is a new one.
  refill(shown) {
    const held = document.activeElement?.dataset?.key;
    fill(this.list, shown);
    if (held) [...shown.querySelectorAll("[data-key]")].find((b) => b.dataset.key === held)?.focus();
  }

  row(node) {
    const load = node.max_parallel ? `${node.our_tasks} of ours, ${node.queue} of ${node.max_parallel} in all` : `${node.our_tasks} of ours`;
    const limits = [node.max_images && `at most ${node.max_images} photos`, node.max_upload_mb_s && `sent ${node.max_upload_mb_s} MB/s at most`, node.has_token && "with token"].filter(Boolean).join(", ");
    const act = (word, order, ask, kind = "") => el("button", { class: kind, "data-key": `${order} ${node.name}`, "aria-label": `${word} ${node.name}`, onclick: () => (!ask || window.confirm(ask)) && this.order(order, { node: node.name }, `${word}: ${node.name}`) }, word);
    return [
      [el("strong", {}, node.name), el("div", { class: "small soft" }, node.url, limits ? `, ${limits}` : "")],
      [state(node.state, WORDS[node.state]), node.locked && node.state !== "locked" ? el("div", { class: "small soft" }, "locked") : null, node.trouble ? el("div", { class: "small why" }, node.trouble) : null],
      node.engine ? `${node.engine} ${node.engine_version}` : "–",
      load,
      node.seconds_a_photo === null ? "–" : duration(node.seconds_a_photo),
      el("div", { class: "row acts" }, node.locked ? act("Unlock", "unlock") : act("Lock", "lock"),
        el("button", { "data-key": `edit ${node.name}`, "aria-label": `Change ${node.name}`, onclick: () => this.form.edit(node) }, "Change"),
        act("Delete", "delete", `Take ${node.name} out? What it works on goes to other nodes.`, "danger")),
    ];
  }

  async order(name, fields, done) {
    try {
      const answer = await post(`/admin/nodes/${name}`, fields);
      fill(this.trouble);
      this.show(answer);
      say(done);
      if (name === "add") this.form.clear();
    } catch (error) {
      fill(this.trouble, note(error.message, true));
    }
  }
}

class NodeForm {
  constructor(send) {
    this.url = el("input", { required: true, placeholder: "http://192.168.1.20:3000", autocomplete: "off", maxlength: 500, inputmode: "url" });
    this.token = el("input", { type: "password", autocomplete: "off", maxlength: 500 });
    this.name = el("input", { maxlength: 60, placeholder: "its address", autocomplete: "off" });
    this.most = el("input", { type: "number", min: 0, step: "any", placeholder: "no limit" });
    this.pin = el("input", { maxlength: 100, autocomplete: "off", placeholder: "none" });
    this.title = el("h2", { style: "margin:0" }, "Add a node");
    this.button = el("button", { class: "primary" }, "Add node");
    const hint = (label, field, words) => el("label", {}, label, field, words ? el("span", { class: "hint" }, words) : null);
    const submit = async (event) => {
      event.preventDefault();
      this.button.disabled = true;
      await send({ url: this.url.value, token: this.token.value, name: this.name.value, max_upload_mb_s: this.most.value, pin: this.pin.value });
      this.button.disabled = false;
    };
    this.element = el("form", { class: "card stack", onsubmit: submit }, this.title,
      el("div", { class: "fields" }, hint("Address", this.url), hint("Token", this.token, "if it asks for one"), hint("Name", this.name)),
      el("details", {}, el("summary", {}, "More"), el("div", { class: "fields", style: "margin-top:12px" },
        hint("Most megabytes a second", this.most, "that a task is sent with"), hint("Certificate", this.pin, "SHA-256 of its TLS certificate, if it signed it itself"))),
      el("div", {}, this.button));
  }

  // The same name again changes a node.
  edit(node) {
    this.url.value = node.url;
    this.name.value = node.name;
    this.most.value = node.max_upload_mb_s || "";
    this.token.value = this.pin.value = "";
    this.title.textContent = `Change ${node.name}`;
    this.button.textContent = "Save";
    if (node.has_token) this.token.placeholder = "give it again";
    this.url.focus();
    this.element.scrollIntoView({ block: "nearest" });
  }

  clear() {
    this.element.reset();
    this.title.textContent = "Add a node";
    this.button.textContent = "Add node";
    this.token.placeholder = "";
  }
}
