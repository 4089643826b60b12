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
    const show = (_, value) => value == null ? "–" : +value.toPrecision(5) + (curve.unit ? " " + curve.unit : "");
    const series = curve.series.map(({ name, run, dashed }) => ({
      label: name, stroke: () => colour(`--run-${run % 6}`), width: dashed ? 1.5 : 2, dash: dashed ? [5, 4] : [],
      value: show, points: { show: curve.x.length < 40 ? undefined : false },
    }));
    draw(place, 260, {
      scales: { x: { time: false }, y: { distr: curve.log ? 3 : 1 } },
      axes: [axis({ incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500] }), axis({ size: 62, values: (_, at) => at.map(short) })],
      series: [{ label: "epoch" }, ...series],
    }, [curve.x, ...curve.series.map(({ y }) => y)]);
  }

  for (const place of document.querySelectorAll("[data-window]")) {
    const shown = data.windows[place.dataset.window];
    const joint = +place.dataset.joint, sync = `window-${place.dataset.window}`;
    const degrees = (_, value) => value == null ? "–" : value.toFixed(1) + "°";
    draw(place, 108, {
      legend: { show: false }, cursor: { sync: { key: sync }, drag: { x: true, y: false }, points: { size: 6 } },
      padding: [4, 4, 0, 0],
      scales: { x: { time: false }, y: { range: (_, low, high) => {
        const middle = (low + high) / 2, half = Math.max(high - low, 6) * 0.55;
        return [middle - half, middle + half];
      } } },
      axes: [
        axis({ size: 18, font: "10px system-ui, sans-serif", space: 46, gap: 2, values: (_, at) => at.map(v => +v.toFixed(3) + " s") }),
        axis({ size: 34, font: "10px system-ui, sans-serif", space: 26, gap: 3 }),
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
