// All maps of this token: pictures, state, progress.

import { get, headers, poll } from "./api.js";
import { bar, day, duration, el, fill, state } from "./dom.js";

export async function tasksPage(main, still) {
  document.title = "Maps · Passel";
  const list = el("div");
  fill(main, el("div", { class: "head" }, el("h1", {}, "Maps")), list);
  const cards = new Map();
  await poll(async () => {
    const { tasks } = await get("/ui/api/tasks", still);
    if (!tasks.length) {
      fill(list, empty());
      return;
    }
    const shown = tasks.map((task) => {
      const key = JSON.stringify(task);
      const known = cards.get(task.uuid);
      if (known?.key === key) return known.item;
      const item = card(task, known, still);
      cards.set(task.uuid, { key, item, picture: item.picture });
      return item;
    });
    if (list.firstChild?.tagName !== "UL") fill(list, el("ul", { class: "grid" }));
    const grid = list.firstChild;
    if (shown.length !== grid.children.length || shown.some((item, i) => grid.children[i] !== item)) fill(grid, shown);
  }, 2000, still);
}

function card(task, known, still) {
  const busy = ["committing", "running", "zipping"].includes(task.state);
  const left = busy && task.rest_s !== null ? `, ${duration(task.rest_s)} left` : "";
  const photos = `${task.imagesCount} photo${task.imagesCount === 1 ? "" : "s"}`;
  const picture = known?.picture?.dataset.of === task.thumbnail + task.state ? known.picture : thumbnail(task, still);
  const item = el("li", {}, el("a", { class: "card task", href: `#/task/${task.uuid}` },
    picture,
    el("div", { class: "about" },
      el("h2", {}, task.name),
      el("div", { class: "row small soft" }, state(task.state), `${photos}${left}`),
      busy ? bar(task.progress, `Progress of ${task.name}`) : null,
      el("div", { class: "small soft" }, task.failure ? task.failure.slice(0, 140) : day(task.dateCreated)))));
  item.picture = picture;
  return item;
}

function thumbnail(task, still) {
  const box = el("div", { class: "thumb", "data-of": task.thumbnail + task.state }, task.thumbnail ? "" : el("span", { class: "small" }, "no picture yet"));
  if (task.thumbnail) whenSeen(box, () => loadPicture(box, `/ui/api/tasks/${task.uuid}/pictures/${task.thumbnail}`, "", still));
  return box;
}

// Of hundreds of maps, only the pictures that are looked at are fetched.
const sights = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    sights.unobserve(target);
    target.onSeen();
  }
}, { rootMargin: "300px" });

function whenSeen(box, act) {
  box.onSeen = act;
  sights.observe(box);
}

// Pictures are fetched with the token in a header; a link in the page would show it in the address.
export async function loadPicture(box, path, words, still) {
  try {
    const answer = await fetch(path, { headers: headers(), signal: still });
    if (!answer.ok || !answer.headers.get("content-type")?.startsWith("image/")) return;
    const url = URL.createObjectURL(await answer.blob());
    const image = el("img", { src: url, alt: words });
    image.addEventListener("load", () => URL.revokeObjectURL(url));
    fill(box, image);
  } catch {
    // the page goes on without this picture
  }
}

function empty() {
  return el("div", { class: "card empty" }, el("img", { src: "/ui/icon.svg", alt: "", width: 64, height: 64 }),
    el("h2", {}, "No maps yet"), el("p", { class: "soft" }, "Drop a folder of drone photos, and Passel makes an orthophoto, a surface model and a point cloud of them."),
    el("a", { class: "button primary", href: "#/new" }, "New map"));
}
