// The links below a figure that save its data as CSV and its drawing as SVG. Both are made in the page, from what is drawn.
(() => {
  const TYPES = {
    f8: Float64Array, f4: Float32Array, i1: Int8Array, i2: Int16Array, i4: Int32Array,
    u1: Uint8Array, u1c: Uint8ClampedArray, u2: Uint16Array, u4: Uint32Array,
  };

  // Values as a list, or a list of lists: Plotly's JSON holds most arrays in base64.
  const listed = (values) => {
    if (values === undefined || values === null) return [];
    if (values instanceof Float32Array) return Array.from(values, (value) => Number(value.toPrecision(7))); // not 0.10000000149
    if (!values.bdata) return ArrayBuffer.isView(values) ? Array.from(values) : [values].flat();
    const bytes = Uint8Array.from(atob(values.bdata), (character) => character.charCodeAt(0));
    const flat = listed(new TYPES[values.dtype](bytes.buffer));
    const wide = Number(String(values.shape ?? "").split(",")[1]);
    return wide ? Array.from({ length: flat.length / wide }, (_, i) => flat.slice(i * wide, (i + 1) * wide)) : flat;
  };

  // In a body of its own, where a blank at the beginning counts.
  const parsed = (html) => new DOMParser().parseFromString(`<body>${html}`, "text/html").body.textContent;
  const plain = (text) => parsed(String(text).replace(/<br>/g, " "));
  const said = (value) => (typeof value === "string" ? plain(value) : value);

  // ---- What a trace's axes are called: axes that match share a title, and panels have theirs above them.
  const axisOf = (layout, id) => layout[id.replace(/^([xy])/, "$1axis")] ?? {};
  const titleOf = (layout, id) => {
    const ids = Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key)).map((key) => key.replace("axis", ""));
    const root = (one) => axisOf(layout, one).matches ?? one;
    const titles = [id, ...ids.filter((one) => root(one) === root(id))].map((one) => axisOf(layout, one).title?.text);
    return plain(titles.find(Boolean) ?? "");
  };
  const panelOf = (layout, x, y) => {
    if (!layout.xaxis2 && !layout.yaxis2) return null;
    const [left, right] = axisOf(layout, x).domain ?? [0, 1], top = axisOf(layout, y).domain?.[1] ?? 1, near = 0.01;
    const above = (note) => note.xref === "paper" && note.yref === "paper" && Math.abs(note.y - top) < near;
    const note = (layout.annotations ?? []).find((one) => above(one) && one.x > left - near && one.x < right + near);
    return note ? plain(note.text) : null;
  };

  // ---- One record per value of a trace. `meta.customdata` has the names of what `customdata` holds.
  const positions = (trace, axis, length) => { // those that are not given count on from the first, as they are drawn
    const given = listed(trace[axis]);
    if (given.length) return given.map(said);
    return Array.from({ length }, (_, i) => (trace[`${axis}0`] ?? 0) + i * (trace[`d${axis}`] ?? 1));
  };
  const errorsOf = (trace) => {
    const columns = {};
    for (const error of ["error_x", "error_y"]) {
      if (!trace[error]?.array || trace[error].visible === false) continue;
      columns[error] = listed(trace[error].array);
      if (trace[error].arrayminus) columns[`${error}_minus`] = listed(trace[error].arrayminus);
    }
    return columns;
  };
  const customOf = (trace) => {
    const columns = {};
    listed(trace.customdata).forEach((values, i) =>
      listed(values).forEach((value, j) => {
        (columns[trace.meta?.customdata?.[j] ?? `customdata_${j + 1}`] ??= [])[i] = said(value);
      }),
    );
    return columns;
  };
  const records = (trace, layout) => {
    const [x_axis, y_axis] = [trace.xaxis ?? "x", trace.yaxis ?? "y"];
    const name = plain(trace.name ?? ""), panel = panelOf(layout, x_axis, y_axis);
    const shared = {
      trace: name, ...(panel && panel !== name && { panel }), // unless the trace is called like its panel
      x_title: titleOf(layout, x_axis), y_title: titleOf(layout, y_axis),
    };
    if (trace.z) {
      const rows = listed(trace.z).map(listed), [x, y] = [positions(trace, "x", rows[0]?.length), positions(trace, "y", rows.length)];
      return rows.flatMap((row, i) => row.map((z, j) => ({ ...shared, x: x[j], y: y[i], z })));
    }
    const length = Math.max(listed(trace.x).length, listed(trace.y).length);
    const columns = { x: positions(trace, "x", length), y: positions(trace, "y", length), ...errorsOf(trace), ...customOf(trace) };
    const named = Object.entries(columns);
    return Array.from({ length }, (_, i) => ({ ...shared, ...Object.fromEntries(named.map(([name, all]) => [name, all[i]])) }));
  };

  const ORDER = ["trace", "panel", "x", "y", "z", "error_x", "error_x_minus", "error_y", "error_y_minus"];
  const csv = ({ data, layout }) => {
    // What does not answer to the pointer guides the eye: bands, diagonals.
    const rows = data.filter((trace) => trace.hoverinfo !== "skip").flatMap((trace) => records(trace, layout));
    const found = [...new Set(rows.flatMap(Object.keys))], titles = ["x_title", "y_title"];
    const others = found.filter((name) => ![...ORDER, ...titles].includes(name));
    const names = [...ORDER.filter((name) => found.includes(name)), ...others, ...titles];
    return savedFiles.csv([names, ...rows.map((row) => names.map((name) => row[name]))]);
  };

  // The bar of links. `number` counts the page's figures from 1; `figure` gives data and layout in the colours of a white page.
  window.figureDownloads = (drawing, number, figure) => {
    const page = location.pathname.split("/").at(-1).replace(/\.html$/, ""), filename = `${page}_figure_${number}`;
    const formats = {
      CSV: () => savedFiles.save(csv(drawing), "text/csv", `${filename}.csv`),
      SVG: () => {
        const { width, height } = drawing._fullLayout;
        Plotly.downloadImage(figure(), { format: "svg", filename, width, height });
      },
    };
    const bar = document.createElement("div");
    bar.className = "figure-downloads";
    bar.append("Download");
    for (const [format, download] of Object.entries(formats)) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = format;
      button.setAttribute("aria-label", `Download figure ${number} as ${format}`);
      button.addEventListener("click", download);
      bar.append(button);
    }
    return bar;
  };
})();
