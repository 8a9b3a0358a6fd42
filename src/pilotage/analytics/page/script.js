"use strict";
// What a pointer finds: values under it, and one series at a time. The page is complete without this.
(() => {
  const tip = document.getElementById("tip");

  const time = (seconds, length) => {
    const digits = Math.max(0, 3 - Math.floor(Math.log10(Math.max(length, 1e-6))));
    return `${seconds.toFixed(Math.min(digits, 6))} s`;
  };
  const number = (value) => (Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(3)));
  const percent = (share) => `${+(100 * share).toPrecision(3)} %`;

  // The last place in the ascending `edges` that is not beyond `value`, of those that begin an interval.
  const interval = (edges, value) => {
    let low = 0, high = edges.length - 2;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (edges[middle] <= value) low = middle; else high = middle - 1;
    }
    return low;
  };

  const row = (name, value, colour) => {
    const line = document.createElement("div"), label = document.createElement("span"), shown = document.createElement("span");
    if (colour) {
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.setProperty("--c", `var(--${colour})`);
      label.append(swatch);
    }
    label.append(name);
    shown.textContent = value;
    line.append(label, shown);
    return line;
  };

  const show = (event, title, rows) => {
    const head = document.createElement("b");
    head.textContent = title;
    tip.replaceChildren(head, ...rows);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = event.clientX + 16 + box.width > innerWidth ? event.clientX - box.width - 16 : event.clientX + 16;
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - box.height - 8))}px`;
  };

  const overSeries = (data, event, at) => {
    const place = interval(data.at, at);
    const rows = data.series.filter(([, , values]) => values[place]).map(([name, colour, values]) =>
      row(name, `${number(values[place])} ${data.unit}`, colour));
    show(event, `${time(data.at[place], data.end)} to ${time(data.at[place + 1], data.end)}`, rows);
  };

  const overRows = (data, event, at, y) => {
    const line = data.tops.findIndex((top) => y >= top && y < top + data.height);
    if (line < 0) return false;
    const shares = data.shares[line];
    if (shares.length) {
      const place = interval(data.at, at);
      const span = `${time(data.at[place], data.end)} to ${time(data.at[place + 1], data.end)}`;
      show(event, data.labels[line], [row(span, percent(shares[place]))]);
      return true;
    }
    const bar = data.bars.find(([first, rows, begin, end]) => line >= first && line < first + rows && at >= begin && at <= end);
    if (!bar) {
      show(event, data.labels[line], [row(time(at, data.end), "no task")]);
      return true;
    }
    const [, , begin, end, task, group, ending] = bar;
    show(event, task, [
      row("name", data.groups[group]), row("on", data.labels[line]), row("from", time(begin, data.end)),
      row("for", `${number(end - begin)} s`), row("ended", ending || "not yet"),
    ]);
    return true;
  };

  for (const drawing of document.querySelectorAll("svg.live")) {
    const data = JSON.parse(document.getElementById(`${drawing.id}-data`).textContent);
    const cross = drawing.querySelector(".cross");
    const leave = () => { tip.hidden = true; cross.setAttribute("x1", -9); cross.setAttribute("x2", -9); };
    drawing.addEventListener("pointerleave", leave);
    drawing.addEventListener("pointermove", (event) => {
      const box = drawing.getBoundingClientRect(), scale = drawing.viewBox.baseVal.width / box.width;
      const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
      const [first, last] = data.x;
      if (x < first || x > last) return leave();
      const at = (x - first) / (last - first) * data.end;
      if (data.kind === "series") overSeries(data, event, at);
      else if (!overRows(data, event, at, y)) return leave();
      cross.setAttribute("x1", x);
      cross.setAttribute("x2", x);
    });
  }

  for (const key of document.querySelectorAll("[data-key]")) {
    const figure = key.closest("figure");
    const mark = (wanted) => {
      figure.classList.toggle("dim", Boolean(wanted));
      for (const part of figure.querySelectorAll("[data-s]")) part.classList.toggle("on", part.dataset.s === wanted);
    };
    const pinned = () => figure.querySelector("[data-key].on")?.dataset.key;
    const pin = () => {
      const was = key.classList.contains("on");
      for (const other of figure.querySelectorAll("[data-key]")) other.classList.remove("on");
      key.classList.toggle("on", !was);
      key.setAttribute("aria-pressed", String(!was));
      mark(pinned());
    };
    key.tabIndex = 0;
    key.addEventListener("pointerenter", () => mark(key.dataset.key));
    key.addEventListener("pointerleave", () => mark(pinned()));
    key.addEventListener("click", pin);
    key.addEventListener("keydown", (event) => { if (event.key === "Enter") pin(); });
  }
})();
