// Draws each chart when it comes near the window, in the colours of the reader's light or dark scheme.
(() => {
  const figures = JSON.parse(document.getElementById("charts").textContent);
  const elements = [...document.querySelectorAll("[data-chart]")];
  const drawn = new Set();
  const compact = { format: new Intl.NumberFormat("en", { maximumSignificantDigits: 4 }).format };
  const config = {
    displaylogo: false, responsive: true, displayModeBar: "hover",
    modeBarButtons: [["toImage", "resetScale2d"]], // nothing that would send the chart anywhere
  };

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  }

  function themedTrace(trace) {
    const meta = trace.meta || {};
    const shade = colour(`chart-${meta.colour || "c1"}`) || colour("chart-c1");
    const themed = { ...trace, opacity: meta.faint ? 0.3 : 1 };
    if (trace.type === "bar") {
      return { ...themed, marker: { ...trace.marker, color: shade }, textfont: { color: colour("muted"), size: 11 } };
    }
    themed.line = { ...trace.line, color: shade };
    themed.marker = { color: shade, size: 7 };
    return trace.stackgroup ? { ...themed, fillcolor: shade } : themed;
  }

  function themedAxis(axis) {
    return {
      gridcolor: colour("grid"), zerolinecolor: colour("grid"), linecolor: colour("grid"), automargin: true,
      tickfont: { color: colour("muted"), size: 11 }, ...axis,
      title: { standoff: 8, font: { color: colour("muted"), size: 11 }, ...(axis && axis.title) },
    };
  }

  function themedLayout(layout) {
    const themed = {
      ...layout, autosize: true, paper_bgcolor: "transparent", plot_bgcolor: "transparent",
      margin: { l: 8, r: 8, t: 8, b: 8 }, font: { family: colour("font"), color: colour("ink"), size: 12 },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", traceorder: "normal", font: { size: 12 } }, dragmode: "zoom",
      hoverlabel: { bgcolor: colour("surface"), bordercolor: colour("line"), font: { color: colour("ink"), size: 12 } },
      modebar: { bgcolor: "transparent", color: colour("muted"), activecolor: colour("ink") },
    };
    for (const name of ["xaxis", "yaxis", "yaxis2"]) if (layout[name]) themed[name] = themedAxis(layout[name]);
    themed.xaxis = { ...themed.xaxis, showgrid: false };
    return themed;
  }

  function draw(element) {
    const { data, layout } = figures[element.dataset.chart];
    const plot = element.querySelector(".plot");
    drawn.add(element);
    Plotly.react(plot, data.map(themedTrace), themedLayout(layout), config);
    plot.setAttribute("role", "group");
    plot.setAttribute("aria-label", described(element, data));
  }

  function described(element, data) {
    const shown = data.filter((trace) => trace.showlegend !== false);
    const parts = shown.map((trace) => `${trace.name}: ${ends(trace)}`);
    return `${element.querySelector("h4").innerText}. ${parts.join("; ")}`;
  }

  function ends(trace) {
    if (trace.type === "bar") return trace.x.map((label, index) => `${label} ${shown(trace.y[index])}`).join(", ");
    const values = trace.y.filter((value) => value !== null);
    return `${shown(values[0])} → ${shown(values[values.length - 1])}`;
  }

  function shown(value) {
    return value === null || value === undefined ? "–" : compact.format(value);
  }

  function fillNumbers(details) {
    const place = details.querySelector(".scroll");
    if (place.childElementCount || !details.open) return;
    const { data } = figures[details.closest("[data-chart]").dataset.chart];
    const lines = data.filter((trace) => trace.showlegend !== false);
    const maps = lines.map((trace) => new Map(trace.x.map((x, index) => [x, trace.y[index]])));
    const steps = [...new Set(lines.flatMap((trace) => trace.x))];
    if (steps.every((step) => typeof step === "number")) steps.sort((one, other) => one - other);
    const table = document.createElement("table");
    addRow(table.createTHead(), "th", ["", ...lines.map((trace) => trace.name)]);
    const body = table.createTBody();
    for (const step of steps) addRow(body, "td", [step, ...maps.map((map) => shown(map.get(step)))]);
    place.append(table);
  }

  function addRow(part, kind, cells) {
    const row = part.insertRow();
    for (const cell of cells) {
      const element = document.createElement(kind);
      element.textContent = cell;
      element.className = "n";
      row.append(element);
    }
  }

  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      observer.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "500px 0px" });
  for (const element of elements) {
    observer.observe(element);
    element.querySelector("details").addEventListener("toggle", (event) => fillNumbers(event.target));
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(draw));
  addEventListener("beforeprint", () => elements.forEach(draw));
  window.report.onLanguage(() => drawn.forEach(draw));
})();
