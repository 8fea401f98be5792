// Mouse, pen, fingers and wheel on a canvas, told as what people do. Places are pixels from the canvas's upper left corner.

const CLICK_PX = 5;

// on: {drag(now, before, event), pinch(now, before, other), click(place), hover(place), wheel(factor, place)}; hover may be missing.
// In a pinch one finger goes from `before` to `now` while the other stays; lifting one of two fingers is no click.
export function listen(canvas, on) {
  const pointers = new Map();
  let travelled = 0;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, place(event));
    travelled = pointers.size > 1 ? Infinity : 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const [before, now] = [pointers.get(event.pointerId), place(event)];
    if (!before) {
      on.hover?.(now);
      return;
    }
    travelled += distance(before, now);
    pointers.set(event.pointerId, now);
    const other = [...pointers].find(([id]) => id !== event.pointerId);
    if (other) on.pinch(now, before, other[1]);
    else on.drag(now, before, event);
  });
  const up = (event) => {
    if (pointers.delete(event.pointerId) && event.type === "pointerup" && travelled < CLICK_PX) on.click(place(event));
  };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    on.wheel(1.0015 ** Math.max(-400, Math.min(400, event.deltaY)), place(event));
  }, { passive: false });
}

export function distance(a, b) {
  return Math.hypot(b[0] - a[0], b[1] - a[1]);
}
