// The pointer on a chart shows the nearest value of each run.
"use strict";
// Steps as they are; of hours four digits.
const told = x => Number.isInteger(x)
  ? x.toLocaleString("en") : String(Number(x.toPrecision(4)));
for (const figure of document.querySelectorAll("figure.chart")) {
  const svg = figure.querySelector("svg:not(.sample)");
  const hair = svg.querySelector(".hair");
  const [left, right, low, high] = ["left", "right", "low", "high"].map(
    name => Number(svg.dataset[name]));
  const curves = [...svg.querySelectorAll("path.curve")].map(path => {
    const output = figure.querySelector(
      `li[data-run="${path.dataset.run}"] .value`);
    return {
      steps: path.dataset.at.split(" ").map(Number),
      values: path.dataset.values.split(" "),
      least: path.dataset.least?.split(" "),
      most: path.dataset.most?.split(" "),
      output, last: output.innerHTML,
    };
  });
  const show = event => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width
      * svg.viewBox.baseVal.width;
    const wanted = low + (x - left) / (right - left) * (high - low);
    hair.setAttribute("d", x < left || x > right ? "" : `M${x} 8V168`);
    for (const { steps, values, least, most, output } of curves) {
      let i = 0;
      steps.forEach((step, j) => {
        if (Math.abs(step - wanted) < Math.abs(steps[i] - wanted)) i = j;
      });
      output.firstChild.textContent = values[i];
      const range = least ? ` (${least[i]} to ${most[i]})` : "";
      output.lastChild.textContent = `${range} at ${told(steps[i])}`;
    }
  };
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", () => {
    hair.setAttribute("d", "");
    for (const { output, last } of curves) output.innerHTML = last;
  });
}
