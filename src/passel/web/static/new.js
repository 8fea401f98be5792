// A new map: photos are sent, looked at, and then mapped. The address holds the upload, so a page that is loaded again goes on.

import { get, poll, post, headers, reach } from "./api.js";
import { bar, bytes, duration, el, fill, note, say } from "./dom.js";
import { OptionsForm } from "./options_form.js";
import { surveyMap } from "./survey_map.js";
import { Upload, droppedFiles, isPhoto } from "./upload.js";

export async function newPage(main, still, uuid) {
  document.title = "New map · Passel";
  const options = await OptionsForm.load();
  new NewMap(main, still, options, uuid);
}

class NewMap {
  constructor(main, still, options, uuid) {
    this.still = still;
    this.options = options;
    this.uuid = uuid ?? null;
    this.upload = null;
    this.name = el("input", { value: "", placeholder: "Where and when", maxlength: 200, autocomplete: "off" });
    this.picked = el("input", { type: "file", multiple: true, accept: ".jpg,.jpeg,.png,.tif,.tiff,.txt,.zip", hidden: true, "aria-label": "Photos", id: "files", onchange: () => this.add([...this.picked.files]) });
    this.folder = el("input", { type: "file", webkitdirectory: true, hidden: true, "aria-label": "A folder of photos", id: "folder", onchange: () => this.add([...this.folder.files]) });
    this.progress = el("div", { class: "stack" });
    this.look = el("div", { class: "stack" });
    this.trouble = el("div");
    this.start = el("button", { class: "primary", disabled: true, onclick: () => this.begin() }, "Start mapping");
    fill(main, el("div", { class: "head" }, el("h1", {}, "New map")),
      el("div", { class: "columns" },
        el("div", { class: "stack" }, this.drop(), this.progress, this.look),
        el("div", { class: "stack" },
          el("div", { class: "card stack" }, el("label", {}, "Name", this.name), this.start, this.trouble,
            el("p", { class: "small soft", style: "margin:0" }, "The map can be watched while it grows. Closing this page does not stop it.")),
          el("section", { class: "card", "aria-label": "Options" }, el("h2", {}, "Options"), options.element))));
    options.element.addEventListener("change", () => this.surveyAgain());
    still.addEventListener("abort", () => this.upload?.stop());
    window.addEventListener("beforeunload", this.warn = (event) => { if (this.upload && !this.upload.complete && !this.begun) event.preventDefault(); });
    still.addEventListener("abort", () => window.removeEventListener("beforeunload", this.warn));
    if (uuid) fill(this.progress, note("This upload was interrupted: choose the same photos again. What has arrived is not sent twice."));
  }

  drop() {
    const area = el("div", { class: "drop" },
      el("h2", {}, "Drop photos or a folder here"),
      el("div", { class: "row", style: "justify-content:center" },
        el("button", { onclick: () => this.picked.click() }, "Choose photos"), el("button", { onclick: () => this.folder.click() }, "Choose a folder")),
      el("p", { class: "small soft", style: "margin:0" }, "JPEG, PNG or TIFF with GPS, at least two that overlap. geo.txt and image_groups.txt count too."), this.picked, this.folder);
    for (const type of ["dragenter", "dragover"]) area.addEventListener(type, (e) => { e.preventDefault(); area.classList.add("over-it"); });
    area.addEventListener("dragleave", () => area.classList.remove("over-it"));
    area.addEventListener("drop", async (event) => {
      event.preventDefault();
      area.classList.remove("over-it");
      this.add(await droppedFiles(event.dataTransfer));
    });
    return area;
  }

  async add(files) {
    const photos = files.filter(isPhoto);
    if (!photos.length) {
      fill(this.trouble, note("No photos were among these files.", true));
      return;
    }
    fill(this.trouble);
    if (!this.name.value) this.name.value = (photos[0].webkitRelativePath || "").split("/")[0] || "";
    try {
      if (!this.upload) {
        await this.init();
        history.replaceState(null, "", `#/new/${this.uuid}`);
        this.upload = new Upload(this.uuid, () => this.show());
      }
      this.upload.add(photos);
    } catch (error) {
      fill(this.trouble, note(error.message, true));
    }
  }

