// The links below a figure that save its data as CSV and its drawing as SVG. Both are made in the page, from what is drawn.
(() => {
  const TYPES = {
    f8: Float64Array, f4: Float32Array, i1: Int8Array, i2: Int16Array, i4: Int32Array,
    u1: Uint8Array, u2: Uint16Array, u4: Uint32Array,
  };

  // Values as a list, or a list of lists: Plotly's JSON holds most arrays in base64.
  const listed = (values) => {
    if (!values?.bdata) return values ? Array.from(values) : [];
    const bytes = Uint8Array.from(atob(values.bdata), (character) => character.charCodeAt(0));
    const short = values.dtype === "f4" ? (value) => Number(value.toPrecision(7)) : (value) => value; // not 0.10000000149
    const flat = Array.from(new TYPES[values.dtype](bytes.buffer), short);
    const wide = Number(String(values.shape ?? "").split(",")[1]);
    return wide ? Array.from({ length: flat.length / wide }, (_, i) => flat.slice(i * wide, (i + 1) * wide)) : flat;
  };

  const plain = (text) => new DOMParser().parseFromString(text.replace(/<br>/g, " "), "text/html").body.textContent;
  const titleOf = (layout, name) => plain(layout[name.replace(/^([xy])/, "$1axis")]?.title?.text ?? "");

  // One record per value of a trace. `meta.customdata` has the names of what `customdata` holds.
  const records = (trace, layout) => {
    const shared = {
      trace: plain(trace.name ?? ""), x_title: titleOf(layout, trace.xaxis ?? "x"), y_title: titleOf(layout, trace.yaxis ?? "y"),
    };
    const [x, y] = [listed(trace.x), listed(trace.y)];
    if (trace.z) return listed(trace.z).flatMap((row, i) => listed(row).map((z, j) => ({ ...shared, x: x[j], y: y[i], z })));
    const columns = { x, y };
    for (const error of ["error_x", "error_y"]) {
      if (!trace[error]?.array || trace[error].visible === false) continue;
      columns[error] = listed(trace[error].array);
      if (trace[error].arrayminus) columns[`${error}_minus`] = listed(trace[error].arrayminus);
    }
    listed(trace.customdata).forEach((values, i) =>
      (trace.meta?.customdata ?? []).forEach((name, j) => {
        const value = listed(values)[j];
        (columns[name] ??= [])[i] = typeof value === "string" ? plain(value) : value;
      }),
    );
    return x.map((_, i) => ({ ...shared, ...Object.fromEntries(Object.entries(columns).map(([name, all]) => [name, all[i]])) }));
  };

  const ORDER = ["trace", "x", "y", "z", "error_x", "error_x_minus", "error_y", "error_y_minus"];
  const cell = (value) => (/[",\r\n]/.test(value ?? "") ? `"${value.replace(/"/g, '""')}"` : `${value ?? ""}`);
  const csv = ({ data, layout }) => {
    // What does not answer to the pointer guides the eye: bands, diagonals.
    const rows = data.filter((trace) => trace.hoverinfo !== "skip").flatMap((trace) => records(trace, layout));
    const found = [...new Set(rows.flatMap(Object.keys))], titles = ["x_title", "y_title"];
    const others = found.filter((name) => ![...ORDER, ...titles].includes(name));
    const names = [...ORDER.filter((name) => found.includes(name)), ...others, ...titles];
    return [names, ...rows.map((row) => names.map((name) => row[name]))].map((row) => `${row.map(cell).join(",")}\r\n`).join("");
  };

  const save = (text, filename) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = filename;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  // The bar of links. `number` counts the page's figures from 1; `figure` gives data and layout in the colours of a white page.
  window.figureDownloads = (drawing, number, figure) => {
    const page = location.pathname.split("/").at(-1).replace(/\.html$/, ""), filename = `${page}_figure_${number}`;
    const formats = {
      CSV: () => save(csv(drawing), `${filename}.csv`),
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
