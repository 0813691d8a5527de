const when = document.querySelector(".when");
if (when) {
  const stops = JSON.parse(when.dataset.stops);
  const range = when.querySelector("input"), label = when.querySelector("output");
  const charts = [...document.querySelectorAll("svg[data-values]")].map((svg) => ({
    svg, cross: svg.querySelector(".cross"), values: svg.dataset.values.split("|").map((one) => one.split(";")),
    readings: svg.parentElement.querySelectorAll(".keyline b"), left: +svg.dataset.left, right: +svg.dataset.right,
  }));
  const epochs = stops.length ? +when.dataset.epochs : 1;

  const show = (index) => {
    range.value = index;
    label.textContent = `epoch ${stops[index]} of ${epochs}${stops[index] == when.dataset.best ? ", the best" : ""}`;
    range.setAttribute("aria-valuetext", label.textContent);
    for (const { cross, values, readings, left, right } of charts) {
      const x = left + ((right - left) * stops[index]) / epochs;
      cross.style.transform = `translateX(${x}px)`;
      cross.style.visibility = "visible";
      readings.forEach((one, line) => { one.textContent = values[line][index]; });
    }
  };
  const point = (chart, event) => {
    const box = chart.svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * chart.svg.viewBox.baseVal.width;
    const epoch = ((x - chart.left) / (chart.right - chart.left)) * epochs;
    let nearest = 0;
    stops.forEach((stop, index) => {
      if (Math.abs(stop - epoch) < Math.abs(stops[nearest] - epoch)) nearest = index;
    });
    show(nearest);
  };
  for (const chart of charts)
    for (const name of ["pointermove", "pointerdown"])
      chart.svg.addEventListener(name, (event) => point(chart, event));
  range.max = stops.length - 1;
  range.value = Math.max(stops.indexOf(+when.dataset.shown), 0);
  range.hidden = false;
  range.addEventListener("input", () => show(+range.value));
}