  // Begins the upload, or tells the server of a new name and options for the same one.
  async init() {
    const body = new FormData();
    body.set("name", this.name.value.trim());
    body.set("options", JSON.stringify(this.options.values()));
    body.set("skipPostProcessing", "true");
    const more = this.uuid ? { "set-uuid": this.uuid } : {};
    const answer = await reach("/task/new/init", { method: "POST", body, headers: headers(more) }).then((a) => a.json());
    if (answer.error) throw new Error(answer.error);
    this.uuid = answer.uuid;
  }

  // A few times a second at most: thousands of photos report their progress.
  show() {
    this.later ??= setTimeout(() => { this.later = null; if (!this.still.aborted) this.showNow(); }, 100);
  }

  showNow() {
    const { upload } = this;
    const failed = upload.count("failed");
    const part = upload.total ? (100 * upload.sent) / upload.total : 0;
    fill(this.progress, el("section", { class: "card stack", "aria-label": "Upload" },
      el("div", { class: "row", style: "justify-content:space-between" },
        el("h2", { style: "margin:0" }, upload.complete ? `${upload.files.length} files are here` : `${upload.count("done")} of ${upload.files.length} files sent`),
        el("span", { class: "small soft" }, `${bytes(upload.sent)} of ${bytes(upload.total)}`)),
      bar(part, "Upload"),
      failed ? note([`${failed} could not be sent: `, upload.files.find((e) => e.state === "failed").error, " ", el("button", { onclick: () => upload.retry() }, "Try again")], true) : null));
    this.start.disabled = !upload.complete;
    if (upload.complete && this.surveyed !== upload.files.length) {
      this.surveyed = upload.files.length;
      say("All photos are here.");
      this.surveyAgain();
    }
  }

  // The look at the photos before anything is started: where they lie, what is wrong with them, how long it will take.
  surveyAgain() {
    if (!this.upload?.complete || this.begun) return;
    this.looking?.abort();
    this.looking = new AbortController();
    this.still.addEventListener("abort", () => this.looking.abort(), { once: true });
    const still = this.looking.signal;
    const options = encodeURIComponent(JSON.stringify(this.options.values()));
    poll(async () => {
      const survey = await get(`/ui/api/tasks/${this.uuid}/survey?options=${options}`, still);
      if (survey.state === "none") return "enough";
      this.showSurvey(survey);
      return survey.state === "running" ? "" : "enough";
    }, 1000, still).catch((error) => { if (!still.aborted) fill(this.look, note(error.message, true)); });
  }

  showSurvey(survey) {
    const running = survey.state === "running";
    const words = survey.words.length ? el("ul", { class: "small" }, survey.words.map((w) => el("li", {}, w))) : null;
    const forecast = survey.forecast_s === null ? null : el("p", {}, el("strong", {}, `About ${duration(survey.forecast_s)}`), " on the machines there are now.");
    const plan = survey.plan ? this.map ?? (this.map = surveyMap(this.still)) : null;
    fill(this.look, el("section", { class: "card stack", "aria-label": "Survey" },
      el("h2", {}, running ? "Looking at the photos…" : survey.state === "failed" ? "These photos cannot be mapped" : "The survey"), forecast, plan?.element, words));
    if (plan) plan.show(JSON.parse(survey.plan));
  }

  async begin() {
    this.start.disabled = true;
    this.looking?.abort();
    try {
      await this.init();
      await post(`/task/new/commit/${this.uuid}`);
      this.begun = true;
      location.hash = `#/task/${this.uuid}`;
    } catch (error) {
      this.start.disabled = false;
      fill(this.trouble, note(error.message, true));
    }
  }
}
