// Draw every figure whose JSON the page holds (see book/_ext/plotly_figures.py): in the page's colours, within its width,
// with its menus as form controls, which a keyboard reaches and which never cover the figure.
(() => {
  const get = (object, path) => path.match(/[^.[\]]+/g).reduce((inner, key) => inner?.[key], object);
  const set = (object, path, value) => {
    const keys = path.match(/[^.[\]]+/g), last = keys.pop();
    const owner = keys.reduce((inner, key) => (inner[key] ??= {}), object);
    if (value === null) delete owner[last];
    else owner[last] = value;
  };
  const axesOf = (layout) => [...new Set([...Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key)), "xaxis", "yaxis"])];

  // ---- Colours. Figures are made for white pages; on dark ones greys, black and white change places, hues
  // stay, the darkest of them lightened.
  const isDark = () => document.documentElement.dataset.theme === "dark";
  const ofPage = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const brush = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const isVisible = ([red, green, blue]) => {
    const linear = (part) => ((part / 255 + 0.055) / 1.055) ** 2.4;
    return 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue) > 0.18;
  };
  const inDark = (colour) => {
    if (Array.isArray(colour)) return colour.map(inDark);
    if (!CSS.supports("color", colour)) return colour;
    brush.clearRect(0, 0, 1, 1);
    brush.fillStyle = colour;
    brush.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = brush.getImageData(0, 0, 1, 1).data;
    const mixed = (share) => [red, green, blue].map((part) => Math.round(part + share * (255 - part)));
    const grey = Math.max(red, green, blue) - Math.min(red, green, blue) <= 24;
    const shown = grey ? [255 - red, 255 - green, 255 - blue] : [0, 0.2, 0.4, 0.6].map(mixed).find(isVisible) ?? mixed(0.6);
    return `rgba(${shown.join(", ")}, ${(alpha / 255).toFixed(3)})`;
  };

  // Every [path, colour] that a trace or a layout names itself.
  const named = (object, before = "") =>
    Object.entries(object).flatMap(([key, value]) => {
      const path = /^\d+$/.test(key) ? `${before.slice(0, -1)}[${key}]` : before + key;
      const texts = typeof value === "string" || (Array.isArray(value) && typeof value[0] === "string");
      if (texts) return /color(way)?$/.test(key) ? [[path, value]] : [];
      // What is written on the cells of a heat map has their colours behind it, not the page's.
      const elsewhere = ["template", "meta", "customdata", ...(object.type === "heatmap" ? ["textfont"] : [])];
      return value && typeof value === "object" && !elsewhere.includes(key) ? named(value, `${path}.`) : [];
    });

  // What to set in each theme: by path, of the traces a list with a value for each, of the layout one value.
  const coloursOf = ({ data, layout }) => {
    const page = "--pst-color-background"; // the theme's variables, read when they are needed
    const dark = { paper_bgcolor: page, plot_bgcolor: page, "font.color": "--pst-color-text-base" };
    const colorway = layout.colorway ?? layout.template?.layout?.colorway;
    if (colorway) dark.colorway = inDark(colorway);
    for (const [path, colour] of named(layout)) dark[path] ??= inDark(colour);
    const light = Object.fromEntries(Object.keys(dark).map((path) => [path, get(layout, path) ?? null]));
    const traces = { light: {}, dark: {} };
    data.forEach((trace, i) => {
      for (const [path, colour] of named(trace)) {
        (traces.light[path] ??= Array(data.length))[i] = colour;
        (traces.dark[path] ??= Array(data.length))[i] = inDark(colour);
      }
    });
    return { light: [traces.light, light], dark: [traces.dark, dark] };
  };

  const current = (colours, theme = isDark() ? "dark" : "light") => {
    const [traces, layout] = structuredClone(colours[theme]);
    for (const [path, colour] of Object.entries(layout)) if (colour?.startsWith?.("--")) layout[path] = ofPage(colour);
    return [traces, layout];
  };

  const colour = ({ data, layout }, colours, theme) => {
    const [traces, values] = current(colours, theme);
    for (const [path, list] of Object.entries(traces)) list.forEach((value, i) => set(data[i], path, value));
    for (const [path, value] of Object.entries(values)) set(layout, path, value);
  };

  // ---- Width. Titles break into lines that fit, and a legend of several lines makes the figure taller, not the plot lower.
  const ONE_LINE = 30;
  const wrapped = (text, width, size) => {
    if (text.includes("<")) return text;
    brush.font = `${size}px system-ui, sans-serif`;
    const lines = [""];
    for (const word of text.split(" ")) {
      const longer = `${lines.at(-1)} ${word}`.trim();
      if (brush.measureText(longer).width <= width || !lines.at(-1)) lines[lines.length - 1] = longer;
      else lines.push(word);
    }
    return lines.join("<br>");
  };

  const fit = (drawing, height, titles) => {
    const full = drawing._fullLayout, changes = {};
    const room = [["title.text", full._size.w, full.title?.font?.size ?? 16]];
    for (const axis of axesOf(drawing.layout)) {
      if (full[axis]) room.push([`${axis}.title.text`, full[axis]._length, full[axis].title?.font?.size ?? 14]);
    }
    for (const [path, width, size] of room) {
      const now = get(drawing.layout, path);
      if (typeof now !== "string") continue;
      if (titles[path]?.wrapped !== now) titles[path] = { plain: now }; // new, or changed by a menu
      titles[path].wrapped = wrapped(titles[path].plain, width, size);
      if (titles[path].wrapped !== now) changes[path] = titles[path].wrapped;
    }
    const legend = drawing.querySelector(".legend .bg")?.getBBox().height ?? 0;
    const tall = Math.round(height + Math.max(0, legend - ONE_LINE));
    if (Math.abs(tall - full.height) > 2) changes.height = tall;
    if (Object.keys(changes).length) Plotly.relayout(drawing, changes);
  };

  // ---- Menus.
  const plainText = (label) => new DOMParser().parseFromString(label, "text/html").body.textContent;
  const menuBar = (menus, drawing) => {
    const bar = document.createElement("div");
    bar.className = "figure-menus";
    for (const { buttons, active, name } of menus) {
      const label = document.createElement("label"), select = document.createElement("select");
      select.append(...buttons.map((button) => new Option(plainText(button.label))));
      select.selectedIndex = active ?? 0;
      select.addEventListener("change", () => {
        const { method = "restyle", args = [] } = buttons[select.selectedIndex];
        if (method !== "skip") Plotly[method](drawing, ...structuredClone(args));
      });
      label.append(name ?? "Show", " ", select);
      bar.append(label);
    }
    return bar;
  };

  const draw = (place, number) => {
    const figure = JSON.parse(place.querySelector("script").textContent);
    const { layout, config } = figure, drawing = document.createElement("div");
    const height = layout.height ?? 450, titles = {};
    layout.autosize = true;
    delete layout.width;
    layout.legend = { maxheight: 2000, ...layout.legend };
    if (layout.updatemenus) place.append(menuBar(layout.updatemenus, drawing));
    delete layout.updatemenus;
    place.append(drawing);
    const colours = coloursOf(figure);
    if (isDark()) colour(figure, colours);
    const inLight = () => {
      const copy = structuredClone({ data: drawing.data, layout: drawing.layout });
      colour(copy, colours, "light");
      return copy;
    };
    place.append(figureDownloads(drawing, number + 1, inLight));
    Plotly.newPlot(drawing, figure.data, layout, config).then(() => {
      const settle = () => {
        // The figure's description says what is drawn; single ticks and numbers read aloud do not.
        for (const svg of drawing.querySelectorAll("svg.main-svg")) svg.setAttribute("aria-hidden", "true");
        fit(drawing, height, titles);
      };
      drawing.on("plotly_afterplot", settle);
      settle();
      let width = place.clientWidth;
      new ResizeObserver(() => {
        if (!place.clientWidth || place.clientWidth === width) return;
        width = place.clientWidth;
        Plotly.Plots.resize(drawing);
      }).observe(place);
    });
    return () => Plotly.update(drawing, ...current(colours));
  };

  document.addEventListener("DOMContentLoaded", () => {
    const recolour = [...document.querySelectorAll(".plotly-figure")].map(draw);
    let dark = isDark();
    new MutationObserver(() => {
      if (dark === isDark()) return;
      dark = isDark();
      for (const one of recolour) one();
    }).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  });
})();
