// Draw every figure whose JSON the page holds (see book/_ext/plotly_figures.py).
document.addEventListener("DOMContentLoaded", () => {
  for (const place of document.querySelectorAll(".plotly-figure")) {
    const { data, layout, config } = JSON.parse(place.querySelector("script").textContent);
    layout.autosize = true;
    delete layout.width;
    Plotly.newPlot(place, data, layout, config);
  }
});
