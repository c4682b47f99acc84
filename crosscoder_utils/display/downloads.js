// What the explorer and the figures of the book are saved with.
window.savedFiles = (() => {
  // A spreadsheet takes a text that begins like this for a formula, and would run it; an apostrophe before it says "text".
  const isFormula = (value) => typeof value === "string" && /^[=+\-@\t\r]/.test(value) && Number.isNaN(Number(value));
  const cell = (value) => {
    const text = isFormula(value) ? `'${value}` : Number.isNaN(value) ? "" : String(value ?? "");
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return {
    csv: (rows) => rows.map((row) => `${row.map(cell).join(",")}\r\n`).join(""), // lists of numbers and texts, the names first
    save: (content, type, name) => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([content], { type }));
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    },
  };
})();
