"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axis = extra => ({
    stroke: () => colour("--soft"), font: "12px system-ui, sans-serif",
    grid: { stroke: () => colour("--line"), width: 1 }, ticks: { stroke: () => colour("--line"), width: 1, size: 4 }, ...extra,
  });
  const short = value => value !== 0 && Math.abs(value) < 0.01 ? value.toExponential(1) : String(+value.toPrecision(6));
  const plots = [];

  // A chart as wide as its place.
  const draw = (place, height, options, columns) => {
    const plot = new uPlot({ width: Math.max(place.clientWidth, 60), height, ...options }, columns, place);
    new ResizeObserver(() => plot.setSize({ width: Math.max(place.clientWidth, 60), height })).observe(place);
    plots.push(plot);
  };

  for (const place of document.querySelectorAll("[data-curve]")) {
    const curve = data.curves[place.dataset.curve];
    const unit = curve.unit === "°" ? "°" : curve.unit ? " " + curve.unit : "";
    const show = value => String(+value.toPrecision(4)) + unit;
    const series = curve.series.map(({ name, colour: which, dashed }) => ({
      label: name, stroke: () => colour(`--run-${which % 6}`), width: dashed ? 1.5 : 2, dash: dashed ? [5, 4] : [],
      points: { show: curve.x.length < 40 ? undefined : false },
    }));
    const caption = place.previousElementSibling;
    draw(place, 260, {
      legend: { live: false },
      scales: { x: { time: false } },
      axes: [
        axis({ label: "epoch", labelSize: 18, labelFont: "12px system-ui, sans-serif", incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500] }),
        axis({ size: 68, values: (_, at) => at.map(value => short(value) + unit) }),
      ],
      series: [{ label: "epoch" }, ...series],
      hooks: { setCursor: [plot => {
        const at = plot.cursor.idx;
        const values = at == null ? [] : curve.series.filter(({ y }) => y[at] != null).map(({ name, y }) => `${name} ${show(y[at])}`);
        caption.textContent = values.length ? `${curve.title}, epoch ${curve.x[at]}: ${values.join(", ")}` : curve.title;
      }] },
    }, [curve.x, ...curve.series.map(({ y }) => y)]);
  }

  for (const place of document.querySelectorAll("[data-window]")) {
    const shown = data.windows[place.dataset.window];
    const joint = +place.dataset.joint, sync = `window-${place.dataset.window}`;
    const degrees = (_, value) => value == null ? "none" : value.toFixed(1) + "°";
    draw(place, 108, {
      legend: { show: false }, cursor: { sync: { key: sync }, drag: { x: true, y: false }, points: { size: 6 } },
      padding: [4, 4, 0, 0],
      scales: { x: { time: false }, y: { range: (_, low, high) => {
        const middle = (low + high) / 2, half = Math.max(high - low, 6) * 0.55;
        return [middle - half, middle + half];
      } } },
      axes: [
        axis({ size: 18, font: "10px system-ui, sans-serif", space: 46, gap: 2, values: (_, at) => at.map(v => +v.toFixed(3) + " s") }),
        axis({ size: 38, font: "10px system-ui, sans-serif", space: 26, gap: 3, values: (_, at) => at.map(value => value + "°") }),
      ],
      series: [
        { label: "s" },
        { label: "true", stroke: () => colour("--truth"), width: 1.5, value: degrees, points: { show: false } },
        { label: "predicted", stroke: () => colour(`--run-${shown.run % 6}`), width: 1.5, value: degrees, points: { show: false } },
      ],
      hooks: { setCursor: [plot => {
        const at = plot.cursor.idx, caption = place.previousElementSibling;
        caption.textContent = at == null ? place.dataset.name
          : `${place.dataset.name}: true ${degrees(0, plot.data[1][at])}, predicted ${degrees(0, plot.data[2][at])}`;
      }] },
    }, [shown.x, shown.truth[joint], shown.predicted[joint]]);
  }

  dark.addEventListener("change", () => plots.forEach(plot => plot.redraw()));
})();
