// Sending photos: several at a time, each resumed where the line broke. A photo that is there already is not sent again.

import { headers, reach } from "./api.js";

const AT_ONCE = 3;
const PAUSES_MS = [500, 1000, 2000, 4000, 8000];

export class Upload {
  // onChange() is called when anything changes; state: 'idle', 'sending', 'done' or 'stopped'.
  constructor(uuid, onChange) {
    this.uuid = uuid;
    this.onChange = onChange;
    this.files = []; // {file, sent, state: 'waiting' | 'sending' | 'done' | 'failed', error}
    this.names = new Set();
    this.working = 0;
    this.stopped = false;
  }

  add(files) {
    for (const file of files) {
      if (this.names.has(file.name)) continue;
      this.names.add(file.name);
      this.files.push({ file, sent: 0, state: "waiting", error: "" });
    }
    this.go();
  }

  retry() {
    for (const entry of this.files) if (entry.state === "failed") entry.state = "waiting";
    this.go();
  }

  stop() {
    this.stopped = true;
    for (const entry of this.files) entry.request?.abort();
  }

  get total() { return this.files.reduce((sum, e) => sum + e.file.size, 0); }
  get sent() { return this.files.reduce((sum, e) => sum + (e.state === "done" ? e.file.size : e.sent), 0); }
  count(state) { return this.files.filter((e) => e.state === state).length; }
  get complete() { return this.files.length > 0 && this.count("done") === this.files.length; }

  go() {
    this.onChange();
    while (this.working < AT_ONCE && !this.stopped) {
      const entry = this.files.find((e) => e.state === "waiting");
      if (!entry) return;
      entry.state = "sending";
      this.working++;
      this.send(entry).finally(() => {
        this.working--;
        this.go();
      });
    }
  }

  async send(entry) {
    for (let attempt = 0; !this.stopped; attempt++) {
      try {
        await this.sendOnce(entry);
        entry.state = "done";
        return;
      } catch (error) {
        entry.error = error.message || "the line broke";
        if (error.final || attempt >= 60) {
          entry.state = "failed";
          return;
        }
        await new Promise((wake) => setTimeout(wake, PAUSES_MS[Math.min(attempt, PAUSES_MS.length - 1)]));
      }
    }
  }

  async sendOnce(entry) {
    const path = `/task/new/upload/${this.uuid}/${encodeURIComponent(entry.file.name)}`;
    const { size } = entry.file;
    const asked = await reach(path, { method: "GET", headers: headers() }).then((a) => a.json());
    if (asked.error) throw final(asked.error);
    if (asked.complete && asked.offset === size) return;
    const start = asked.complete || asked.offset >= size ? 0 : asked.offset;
    const body = start ? entry.file.slice(start) : entry.file;
    const range = size ? { "Content-Range": `bytes ${start}-${size - 1}/${size}` } : {};
    const told = await this.put(path, body, headers(range), (sent) => {
      entry.sent = start + sent;
      this.onChange();
    }, entry);
    if (told.error) throw told.offset === undefined ? final(told.error) : new Error(told.error);
  }

  // XMLHttpRequest, because fetch cannot say how much is sent.
  put(path, body, head, onSent, entry) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      entry.request = request;
      request.open("PUT", path);
      for (const [name, value] of Object.entries(head)) request.setRequestHeader(name, value);
      request.upload.onprogress = (event) => onSent(event.loaded);
      request.onload = () => {
        try {
          resolve(JSON.parse(request.responseText));
        } catch {
          reject(new Error(`The server answered ${request.status}`));
        }
      };
      request.onerror = () => reject(new Error("The line broke"));
      request.onabort = () => reject(new Error("Stopped"));
      request.send(body);
    });
  }
}

function final(words) {
  return Object.assign(new Error(words), { final: true });
}

// All files of a drop, also those in dropped folders.
export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  const found = [];
  const walk = async (entry) => {
    if (entry.isFile) {
      found.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const batch = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!batch.length) return;
      for (const child of batch) await walk(child);
    }
  };
  for (const entry of entries) await walk(entry);
  return found;
}

export const isPhoto = (file) => /\.(jpe?g|png|tiff?|txt|zip)$/i.test(file.name) && !file.name.startsWith(".");
